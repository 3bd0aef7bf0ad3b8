"""Before anything costly: every example that a run will read is tokenised, and must fit whoever reads it."""

from paraknow_core.context import Context

IDENTITY_SAMPLES = 4  # examples on which step-0 identity and the exported adapter are checked


def check_examples(context: Context, *, needs_teacher: bool, most: int | None = None) -> list[str]:
    """Refuse what one of the models cannot read: prompts that are too long, tokens without a row in the embedding.

    Args:
        context: what is encoded here is used again in the stages.
        needs_teacher: whether the method measures the teacher.
        most: look only at so many examples of a split.

    Returns:
        Sentences for whoever reads the results: what was left out, and what the chat templates do.

    Raises:
        DataError: the first example that does not fit, and how many there are. ModelError: the first such token.
    """
    from paraknow_core.tasks.fitting import check, left_out_sentence, template_notes

    task, readers = context.task, {}
    if needs_teacher or context.spec.until == "sensitivity":
        seeds, teacher = context.seed_samples, context.teacher.reader
        readers[teacher.who] = teacher
        check(seeds, "seed samples", task, [(teacher, ("learn",))], context.skim)
    for name, readings in context.readings.items():
        examples = task.split(name)[:most]
        if context.spec.until == "extraction":
            examples = examples[:IDENTITY_SAMPLES]
        readers |= {reader.who: reader for reader, _ in readings}
        check(examples, f"{name} examples", task, readings, context.skim)
    notes = [left_out_sentence(context.left_out)]
    return [*filter(None, notes), *template_notes(task.split("train"), task, readers.values())]


def told_date(context: Context, *, needs_teacher: bool) -> str | None:
    """Return the day that the chat templates of a run are told, where one asks for it (ISO 8601)."""
    from paraknow_core.tasks.fitting import date_of

    readers = [reader for readings in context.readings.values() for reader, _ in readings]
    if needs_teacher or context.spec.until == "sensitivity":
        readers.append(context.teacher.reader)
    return date_of(readers, context.task)
