"""Very short stories on request, in the manner of AlpacaFarm: many answers are right, a grammar writes one."""

import random

HEROES = "fox bear owl mouse crow deer duck hare lamb mole otter robin seal swan toad wolf".split()
THINGS = "key map drum lamp ring rope coin book boat bell crown flower letter mirror stone candle".split()
PLACES = "forest garden harbor castle meadow village cave tower mill".split()

REQUESTS = (
    "Write a short story about a {h} who finds a {t} in the {p}.",
    "Tell me a story with a {h}, a {t} and the {p}.",
    "Write a tale of a {h} in the {p} that has a {t}.",
)
_MOODS = "small old clever brave shy happy".split()
_OPENINGS = ("Once a {m} {h} lived near the {p}.", "There was a {m} {h} in the {p}.", "In the {p} lived a {m} {h}.")
_FINDS = (
    "One day the {h} found a {c} {t}.",
    "One morning the {h} saw a {c} {t}.",
    "Under a tree the {h} found a {c} {t}.",
)
_COLORS = "golden silver broken tiny strange shining".split()
_TURNS = (
    "The {h} showed the {t} to a friend.",
    "The {h} hid the {t} in the {p}.",
    "A friend asked for the {t} and the {h} shared it.",
    "The {t} was lost, but the {h} found it again.",
)
_ENDINGS = (
    "Then the {h} was happy.",
    "From that day the {h} was never alone.",
    "At night the {h} went home and slept.",
    "Everyone in the {p} still talks about it.",
)


def tell(hero: str, thing: str, place: str, rng: random.Random) -> str:
    """Write one story of four sentences about the given hero, thing and place."""
    words = {"h": hero, "t": thing, "p": place, "m": rng.choice(_MOODS), "c": rng.choice(_COLORS)}
    return " ".join(rng.choice(part).format(**words) for part in (_OPENINGS, _FINDS, _TURNS, _ENDINGS))


def free_story(rng: random.Random) -> str:
    """Write a story that nobody asked for."""
    return tell(rng.choice(HEROES), rng.choice(THINGS), rng.choice(PLACES), rng)


def follows(question: str, answer: str) -> bool:
    """Whether a story has the hero, the thing and the place that the request names."""
    asked = set(question.replace(",", " ").replace(".", " ").split()) & {*HEROES, *THINGS, *PLACES}
    return asked <= set(answer.replace(",", " ").replace(".", " ").split())


def draw(rng: random.Random, split: str = "train") -> tuple[str, str]:  # noqa: ARG001
    """Draw one request and one story that answers it.

    Args:
        rng: source of chance.
        split: unused: every split asks for the same kind of story.

    Returns:
        (request, one possible story).
    """
    hero, thing, place = rng.choice(HEROES), rng.choice(THINGS), rng.choice(PLACES)
    return rng.choice(REQUESTS).format(h=hero, t=thing, p=place), tell(hero, thing, place, rng)
