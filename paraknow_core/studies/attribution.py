"""Where a gain comes from: the way from default LoRA to the method, one control at a time. Needs numpy and scipy."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from paraknow_core.catalogue import BASELINE as BASE
from paraknow_core.catalogue import PAPER_METHOD as METHOD
from paraknow_core.display import SHARE
from paraknow_core.errors import RunError, ShapeError
from paraknow_core.ops.verdict import Verdict, adjust, judge, pooled_spread, require_finite, within_family
from paraknow_core.studies.words import interval_text, points_text, size_text, unit_text

# Each arm has one thing more than the one before it, so that the steps add up to the whole gain.
CHAIN = (
    (BASE, ""),
    ("spectrum_matched", "scale"),
    ("permuted", "structure"),
    ("wrong_task", "teacher content"),
    (METHOD, "task"),
)
CHECKS = (
    ("trained against untrained teacher", METHOD, "untrained_teacher"),
    ("sensitive against random block", METHOD, "random_offset"),
    ("block against itself shuffled", METHOD, "permuted"),
    ("structure, from a random block", "random_offset", "spectrum_matched"),
)
_NEEDED, _CONTENT = 2, 3  # how many of the checks content cannot do without; how many bear on it


@dataclass(frozen=True)
class Step:
    """One difference of two arms.

    Attributes:
        name: what separates them.
        arm, against: the arms.
        result: of arm - against.
    """

    name: str
    arm: str
    against: str
    result: Verdict


@dataclass(frozen=True)
class Attribution:
    """Where the gain over default LoRA comes from.

    Attributes:
        gain: method - default LoRA, judged by itself, or in the family of its study.
        steps: their differences add up to the gain's; judged as one family (Holm).
        checks: controls beside the waterfall, each judged by itself.
        content: whether teacher content is claimed.
        alike: arms that are the method itself on this pair of models: they tell nothing apart.
        missing: other arms that were not there; a step without its arm is joined with the next one.
        paragraph: all of this in plain words.
    """

    gain: Step
    steps: tuple[Step, ...]
    checks: tuple[Step, ...]
    content: bool
    missing: tuple[str, ...]
    paragraph: str
    alike: tuple[str, ...] = ()


def attribute(
    scores: Mapping[str, ArrayLike],
    margin: float,
    *,
    method: str = METHOD,
    unit: str | None = SHARE,
    gain: Verdict | None = None,
    alike: Sequence[str] = (),
) -> Attribution:
    """Take a method's gain over default LoRA apart.

    Args:
        scores: (seeds, examples) of each arm, by its name: `default_lora` and the method at least; the same seeds and
            examples in the same order in all; higher is better.
        margin: differences below it do not matter; in the scores' unit.
        method: the arm that the study is about.
        unit: of the scores, for the words.
        gain: of the method over default LoRA, as it was judged among all arms: its p-value holds for the word here,
            so that a study does not say two words of one difference.
        alike: arms that were run, and left out of the scores because they are the method itself on this pair.

    Returns:
        Steps: scale (a random start of the block's singular values against none), structure (the block with rows and
        columns shuffled: its entries, no place for them), teacher content (a whole block of the trained teacher, picked
        for another task), task (picked for its own). A step is claimed if it is "better" after Holm over the steps.

        Teacher content is claimed only if the method beats *both* an untrained teacher and a random block of the
        trained one, and, where that arm is there, its own block shuffled. Each alone has another explanation: trained
        weights have another scale than random ones, and sensitive blocks are larger than random ones, so that either
        difference may be scale or structure. All must hold, so each is tested at the full 5 % (an intersection-union
        test): the claim is false in at most 5 % of studies in which any one of them does nothing.

    Raises:
        RunError: default LoRA or the method is missing; ShapeError, NumericError: as `paired_verdict`.
    """
    tables = {name: np.atleast_2d(np.asarray(table, dtype=np.float64)) for name, table in scores.items()}
    names = {METHOD: method}
    lacking = [name for name in (BASE, method) if name not in tables]
    if lacking:
        raise RunError(f"attribution: no scores of {' and '.join(lacking)}; a gain needs both; run the missing arms")
    chain = [(names.get(arm, arm), step) for arm, step in CHAIN]
    checks = [(name, names.get(arm, arm), names.get(other, other)) for name, arm, other in CHECKS]
    wanted = list(dict.fromkeys([*(arm for arm, _ in chain), *(arm for _, *pair in checks for arm in pair)]))
    lost = tuple(arm for arm in wanted if arm not in tables)
    alike, missing = (tuple(arm for arm in lost if (arm in alike) == same) for same in (True, False))
    used = {arm: tables[arm] for arm in wanted if arm in tables}
    if len({table.shape for table in used.values()}) > 1:
        shapes = ", ".join(f"{arm} {len(table)} x {table.shape[1]}" for arm, table in used.items())
        raise ShapeError(
            f"attribution: arms of different seeds or examples ({shapes}); all need the same; keep those that all have"
        )
    several = len(used) > 2 and len(used[BASE]) > 1
    finite = [require_finite(table) for table in used.values()]
    spread = pooled_spread(finite, paired=True) if several else None

    def judged(pairs: list[tuple[str, str, str]], comparisons: int = 1) -> list[Step]:
        a, b = (np.stack([used[pair[side]] for pair in pairs]) for side in (1, 2))
        results = judge(a, b, margin, spread=spread, comparisons=comparisons)
        results = adjust(results) if len(pairs) == comparisons > 1 else results
        return [Step(*pair, result) for pair, result in zip(pairs, results, strict=True)]

    (whole,) = judged([("gain", method, BASE)], gain.comparisons if gain else 1)
    if gain is not None:
        whole = replace(whole, result=within_family(whole.result, gain.p_adjusted, gain.comparisons))
    pairs = _steps(chain, used)
    steps = tuple(judged(pairs, len(pairs)))
    there = [check for check in checks if check[1] in used and check[2] in used]
    beside = tuple(judged(there)) if there else ()
    found = {step.name: step.result.verdict == "better" for step in beside}
    bearing = [name for name, *_ in CHECKS[:_CONTENT]]
    content = all(found.get(name, False) for name in bearing[:_NEEDED]) and all(found.get(n, True) for n in bearing)
    paragraph = _paragraph(whole, steps, beside, content, missing, alike, unit)
    return Attribution(whole, steps, beside, content, missing, paragraph, alike)


def _steps(chain: Iterable[tuple[str, str]], there: Mapping[str, object]) -> list[tuple[str, str, str]]:
    """Return (name, arm, against) from each arm that is there to the next; what lies between is one step."""
    steps, before, between = [], "", []
    for arm, step in chain:
        between += [step] if step else []
        if arm in there:
            if before:
                steps.append((" and ".join(filter(None, (", ".join(between[:-1]), between[-1]))), arm, before))
            before, between = arm, []
    return steps


def _paragraph(
    gain: Step,
    steps: tuple[Step, ...],
    checks: tuple[Step, ...],
    content: bool,
    missing: tuple[str, ...],
    alike: tuple[str, ...],
    unit: str | None,
) -> str:
    """Say it; each word follows from a verdict."""
    name = unit_text(unit)
    says = {
        "better": "scores {size} more than default LoRA",
        "worse": "scores {size} less than default LoRA",
        "equivalent": "scores neither more nor less than default LoRA, within the declared {margin}",
        "undecided": "shows no gain over default LoRA that could be told from chance",
    }
    parts = [f"{gain.arm.replace('_', ' ').capitalize()} {_fill(says[gain.result.verdict], gain.result, unit, name)}."]
    phrases = {
        "better": "adds {size}",
        "worse": "costs {size}",
        "equivalent": "adds and costs nothing beyond {margin}",
        "undecided": "is undecided, {difference}",
    }
    parts += [
        f"{_capital(step.name)} {_fill(phrases[step.result.verdict], step.result, unit, name)}." for step in steps
    ]
    bearing = [step for step in checks if step.name in {name for name, *_ in CHECKS[:_CONTENT]}]
    told = "; ".join(
        f"{step.name}: {_fill(step.result.verdict + ', {difference}', step.result, unit, name)}" for step in bearing
    )
    lacking = [against for _, _, against in CHECKS[:_NEEDED] if against in missing]
    same = [against for _, _, against in CHECKS[:_NEEDED] if against in alike]
    if content:
        parts.append(f"The teacher's content counts: {told}.")
    else:
        why = (
            f"no run of {' or '.join(lacking).replace('_', ' ')}"
            if lacking
            else f"{' and '.join(same).replace('_', ' ')} cannot differ from the method"
            if same
            else "that takes each of these to be better"
        )
        parts.append(f"That the teacher's content counts is not shown ({why}){': ' if told else ''}{told}.")
    if alike:
        names = ", ".join(alike).replace("_", " ")
        parts.append(f"Not told apart from the method on this pair, where they cannot differ from it: {names}.")
    if missing:
        parts.append(f"Not run: {', '.join(missing).replace('_', ' ')}.")
    return " ".join(parts)


def _fill(phrase: str, result: Verdict, unit: str | None, name: str) -> str:
    """Put the numbers of a result into a phrase, its interval behind it, and what could not be seen."""
    sizes = {"size": size_text(abs(result.difference), unit), "margin": size_text(result.margin, unit)}
    sizes["difference"] = points_text(result.difference, unit)
    text = phrase.format(**{key: f"{value} {name}".strip() for key, value in sizes.items()})
    interval = "no interval" if result.low is None else interval_text(result.low, result.high, unit)
    more = ""
    if result.verdict == "undecided":
        more = f"; smallest detectable {size_text(result.smallest_detectable, unit)}"
    elif result.verdict == "equivalent":  # rests on the narrower interval
        interval = f"90 %: {interval_text(result.equivalence_low, result.equivalence_high, unit)}"
    elif result.within_margin:
        more = "; below the declared margin"
    return f"{text} ({interval}{more})"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
