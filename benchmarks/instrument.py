"""Does the verdict on teacher content find what is there, and nothing else? `python -m benchmarks.instrument`.

Three studies of real runs on the bundled models, each a pool of many seeds:

- planted: the kin pair in difference mode. The teacher grew from the student, so its blocks hold the student's own
  weights, trained further: what they hold can be transferred, and has to be found.
- stranger: a pair without kinship, in residual mode, where published gains are in doubt.
- untrained: the kin pair with random weights in the teacher's place: there is nothing to find.

Fresh runs would be too dear for hundreds of studies. So a small study is drawn again and again from each pool: seeds
without replacement, test examples with replacement; its verdict is worked out as for any study, and the claims are
counted. Runs lie in a workspace that a second call goes on with.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._common import arguments, machine, show, write
from paraknow_core import pipeline
from paraknow_core.engines.inline import InlineEngine
from paraknow_core.ops.statistics import proportion_interval
from paraknow_core.paths import Workspace, workspace
from paraknow_core.settings import Settings
from paraknow_core.spec import RunSpec
from paraknow_core.studies.attribution import attribute
from paraknow_core.studies.conduct import conduct
from paraknow_core.studies.folder import StudyFolder, list_studies
from paraknow_core.studies.scores import example_scores
from paraknow_core.studies.study import OwnArm, StudySpec

ARMS = (
    *("default_lora", "spectrum_matched", "permuted", "random_offset"),
    *("untrained_teacher", "wrong_task", "seeking"),
)
SIZES, MARGIN = (6, 8), 0.01  # seeds of a small study: the fewest that can decide one question, and four at once
BASE = {
    "task.sizes": {"train": 256, "validation": 16, "test": 300},
    "finetuning.batch_size": 32,
    "finetuning.epochs": 3,
    "finetuning.learning_rate": 3e-3,
    "finetuning.validations": 0,
}
SMALL = {"task.sizes": {"train": 32, "validation": 8, "test": 16}, "finetuning.max_steps": 2}
CASES: dict[str, dict[str, Any]] = {
    "planted": {"student.source": "bundled:kin", "injection.mode": "difference"},
    "stranger": {"student.source": "bundled:stranger"},
    "untrained": {"student.source": "bundled:kin", "teacher.untrained": 1_000_000},
}


def study_of(case: str, seeds: int, small: bool) -> StudySpec:
    """Return the pool of a case: all arms with many seeds, in the case's injection mode."""
    base = RunSpec().with_changes({**BASE, **(SMALL if small else {}), **CASES[case]})
    mode = {"injection.mode": base.injection.mode}
    arms = tuple(OwnArm(name=f"{name}_here", arm=name, changes=mode) for name in ARMS)
    return StudySpec(
        name=f"instrument {case}", base=base, arms=arms, against="default_lora_here", seeds=tuple(range(seeds))
    )


def pool_of(place: Workspace, case: str, seeds: int, small: bool, threads: int | None) -> dict[str, np.ndarray]:
    """Run a case, or go on with it; return the (seeds, examples) scores of each arm, by its name in the catalogue."""
    study, settings = study_of(case, seeds, small), Settings(offline=True, threads=threads)
    known = [folder for folder in list_studies(place) if folder.spec() == study]
    folder = known[0] if known else StudyFolder.create(place, study)
    conduct(folder, InlineEngine(place, lambda run: pipeline.execute(run, place, settings)))
    tables: dict[str, list[list[float]]] = {name: [] for name in ARMS}
    ids: list[str] = []
    for state in folder.cells():
        scores = example_scores(state.run)
        ids = ids or sorted(scores)
        tables[state.cell.group.arm.name.removesuffix("_here")].append([scores[name][0] for name in ids])
    return {name: np.array(table) for name, table in tables.items()}


def claims(pool: Mapping[str, np.ndarray], repetitions: int, size: int, seed: int = 0) -> dict[str, int]:
    """Count what small studies drawn from a pool claim.

    Args:
        pool: (seeds, examples) of each arm; the same seeds and examples.
        repetitions: how many studies are drawn.
        size: their seeds.
        seed: of the drawing.

    Returns:
        How many claim teacher content; and how many call the gain, and each step and check, better.
    """
    generator, counts = np.random.default_rng(seed), {"teacher content claimed": 0}
    seeds, examples = next(iter(pool.values())).shape
    for _ in range(repetitions):
        rows = generator.choice(seeds, size=min(size, seeds), replace=False)
        columns = generator.integers(examples, size=examples)
        result = attribute({name: table[np.ix_(rows, columns)] for name, table in pool.items()}, MARGIN)
        counts["teacher content claimed"] += result.content
        for step in (result.gain, *result.steps, *result.checks):
            name = f"{step.name} better"
            counts[name] = counts.get(name, 0) + (step.result.verdict == "better")
    return counts


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workspace", type=Path, help="keeps the runs (default: cache/instrument of the project)")
    parser.add_argument("--seeds", type=int, default=12, help="runs of each arm in a pool")
    parser.add_argument("--repetitions", type=int, default=250, help="small studies drawn from each pool")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--case", choices=tuple(CASES), help="only this pool")


def main() -> None:
    options = arguments(__doc__ or "", _options)
    seeds, repetitions = (2, 2) if options.small else (options.seeds, options.repetitions)
    place = workspace(options.workspace or workspace().root / "instrument")
    rows, facts = [], machine()
    for case in (options.case,) if options.case else CASES:
        pool = pool_of(place, case, seeds, options.small, options.threads)
        means = {name: round(100 * float(table.mean()), 2) for name, table in pool.items()}
        for size in SIZES:
            for claim, count in claims(pool, repetitions, size).items():
                low, high = proportion_interval(count, repetitions)
                about = {"case": case, "seeds": size, "claim": claim, "studies": repetitions}
                rows.append(about | {"share": count / repetitions, "low": low, "high": high, "scores": means})
    percent = "{:.1%}".format
    columns = {
        "case": str,
        "seeds": str,
        "claim": str,
        "studies": str,
        "share": percent,
        "low": percent,
        "high": percent,
    }
    notes = [
        f"pools of {seeds} seeds; better: after Holm, where there are several steps",
        "95 % Wilson intervals, of the drawing alone: studies that are drawn from one pool share its runs",
    ]
    show("What small studies claim", notes, rows, columns)
    print("wrote", write(options.out, f"instrument{'_small' if options.small else ''}", facts, rows))


if __name__ == "__main__":
    main()
