"""Outcomes of studies, made by hand: what reports and pictures of studies are tested with."""

from types import SimpleNamespace
from typing import Any

from paraknow_core.studies.folder import Curve, RatePoint
from paraknow_core.studies.outcome import GroupOutcome, StudyOutcome
from paraknow_core.studies.presets import marks_of
from paraknow_core.studies.study import StudySpec, groups_of, rates_of


def verdict(difference: float = 0.014, word: str = "undecided", **more: Any) -> SimpleNamespace:
    """Return what `ops.verdict.paired_verdict` returns, as far as words need it."""
    ends = {"low": difference - 0.017, "high": difference + 0.017, "p_value": 0.2, "smallest_detectable": 0.026}
    about = {"seeds": 6, "n": 400, "p_adjusted": 0.4, "comparisons": 1, "margin": 0.01, "method": "by hand"}
    return SimpleNamespace(difference=difference, verdict=word, **{**ends, **about, **more})


def outcome(study: StudySpec, done: int | None = None, **more: Any) -> StudyOutcome:
    """Return an outcome whose groups score 0.30, 0.31, ... with the first `done` seeds; all by default."""
    seeds = study.seeds[:done]
    groups, curves = [], {}
    for number, group in enumerate(groups_of(study)):
        score = 0.30 + 0.01 * number
        rates = rates_of(study, group)
        if rates and seeds:
            curve = Curve(RatePoint(rate, {0: 1 + 0.01 * n}, 1 + 0.01 * n) for n, rate in enumerate(rates[1:]))
            curve.insert(0, RatePoint(rates[0], {}, None, diverged=True))
            curve.chosen = rates[1]
            curves[group.key] = curve
        judged = seeds and group.arm.name != study.against
        groups.append(
            GroupOutcome(
                group.key,
                group.label,
                group.arm.name,
                dict(group.point),
                "seeking",
                seeds=seeds,
                scores_by_seed=[score + 0.001 * seed for seed in range(len(seeds))],
                value=score if seeds else None,
                low=score - 0.02 if len(seeds) > 1 else None,
                high=score + 0.02 if len(seeds) > 1 else None,
                n=400 if seeds else None,
                unit="share" if seeds else None,
                verdict=verdict(seeds=len(seeds)) if judged else None,
                verdict_unit="share" if judged else None,
                rate=rates[1] if rates and seeds else None,
                budget={"steps": 48, "tokens": 9000, "parameters": 5000} if seeds else {},
                keeps_student=group.arm.row.keeps_student,
                states={seed: "done" if seed in seeds else "waiting" for seed in study.seeds},
                runs={seed: f"2026-{number}-{seed}" for seed in seeds},
            )
        )
    about = {"spread": (0.01, 10) if len(seeds) > 1 else None, "curves": curves, "marks": marks_of(study)}
    return StudyOutcome("made", study, "done" if len(seeds) == len(study.seeds) else "running", groups, **about | more)


def attribution(**words: str) -> SimpleNamespace:
    """Return what `studies.attribution.attribute` returns, with a word for each step or check that is named."""

    def step(name: str, arm: str, against: str, difference: float) -> SimpleNamespace:
        word = words.get(name.replace(" ", "_"), "undecided")
        return SimpleNamespace(name=name, arm=arm, against=against, result=verdict(difference, word))

    chain = ("default_lora", "spectrum_matched", "permuted", "wrong_task", "seeking")
    names = zip(("scale", "structure", "teacher content", "task"), (0.010, -0.004, 0.020, 0.005), strict=True)
    steps = [step(name, chain[n + 1], chain[n], size) for n, (name, size) in enumerate(names)]
    return SimpleNamespace(
        gain=step("gain", "seeking", "default_lora", 0.031),
        steps=steps,
        checks=[step("trained against untrained teacher", "seeking", "untrained_teacher", 0.022)],
        content=False,
        missing=(),
        paragraph="Seeking scores 3.1 points more than default LoRA.",
    )
