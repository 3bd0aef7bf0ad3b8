"""What a study says on paper: its methods in words, and the records of all of its runs in one table.

Every sentence follows from the outcome; none is there that is not true of this study. `figures.report` draws the rest.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from paraknow_core.display import counted, significant, source_label
from paraknow_core.errors import RunError
from paraknow_core.files.packing import refuse_links
from paraknow_core.ops.detectable import fewest_seeds
from paraknow_core.studies.presets import POCKET, PRESETS
from paraknow_core.studies.study import RATE, StudyArm, arms_of
from paraknow_core.studies.words import factor_text, listed, size_text, unit_text, value_text

if TYPE_CHECKING:
    import pandas

    from paraknow_core.studies.folder import StudyFolder
    from paraknow_core.studies.outcome import StudyOutcome


def methods_text(outcome: "StudyOutcome") -> str:
    """Return what the methods section of a paper would say of a study, a paragraph a subject."""
    parts = (_compared, _held_equal, _seeds, _tuning, _tests, _limits, _sources)
    return "\n\n".join(filter(None, (" ".join(part(outcome)) for part in parts)))


def records_table(folder: "StudyFolder") -> "pandas.DataFrame":
    """Return the records of a study's scored runs: a row for each group, seed, scorer and example.

    Columns: group, arm, one a factor (as text), seed, rate, run, scorer, example, score, prompt_sha256, output.

    Raises:
        RunError: a file of a run is a link, or no run is done yet.
    """
    import pandas

    rows: list[dict[str, Any]] = []
    for state in folder.cells():
        cell, run = state.cell, state.run
        if cell.purpose != "test" or run is None or state.state != "done":
            continue
        refuse_links(run.path, ("predictions.jsonl",))
        point = {key: value_text(key, value) for key, value in cell.group.point.items()}
        rate = cell.spec.finetuning.learning_rate
        about = {"group": cell.group.key, "arm": cell.group.arm.name, **point, "seed": cell.seed, "rate": rate}
        rows += [{**about, "run": run.id, **_record(record)} for record in run.predictions()]
    if not rows:
        raise RunError(f"study {folder.id}: no run is done yet, so there are no records; run it first")
    return pandas.DataFrame(rows)


def _record(record: Mapping[str, Any]) -> dict[str, Any]:
    prompt = str(record.get("prompt") or "")
    return {
        "scorer": str(record.get("scorer") or ""),
        "example": str(record.get("id") or ""),
        "score": float(record["score"]),
        "prompt_sha256": hashlib.sha256(prompt.encode()).hexdigest(),
        "output": str(record.get("output") or ""),
    }


def records_parquet(folder: "StudyFolder") -> bytes:
    """Return `records_table` as a Parquet file."""
    return records_table(folder).to_parquet(index=False)


def _compared(outcome: "StudyOutcome") -> Iterator[str]:
    study, base = outcome.study, outcome.study.base
    others = [arm.label for arm in arms_of(study) if arm.name != study.against]
    task = "" if "task.source" in study.factors else f" on the task {source_label(base.task.source)}"
    were = "was" if len(others) == 1 else "were"
    whom = f"{listed(others)} {were} compared with" if others else "Only one arm was run:"
    teacher, student = source_label(base.teacher.source), source_label(base.student.source)
    varied = " unless varied" if {"teacher.source", "student.source"} & study.factors.keys() else ""
    told = f"{whom} {_against(outcome).label}{task}; teacher: {teacher}, student: {student}{varied}."
    yield told[0].upper() + told[1:]
    for factor, values in study.factors.items():
        yield f"Varied was the {factor_text(factor)}: {'; '.join(value_text(factor, value) for value in values)}."
    if study.factors and others:
        yield "Arms are compared at the same point of what was varied."


def _held_equal(outcome: "StudyOutcome") -> Iterator[str]:
    base, groups = outcome.study.base, outcome.groups
    free = {*outcome.study.factors, *(key for arm in arms_of(outcome.study) for key in arm.changes)}
    fixed = {
        "factorisation.rank": f"rank {base.factorisation.rank}",
        "extraction.origin": f"modules ({', '.join(base.extraction.origin)})",
        "finetuning.batch_size": f"batches of {base.finetuning.batch_size}",
    }
    if "parameters" in outcome.study.hold and free & {"student.source", "extraction.origin"}:
        del fixed["factorisation.rank"]  # it follows the number of parameters
    same = [words for key, words in fixed.items() if key not in free]
    for key, noun in (("steps", "optimiser step"), ("tokens", "training token")):
        numbers = sorted({group.budget[key] for group in groups if group.budget and group.budget.get(key) is not None})
        if len(numbers) == 1:
            same.append(counted(numbers[0], noun))
        elif numbers:
            yield f"The number of {noun}s differed: {numbers[0]:,} to {numbers[-1]:,}."
    if same:
        yield f"The same in all: {', '.join(same)}."
    noted = {group.label: group.note for group in groups if not group.equal}
    if noted:
        yield f"Not of equal budget: {'; '.join(f'{who} ({note})' if note else who for who, note in noted.items())}."
    elif all(group.budget.get("parameters") is not None for group in groups):
        yield f"Each arm trained as many parameters as {_against(outcome).label}."
    moved = [group.label for group in groups if not group.keeps_student]
    if moved:
        others = ", unlike the others" if len(moved) < len(groups) else ""
        yield f"Changed before the first step{others}: the student of {listed(moved)}."


def _seeds(outcome: "StudyOutcome") -> Iterator[str]:
    study = outcome.study
    order = study.base.finetuning.seed
    data = ", and the order of the data" if order is None else f"; the order of the data was seed {order}'s in all"
    yield f"{counted(len(study.seeds), 'seed')} set initialisation, blocks and mappings drawn at random{data}."
    sizes = sorted({group.n for group in outcome.groups if group.n})
    many = f" ({' or '.join(f'{n:,}' for n in sizes)} a run)" if sizes else ""
    yield f"Arms are paired by seed and by test example{many}."


def _tuning(outcome: "StudyOutcome") -> Iterator[str]:
    study = outcome.study
    if study.tuning is None:
        if RATE in study.factors:
            yield "The learning rate was varied, not chosen: arms are compared at one rate, not at the best of each."
        else:
            rates = sorted({group.rate for group in outcome.groups if group.rate})
            rates = rates or [study.base.finetuning.learning_rate]
            told = " to ".join(dict.fromkeys(significant(rate) for rate in (rates[0], rates[-1])))
            all_ = "" if len(rates) > 1 else "all "
            yield f"Learning rates were not tuned ({all_}{told}): a difference may be one of rates."
        return
    seeds = counted(len(study.tuning.seeds), "seed")
    yield (
        f"The learning rate of each arm was chosen from a grid of {study.tuning.points} values or more, a quarter of a "
        f"decade apart, by the validation loss after training ({seeds}); the test split had no part in it."
    )
    edges = [group.label for group in outcome.groups if group.rate_at_edge]
    if edges:
        yield f"At the edge of its grid lies the best rate of {listed(edges)}: a better one may lie beyond."


def _tests(outcome: "StudyOutcome") -> Iterator[str]:
    verdicts = [group.verdict for group in outcome.groups if group.verdict is not None]
    if not verdicts:
        yield "Nothing is judged yet: no arm shares a finished seed with the one it is judged against."
        return
    family = max(verdict.comparisons for verdict in verdicts)
    holm = f", after Holm's correction for {family} comparisons" if family > 1 else ""
    unit = next(group.verdict_unit or group.unit for group in outcome.groups if group.verdict is not None)
    margin = size_text(outcome.study.margin, unit)
    yield (
        "Better or worse is said only where an exact sign-flip test over seeds and the 95 % interval, over seeds and "
        f"examples, both rule out no difference{holm}; equivalent where the 90 % interval lies within {margin} "
        f"{unit_text(unit)} either way, the margin declared before the runs; all else is undecided."
    )
    if len(verdicts) > family:
        at_once = "are corrected together" if family > 1 else "is judged by itself"
        yield f"What is compared at one point of what was varied {at_once}, and not with the other points."
    for factor in dict.fromkeys(contrast.factor for contrast in outcome.contrasts):
        than = next(contrast.against_label for contrast in outcome.contrasts if contrast.factor == factor)
        yield (
            f"Values of the {factor_text(factor)} are judged in the same way against {than}, within each arm and "
            "corrected together there."
        )
    if outcome.spread:
        yield f"The spread of seeds is pooled over arms ({outcome.spread[1]} degrees of freedom)."
    seen = [verdict.smallest_detectable for verdict in verdicts if verdict.smallest_detectable is not None]
    if seen:
        ends = " to ".join(dict.fromkeys(size_text(end, unit) for end in (min(seen), max(seen))))
        yield f"The smallest effect that such a study detects in four of five cases is {ends} {unit_text(unit)}."


def _limits(outcome: "StudyOutcome") -> Iterator[str]:
    study = outcome.study
    if len(study.seeds) < fewest_seeds():
        few = counted(len(study.seeds), "seed")
        yield f"With {few} no test over seeds can reach 5 %, so that everything is undecided."
    states = [group.states.get(seed, "waiting") for group in outcome.groups for seed in study.seeds]
    failed, ended = states.count("failed"), states.count("done") + states.count("failed")
    if failed:
        yield f"{counted(failed, 'scored run')} of {len(states)} failed and {_be(failed)} left out."
    if ended < len(states):
        missing = len(states) - ended
        yield f"The study is not finished: {counted(missing, 'scored run')} of {len(states)} {_be(missing)} missing."
    tasks = len(study.factors.get("task.source", (1,)))
    pairs = len(study.factors.get("teacher.source", (1,))) * len(study.factors.get("student.source", (1,)))
    yield f"All this is shown for {counted(pairs, 'pair')} and {counted(tasks, 'task')} alone, with this recipe."
    if {"bundled:kin", "bundled:stranger"}.intersection(study.factors.get("teacher.source", ())):
        yield (
            "The smaller bundled teacher has the student's own size: every block of it is the whole weight, so that a "
            "sensitive and a random one are the same."
        )
    preset = PRESETS.get(study.preset)
    if preset is not None and study.name.endswith(POCKET):
        yield f"Pocket size: {preset.pocket_limits}"


def _sources(outcome: "StudyOutcome") -> Iterator[str]:
    sources: dict[str, list[str]] = {}
    for arm in arms_of(outcome.study):
        if arm.row.source:
            sources.setdefault(arm.row.source, []).append(arm.label)
    if sources:
        yield f"Sources: {'; '.join(f'{listed(arms)}: {source}' for source, arms in sources.items())}."
    if outcome.versions:
        used = [f"{package} {' and '.join(numbers)}" for package, numbers in outcome.versions.items()]
        yield f"Made with {', '.join(used)}."


def _against(outcome: "StudyOutcome") -> StudyArm:
    return next(arm for arm in arms_of(outcome.study) if arm.name == outcome.study.against)


def _be(number: int) -> str:
    return "is" if number == 1 else "are"
