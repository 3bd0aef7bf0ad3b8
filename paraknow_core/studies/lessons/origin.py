"""Lesson 5: is it the teacher, or just the initialisation? The method beside controls, three seeds."""

from paraknow_core.display import arm_of
from paraknow_core.errors import RunError
from paraknow_core.paths import Workspace
from paraknow_core.runs.folder import RunFolder
from paraknow_core.studies.lessons.base import (
    Explanation,
    Lesson,
    Panel,
    Preset,
    Row,
    Runs,
    difference_row,
    main_score,
    mean_and_interval,
    paired,
    say,
    specs_of,
)

MARGIN = 0.02  # nats per token (2 % of a perplexity): a smaller gain counts as none
METHODS = ("seeking", "random_offset", "pissa", "default_lora")
SEEDS = (0, 1, 2)
SMALL = {
    "task.sizes.train": 192,
    "task.sizes.validation": 100,
    "task.sizes.test": 60,
    "finetuning.epochs": 2,
    "finetuning.batch_size": 8,
    "finetuning.validations": 2,
    "references": [],
}


SPECS = specs_of(5, {arm_of(method).label: {**SMALL, "method": method} for method in METHODS}, SEEDS)


def explain(place: Workspace, runs: Runs) -> Explanation:
    """Subtract the controls from the method, seed by seed."""
    del place
    losses = {m: [_loss(run) for run in _arm(runs, m)] for m in METHODS}
    others = [m for m in METHODS if m != "seeking"]
    gaps = {m: [a - b for a, b in zip(losses["seeking"], losses[m], strict=True)] for m in others}
    intervals = {m: mean_and_interval(values) for m, values in gaps.items()}
    scores = {m: paired(_arm(runs, "seeking"), _arm(runs, m)) for m in others}
    loss = Panel(
        "Validation loss: the method minus each control",
        f"teacher → stranger, word problems, paired by seed; bars: 95 % t interval over {len(SEEDS)} seeds; "
        "left of 0: the method is better",
        "difference [nats per token]",
        tuple(Row(f"minus {arm_of(m).label}", m, *intervals[m], tuple(gaps[m])) for m in others),
        zero=True,
    )
    n = main_score(runs[f"{arm_of('seeking').label}, seed 0"])["n"]
    score = Panel(
        "Test score: the method minus each control",
        f"paired by seed and example, {len(SEEDS)} seeds, n = {n}; bars: 95 %; right of 0: the method is better",
        "difference [points]",
        tuple(difference_row(f"minus {arm_of(m).label}", m, scores[m]) for m in others),
        zero=True,
    )
    right, why = _judge(intervals)
    return Explanation((loss, score), _sentences(intervals, scores), right, why)


def _arm(runs: Runs, method: str) -> list[RunFolder]:
    return [runs[f"{arm_of(method).label}, seed {seed}"] for seed in SEEDS]


def _loss(run: RunFolder) -> float:
    value = ((run.result() or {}).get("training") or {}).get("last_validation_loss")
    if value is None:
        raise RunError(f"run {run.id}: has no validation loss; run the lesson again")
    return float(value)


def _judge(intervals: dict) -> tuple[str, str]:
    """Return what the seeds' intervals of the validation loss bear out."""
    better = {m: high is not None and high < 0 for m, (_, _, high) in intervals.items()}
    words = "; ".join(f"against {arm_of(m).label} {_say(interval)}" for m, interval in intervals.items())
    if all(better.values()):
        return "teacher", f"the validation loss is lower than with every control: {words}."
    if better["default_lora"]:
        equal = " and ".join(arm_of(m).label for m, ahead in better.items() if not ahead)
        return "start", f"the method beats default LoRA, but not {equal}: {words}."
    if all(low is not None and low > -MARGIN for _, low, _ in intervals.values()):
        return "nothing", f"no control is beaten by {MARGIN} nats or more: {words}."
    return "", f"a gain over default LoRA is neither shown nor ruled out: {words}."


def _say(interval: tuple) -> str:
    mean, low, high = interval
    return f"{mean:+.4f} nats (95 % interval {low:+.4f} to {high:+.4f})"


def _sentences(intervals: dict, scores: dict) -> tuple[str, ...]:
    words = [f"Validation loss against {arm_of(m).label}: {_say(interval)}." for m, interval in intervals.items()]
    words += [f"Test score against {arm_of(m).label}: {say(result)}" for m, result in scores.items()]
    words.append(
        "Random offset takes a block of the same teacher layer from anywhere; PiSSA takes the student's own weight "
        "through the same decomposition. What they gain as well was not found in the teacher's sensitive weights. "
        "Three seeds are few: an interval that contains 0 means not known, not equal."
    )
    return tuple(words)


LESSON = Lesson(
    5,
    "The teacher, or just the initialisation?",
    "The method starts LoRA from a block of the teacher. If it beats default LoRA, is that because of the teacher?",
    "In the paper's mode (residual) the student computes the same at step 0, whatever block is chosen: only LoRA's "
    "starting point differs. Default LoRA starts from small random numbers and zeros, so a gain over it mixes two "
    "things: larger, better shaped factors, and what the teacher knows. Two controls part them: a block from anywhere "
    "in the same teacher layer (random offset), and the student's own weights (PiSSA). Three seeds each.",
    {
        "teacher": "Yes: it beats default LoRA and both controls",
        "start": "Not shown: it beats default LoRA, but not both controls",
        "nothing": "No: there is no gain worth the name",
    },
    SPECS,
    140,
    explain,
    (
        Preset(
            "origin-full",
            "Repeat it at full size, five seeds",
            "pages/train.py",
            {},
            ("default_lora", "pissa", "random_offset"),
            5,
        ),
        Preset(
            "origin-rate",
            "Give every arm a higher learning rate",
            "pages/train.py",
            {**SMALL, "finetuning.learning_rate": 1e-3},
            ("default_lora", "pissa", "random_offset"),
            3,
        ),
    ),
    "A learning rate that suits one start may not suit another: a fair comparison tunes it for every arm.",
    study="origin",
)
