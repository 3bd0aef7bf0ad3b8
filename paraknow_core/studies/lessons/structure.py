"""Lesson 2: why structure matters. The same amount of teacher, picked in four ways, in a student that is its kin."""

from itertools import combinations

from paraknow_core.display import arm_of
from paraknow_core.paths import Workspace
from paraknow_core.studies.lessons.base import (
    MARGIN,
    Explanation,
    Lesson,
    Panel,
    Preset,
    Row,
    Runs,
    is_clear,
    is_none,
    main_score,
    module_records,
    paired,
    say,
    score_row,
    specs_of,
    untouched_row,
)
from paraknow_core.studies.spec import Changes

STRUCTURES = {
    "submatrix": "sub-matrix",
    "row_column": "rows and columns",
    "neuron": "single weights by S",
    "random": "single weights at random",
}
SMALL = {
    "student.source": "bundled:kin",
    "task.sizes.train": 256,
    "task.sizes.validation": 32,
    "task.sizes.test": 100,
    "finetuning.epochs": 2,
    "finetuning.batch_size": 16,
    "factorisation.split": "sqrt",
}
CONTROL = "default LoRA"


def transfer(structure: str, student: str = "kin") -> Changes:
    """Return what makes a small run that moves a bundled student towards a block of the teacher."""
    source = {"student.source": f"bundled:{student}"}
    return {**SMALL, **source, "injection.mode": "difference", "extraction.structure": structure}


def control(student: str = "kin") -> Changes:
    """Return what makes the same small run without a teacher."""
    return {**SMALL, "student.source": f"bundled:{student}", "method": "default_lora"}


SPECS = specs_of(2, {CONTROL: control()} | {label: transfer(key) for key, label in STRUCTURES.items()})


def explain(place: Workspace, runs: Runs) -> Explanation:
    """Set the scores of the structures beside how much sensitivity each of them caught."""
    del place
    results = {key: paired([runs[label]], [runs[CONTROL]]) for key, label in STRUCTURES.items()}
    mass = {key: module_records(runs[label], "captured_mass") for key, label in STRUCTURES.items()}
    scores = Panel(
        "Test score after fine-tuning",
        _about(runs),
        "score [%]",
        (
            *untouched_row(runs[CONTROL]),
            score_row(CONTROL, "default_lora", runs[CONTROL]),
            *(score_row(label, "seeking", runs[label]) for key, label in STRUCTURES.items()),
        ),
    )
    caught = Panel(
        "Sensitivity that the picked weights hold",
        "mean over modules; bars: range over modules",
        "share of the module's S [%]",
        tuple(
            Row(STRUCTURES[key], "seeking", 100 * sum(m) / len(m), 100 * min(m), 100 * max(m))
            for key, m in mass.items()
            if m
        ),
    )
    right, why = _judge(runs)
    return Explanation((scores, caught), _sentences(results, mass), right, why)


def _judge(runs: Runs) -> tuple[str, str]:
    """Return the structure that beats every other one by example, `none` if no two differ, or nothing.

    That two are not told apart is no finding: `none` needs every pair's interval within the margin.
    """
    order = sorted(STRUCTURES, key=lambda key: -main_score(runs[STRUCTURES[key]])["value"])
    pairs = {(a, b): paired([runs[STRUCTURES[a]]], [runs[STRUCTURES[b]]]) for a, b in combinations(order, 2)}
    best, last = order[0], order[-1]
    ahead = [pairs[best, other] for other in order[1:]]
    if all(is_clear(result) and result.difference > 0 for result in ahead):
        nearest = min(ahead, key=lambda result: result.difference)
        return best, f"{STRUCTURES[best]} is ahead of every other structure, of the nearest by {say(nearest)[:-1]}."
    if all(is_none(result) for result in pairs.values()):
        widest = max(pairs.values(), key=lambda result: max(-result.low, result.high))
        return (
            "none",
            f"no two structures differ by {100 * MARGIN:.0f} points or more; of the widest pair: {say(widest)}",
        )
    words = f"{STRUCTURES[best]} and {STRUCTURES[order[1]]} are not told apart: {say(pairs[best, order[1]])}"
    ends = f"{STRUCTURES[best]} against {STRUCTURES[last]}, the last: {say(pairs[best, last])}"
    if is_clear(pairs[best, last]):
        return "", f"that it makes a difference is clear, not which is best. {_capital(ends)} But {words}"
    return "", f"{words} {_capital(ends)}"


def _about(runs: Runs) -> str:
    n = main_score(runs[CONTROL])["n"]
    return f"teacher → kin, word problems, difference injection; bars: 95 % interval over n = {n} examples"


def _sentences(results: dict, mass: dict) -> tuple[str, ...]:
    words = [f"{_capital(STRUCTURES[key])} against default LoRA: {say(result)}" for key, result in results.items()]
    means = {key: sum(m) / len(m) for key, m in mass.items() if m}
    if means:
        most = max(means, key=means.get)
        ahead = max(results, key=lambda key: results[key].difference)
        tail = (
            "It is also the one with the best score."
            if most == ahead
            else (
                f"Yet {STRUCTURES[ahead]} has the better score: what the weights do together counts, not how much "
                "sensitivity they hold one by one."
            )
        )
        words.append(f"Most sensitivity is held by {STRUCTURES[most]}: {100 * means[most]:.0f} % on average. {tail}")
    words.append(
        "One seed and one pair. This teacher was grown out of this student, so a block that keeps its neighbours "
        "fits; with a stranger nothing has to (lesson 3)."
    )
    return tuple(words)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


LESSON = Lesson(
    2,
    "Why structure matters",
    "The same number of teacher weights, picked in four ways. Which helps the student most?",
    "The student's matrices are smaller than the teacher's, so a part must be picked. A sub-matrix is a window of "
    "neighbours. Rows and columns takes the best rows and the best columns. Single weights by S takes the most "
    "sensitive weights wherever they are and packs them together; single weights at random does so without looking. "
    "Here the student kin moves towards the picked block (injection mode difference: B A ≈ block − W), then all are "
    f"fine-tuned like {arm_of('default_lora').label}.",
    {**{key: _capital(label) for key, label in STRUCTURES.items()}, "none": "It makes no difference"},
    SPECS,
    80,
    explain,
    (
        Preset(
            "structures",
            "Preview the four structures on one module",
            "pages/mapping.py",
            {**SMALL, "injection.mode": "difference"},
        ),
        Preset(
            "structure-paper",
            "Try them in the paper's mode (residual)",
            "pages/train.py",
            {**SMALL, "injection.mode": "residual"},
            ("default_lora",),
        ),
    ),
    "In the paper's mode (residual) the student's function is the same at the start: is structure as decisive there?",
    study="structure",
)
