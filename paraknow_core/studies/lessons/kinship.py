"""Lesson 3: kin and strangers. The same transfer into two students of one shape."""

from paraknow_core.ops.statistics import PairedResult
from paraknow_core.paths import Workspace
from paraknow_core.spec import RunSpec
from paraknow_core.studies.lessons.base import (
    MARGIN,
    Explanation,
    Lesson,
    Panel,
    Preset,
    Row,
    Runs,
    difference_row,
    is_clear,
    is_no_gain,
    main_score,
    module_records,
    paired,
    say,
    score_row,
    untouched_row,
)
from paraknow_core.studies.lessons.structure import SMALL, control, transfer
from paraknow_core.studies.scores import gains_differ
from paraknow_core.studies.spec import labelled

STUDENTS = ("kin", "stranger")
ARMS = {
    label: changes
    for student in STUDENTS
    for label, changes in (
        (f"{student}: default LoRA", {**control(student), "name": f"Lesson 3, {student}, default LoRA"}),
        (f"{student}: transfer", {**transfer("submatrix", student), "name": f"Lesson 3, {student}"}),
    )
}
SPECS = {label: spec for (label, _), spec in labelled(RunSpec(), ARMS, [0]).items()}


def explain(place: Workspace, runs: Runs) -> Explanation:
    """Set the gain of the transfer in the one student beside that in the other."""
    del place
    gains = {s: paired([runs[f"{s}: transfer"]], [runs[f"{s}: default LoRA"]]) for s in STUDENTS}
    n = main_score(runs["kin: transfer"])["n"]
    gain = Panel(
        "Gain of the transfer over default LoRA",
        f"paired by example, n = {n}; bars: 95 % intervals",
        "difference [points]",
        tuple(difference_row(student, "seeking", result) for student, result in gains.items()),
        zero=True,
    )
    scores = Panel(
        "Test scores",
        "word problems; bars: 95 % intervals over examples",
        "score [%]",
        tuple(row for s in STUDENTS for row in _scores(s, runs)),
    )
    pairs = [(runs[f"{s}: transfer"], runs[f"{s}: default LoRA"]) for s in STUDENTS]
    right, why = _judge(gains, gains_differ(*pairs))
    return Explanation((gain, scores), _sentences(gains, runs), right, why)


def _scores(student: str, runs: Runs) -> list[Row]:
    control, transfer = runs[f"{student}: default LoRA"], runs[f"{student}: transfer"]
    before = [Row(f"{student}, untouched", row.arm, row.value, row.low, row.high) for row in untouched_row(control)]
    return [
        *before,
        score_row(f"{student}, default LoRA", "default_lora", control),
        score_row(f"{student}, transfer", "seeking", transfer),
    ]


def _judge(gains: dict, excess: PairedResult) -> tuple[str, str]:
    """Return who gains, as far as these runs decide it.

    Args:
        gains: of the transfer in each student.
        excess: how much more kin gains than stranger: one clear gain beside an unclear one does not show it.
    """
    helped = [s for s, result in gains.items() if is_clear(result) and result.difference > 0]
    words = "; ".join(f"{student}: {say(result)[:-1]}" for student, result in gains.items())
    if len(helped) == 2:
        return "both", f"{words}."
    words = f"{words}; kin's gain minus stranger's: {say(excess)}"
    if len(helped) == 1 and is_clear(excess) and (excess.difference > 0) == (helped == ["kin"]):
        return helped[0], words
    if not helped and all(is_no_gain(result) for result in gains.values()):
        return "neither", f"no gain of {100 * MARGIN:.0f} points or more is possible in either: {words}"
    return "", words


def _sentences(gains: dict, runs: Runs) -> tuple[str, ...]:
    words = [f"The transfer in {s} against its own default LoRA: {say(result)}" for s, result in gains.items()]
    for student in STUDENTS:
        cosine = module_records(runs[f"{student}: transfer"], "cosine_with_student")
        if cosine:
            words.append(
                f"Cosine of the teacher's block with {student}'s own weight: {sum(cosine) / len(cosine):.2f} "
                f"on average (range {min(cosine):.2f} to {max(cosine):.2f}, {len(cosine)} modules)."
            )
    words.append(
        "Two networks can compute alike with their channels in any order. Where the orders were never shared, a block "
        "is noise to the student; a cosine near 0 says so before anything is trained."
    )
    return tuple(words)


LESSON = Lesson(
    3,
    "Kin and strangers",
    "Two students of the same shape: one that the teacher grew from, one trained on its own. Who gains?",
    "The bundled teacher was made by widening kin, without changing what it computes, and training it on. Stranger has "
    "kin's shape and skill but came from another start. Both move towards the teacher's most sensitive sub-matrices "
    "(injection mode difference), both are fine-tuned the same way, both have default LoRA beside them.",
    {"both": "Both", "kin": "Only kin", "stranger": "Only stranger", "neither": "Neither"},
    SPECS,
    70,
    explain,
    (
        Preset(
            "kin-cosine",
            "See the cosine with the student, module by module",
            "pages/mapping.py",
            {**SMALL, "injection.mode": "difference"},
        ),
        Preset(
            "stranger-residual",
            "Give stranger the paper's mode (residual)",
            "pages/train.py",
            {**SMALL, "student.source": "bundled:stranger"},
            ("default_lora", "random_offset"),
        ),
    ),
    "Published pairs are strangers in this sense. In residual mode nothing is destroyed: does anything arrive?",
    study="injection_modes",
)
