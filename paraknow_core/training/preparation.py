"""Stage prepare: read the task and both models, refuse what cannot work, and check what an earlier attempt has left."""

from typing import Any

from paraknow_core.catalogue import METHODS
from paraknow_core.context import CHECKED, OF_ADAPTER, PRODUCTS, Context, Work
from paraknow_core.errors import RunError
from paraknow_core.runs.table import flat_settings
from paraknow_core.training import inputs


def prepare(work: Work) -> None:
    """Read task and anatomies, refuse what cannot work, and note what the run computes with.

    Raises:
        ParaknowError: the task, a model or the pair is not fit for the run. RunError: what is in the folder was
            computed with other data, models or precision.
    """
    import torch

    from paraknow_core.adapters.quantise import require_package
    from paraknow_core.methods.base import Method
    from paraknow_core.training import sharded

    context, spec = work.context, work.spec
    if context.settings.student_bits:
        require_package()
    in_parts = context.settings.processes > 1 and spec.until in ("training", "evaluation")
    if in_parts:
        sharded.refuse_unfit(context, adds_term=type(work.method).loss is not Method.loss)
    refuse_unfit(work)
    notes = [*context.teacher.anatomy.notes, *context.student.anatomy.notes, *context.task.warnings]
    notes += sharded.notes(context) if in_parts else ()
    warnings = list(dict.fromkeys([*notes, *check_examples(context, needs_teacher=work.method.needs_teacher)]))
    for warning in warnings:
        context.report.event("warning", message=warning)
    task, date = context.task, told_date(work)
    facts = {
        "fingerprints": inputs.fingerprints(context),
        "inputs": inputs.more_fingerprints(context),
        "versions": inputs.versions(),
        "machine": inputs.machine(context),
        "settings": flat_settings(work.folder.spec().model_dump(mode="json")),
    }
    before = _go_on(work, facts)
    work.result |= {
        "spec_version": spec.version,
        "warnings": list(dict.fromkeys([*warnings, *before])),
        "task": {
            "name": task.name,
            "sizes": {name: len(split) for name, split in task.splits.items()},
            **({"left_out": context.left_out} if spec.task.too_long == "leave_out" else {}),
            **({"date": date} if date else {}),
        },
        "revisions": {
            "teacher": context.teacher.source.revision,
            "student": context.student.source.revision,
            "task": task.revision,
        },
        "threads": torch.get_num_threads(),  # not among `machine`: only last digits of decompositions depend on it
        **facts,
    }


def refuse_unfit(work: Work) -> None:
    """Refuse a rank, a model or a pair that would end the run later.

    Raises:
        RunError: there is nothing to extract. ShapeError: a module cannot hold the rank. ModelError: a model cannot be
            loaded, or the pair does not fit, or not coherently where the structure asks for that. DataError: the layer
            mapping compares hidden states, and the models read other texts.
    """
    from paraknow_core.adapters.inject import check_rank
    from paraknow_core.methods.mapping import reads_states
    from paraknow_core.methods.plan import plan_transfer
    from paraknow_core.methods.seeking.coherence import refuse_incoherent
    from paraknow_core.sensitivity.similarity import read_samples

    whole = work.method.row.whole
    check_rank(work.context.student_modules, 1 if whole else work.spec.factorisation.rank, work.method.directions)
    if whole and work.spec.until == "extraction":
        raise RunError(
            f"{work.spec.method}: starts from the student as it is, so there is no adapter to extract; run it until "
            "training or evaluation, or choose another method"
        )
    work.context.student.check()
    if work.method.needs_teacher:
        work.context.teacher.check()
        plan_transfer(work.context).refuse_blocked()
        if work.spec.until != "sensitivity":
            refuse_incoherent(work.context)
            if reads_states(work.spec.mapping):
                read_samples(work.context)


def _go_on(work: Work, facts: dict[str, Any]) -> list[str]:
    """Check that what earlier attempts left was computed with the same inputs; return the warnings of those attempts.

    Raises:
        RunError: data, models or precision have changed since.
    """
    from paraknow_core.adapters.saved import is_sound

    result, folder = work.result, work.folder
    if not any(folder.file(name).exists() for name in PRODUCTS):
        for name in ("versions", "machine", "settings", "computed_with", "step0", "training"):
            result.pop(name, None)
        return []
    if not result.get("fingerprints"):
        _begin_anew(work, "partial.json, which says what it was computed with, is missing or damaged", PRODUCTS)
        return list(result["warnings"])
    reads_teacher = work.method.needs_teacher or "teacher" in work.spec.references or "judge" in facts["inputs"]
    inputs.refuse_changed(result, facts, reads_teacher)
    difference = inputs.other_circumstances(result, facts)
    if difference:
        computed_with = {name: result.get(name) for name in ("versions", "machine")}
        result.setdefault("computed_with", [computed_with]).append({name: facts[name] for name in computed_with})
        work.warn(difference)
    started = [name for name in OF_ADAPTER if name != "init_adapter"]  # a kill may leave that one alone
    if any(folder.file(name).exists() for name in started) and not is_sound(folder.path):
        _begin_anew(work, "the initial adapter is damaged", OF_ADAPTER)
    return list(result.get("warnings", []))


def _begin_anew(work: Work, why: str, products: tuple[str, ...]) -> None:
    work.drop(products)
    for name in ("step0", "training"):
        work.result.pop(name, None)
    work.warn(f"resume: {why}, so what rests on it is computed again")


def check_examples(context: Context, *, needs_teacher: bool, most: int | None = None) -> list[str]:
    """Refuse what one of the models cannot read: prompts that are too long, tokens without a row in the embedding.

    Args:
        context: keeps what is encoded here for the stages.
        needs_teacher: whether the method measures the teacher.
        most: how many examples of a split to look at; None for all.

    Returns:
        Sentences for whoever reads the results: what was left out, and what the chat templates do.

    Raises:
        DataError: the first example that does not fit, and how many there are. ModelError: the first such token.
    """
    from paraknow_core.tasks.fitting import check, left_out_sentence, template_notes

    task, readers, said = context.task, {}, []
    if needs_teacher or context.spec.until == "sensitivity":
        samples_of = context.teacher.reader
    else:
        samples_of = context.student.reader if METHODS[context.spec.method].reads_samples else None
    if samples_of:
        if context.spec.sensitivity.task:
            others = context.seed_task
            said += [f"the seed samples are of the task {others.name}, not of the run's own", *others.warnings]
        readers[samples_of.who] = samples_of
        check(context.seed_samples, "seed samples", context.seed_task, [(samples_of, ("learn",))], context.skim)
    for name, readings in context.readings.items():
        examples = task.split(name)[:most]
        if context.spec.until == "extraction":
            examples = examples[:CHECKED]
        readers |= {reader.who: reader for reader, _ in readings}
        check(examples, f"{name} examples", task, readings, context.skim)
    notes = [*said, left_out_sentence(context.left_out)]
    return [*filter(None, notes), *template_notes(task.split("train"), task, readers.values())]


def told_date(work: Work) -> str | None:
    """Return the date that the chat templates of a run get, if one of them asks for it (ISO 8601)."""
    from paraknow_core.tasks.fitting import date_of

    context = work.context
    readers = [reader for readings in context.readings.values() for reader, _ in readings]
    if work.measured:
        readers.append(context.teacher.reader)
    return date_of(readers, context.task)
