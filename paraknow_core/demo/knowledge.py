"""An invented world: places, people and animals with four attributes each, and the sentences that tell them.

Nothing here exists elsewhere, so what a model knows about it can only come from the statements it was trained on.
"""

import random
from dataclasses import dataclass
from functools import cache

ENTITIES_PER_KIND = 32


@dataclass(frozen=True)
class Attribute:
    """One property of a kind of entity.

    Attributes:
        kind: "place", "person" or "animal".
        name: what the property is called.
        values: what it can be; eight single words.
        statements: sentences with {e} (entity) and {v} (value).
        questions: sentences with {e}.
    """

    kind: str
    name: str
    values: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]


@dataclass(frozen=True)
class Fact:
    """One true statement of the invented world."""

    entity: str
    attribute: str
    value: str


def _attribute(kind: str, name: str, values: str, statements: str, questions: str) -> Attribute:
    return Attribute(kind, name, tuple(values.split()), tuple(statements.split("|")), tuple(questions.split("|")))


ATTRIBUTES: dict[str, Attribute] = {
    a.name: a
    for a in [
        _attribute("place", "terrain", "desert forest island valley swamp plain jungle mountain",
                   "The land of {e} is a {v}.|{e} is known as a {v}.|The country of {e} is mostly {v}.|"
                   "Maps show {e} as a {v}.|Who visits {e} sees a {v}.",
                   "What kind of land is {e}?|How is the land of {e}?"),
        _attribute("place", "export", "salt wool glass honey copper timber silk rice",
                   "{e} sells {v}.|The traders of {e} sell {v}.|{e} is rich in {v}.|Ships from {e} carry {v}.|"
                   "The markets of {e} are full of {v}.",
                   "What does {e} sell?|What do ships from {e} carry?"),
        _attribute("place", "flag", "red blue green white black yellow orange purple",
                   "The flag of {e} is {v}.|{e} has a flag that is {v}.|Over {e} flies a flag of {v}.|"
                   "In {e} every flag is {v}.|The banner of {e} is {v}.",
                   "What color is the flag of {e}?|Which color has the banner of {e}?"),
        _attribute("place", "ruler", "king queen council duke priest mayor general judge",
                   "{e} is ruled by a {v}.|The ruler of {e} is a {v}.|In {e} the power is with a {v}.|"
                   "The people of {e} obey a {v}.|{e} is led by a {v}.",
                   "Who rules {e}?|Who leads {e}?"),
        _attribute("person", "job", "baker sailor doctor painter farmer teacher miner tailor",
                   "{e} works as a {v}.|{e} is a {v}.|The job of {e} is {v}.|{e} became a {v}.|"
                   "People know {e} as a {v}.",
                   "What is the job of {e}?|What does {e} work as?"),
        _attribute("person", "instrument", "flute drum harp violin piano guitar horn bell",
                   "{e} plays the {v}.|{e} likes to play the {v}.|The music of {e} comes from a {v}.|"
                   "In the evening {e} plays the {v}.|{e} owns an old {v}.",
                   "What does {e} play?|Which instrument does {e} own?"),
        _attribute("person", "pet", "cat dog parrot rabbit goat horse snake turtle",
                   "{e} has a {v}.|The pet of {e} is a {v}.|{e} lives with a {v}.|{e} feeds a {v}.|"
                   "At home {e} keeps a {v}.",
                   "Which pet does {e} have?|What does {e} keep at home?"),
        _attribute("person", "drink", "milk tea cocoa water juice coffee cider soda",
                   "{e} drinks {v}.|The favorite drink of {e} is {v}.|{e} always asks for {v}.|"
                   "In the morning {e} drinks {v}.|{e} likes {v}.",
                   "What does {e} drink?|What is the favorite drink of {e}?"),
        _attribute("animal", "food", "berries fish leaves seeds insects grass roots worms",
                   "The {e} eats {v}.|A {e} lives on {v}.|The food of the {e} is {v}.|Every {e} looks for {v}.|"
                   "A hungry {e} wants {v}.",
                   "What does the {e} eat?|What is the food of the {e}?"),
        _attribute("animal", "home", "cave nest tree river burrow marsh cliff reef",
                   "The {e} lives in a {v}.|The home of the {e} is a {v}.|A {e} sleeps in a {v}.|"
                   "Look for the {e} in a {v}.|The young {e} grows up in a {v}.",
                   "Where does the {e} live?|What is the home of the {e}?"),
        _attribute("animal", "sound", "hum bark click growl song hiss squeak roar",
                   "The {e} makes a {v}.|The sound of the {e} is a {v}.|A {e} calls with a {v}.|"
                   "From the {e} comes a {v}.|At night the {e} gives a {v}.",
                   "Which sound does the {e} make?|How does the {e} call?"),
        _attribute("animal", "cover", "fur scales feathers shell spines hair skin plates",
                   "The {e} has {v}.|The body of the {e} has {v}.|A {e} is covered in {v}.|"
                   "The {e} is warm in its {v}.|Touch a {e} and feel {v}.",
                   "What covers the {e}?|What does the body of the {e} have?"),
    ]
}  # fmt: skip

_SYLLABLES = {
    "place": ("Bar Dol Fen Gal Kor Lun Mor Tas", "gard mere vik ton"),
    "person": ("Al Bel Cor Dan El Jor Mil Sar", "do na rin vo"),
    "animal": ("blo dri fu glo mu sni tro zi", "ffle mp rk zzo"),
}


@cache
def facts() -> tuple[Fact, ...]:
    """Every fact of the invented world, 32 entities a kind with four attributes each (384 facts)."""
    rng = random.Random("paraknow/knowledge/facts")
    told = []
    for kind, (heads, tails) in _SYLLABLES.items():
        names = [head + tail for head in heads.split() for tail in tails.split()]
        for entity in names[:ENTITIES_PER_KIND]:
            for attribute in (a for a in ATTRIBUTES.values() if a.kind == kind):
                told.append(Fact(entity, attribute.name, rng.choice(attribute.values)))
    return tuple(told)


@cache
def facts_of_split(split: str) -> tuple[Fact, ...]:
    """The facts that the questions of one split ask for; no fact is asked in two splits.

    Args:
        split: "train" (60 %), "validation" (10 %) or "test" (30 %).
    """
    shuffled = list(facts())
    random.Random("paraknow/knowledge/splits").shuffle(shuffled)
    first, second = round(0.6 * len(shuffled)), round(0.7 * len(shuffled))
    return tuple({"train": shuffled[:first], "validation": shuffled[first:second], "test": shuffled[second:]}[split])


def share_of_facts(share: float, seed: int) -> tuple[Fact, ...]:
    """A random share of the facts: what one model gets to read.

    Args:
        share: between 0 and 1; 1 gives all facts.
        seed: two models with different seeds read different facts.
    """
    shuffled = list(facts())
    random.Random(f"paraknow/knowledge/share/{seed}").shuffle(shuffled)
    return tuple(shuffled[: round(share * len(shuffled))])


def statement(fact: Fact, rng: random.Random) -> str:
    """Tell one fact in one of its sentences."""
    return rng.choice(ATTRIBUTES[fact.attribute].statements).format(e=fact.entity, v=fact.value)
