"""Load a task: its examples from wherever the spec says, split, kept apart, with its scorers. Start here."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from paraknow_core.catalogue import SCORERS
from paraknow_core.errors import DataError
from paraknow_core.files.naming import named
from paraknow_core.spec import TaskSpec
from paraknow_core.tasks.answers import check_numbers, extract_number
from paraknow_core.tasks.formats import name_of
from paraknow_core.tasks.layouts import ColumnsError
from paraknow_core.tasks.sources import Parts, not_there, read_bundled, read_path
from paraknow_core.tasks.splits import cut_validation, leakage, limit, separate, split_by_position, split_by_shuffle
from paraknow_core.tasks.task import Example, Message, Task, fingerprint
from paraknow_core.tasks.thoughts import judged

__all__ = ["Example", "Message", "Task", "fingerprint", "leakage", "list_tasks", "load_task"]

# Tokens that an answer may take when neither the spec nor the task says it.
_NEW_TOKENS = {"gsm8k": 512, "mmlu": 8, "chat_jsonl": 256, "text": 1}


def load_task(spec: TaskSpec, *, offline: bool = False, train_only: bool = False) -> Task:
    """Load the task a spec describes.

    Args:
        spec: `source` is `bundled:NAME`, a file, a folder of split files, or `hub:OWNER/NAME`.
        offline: never ask a hub; only its local cache.
        train_only: for measuring sensitivity alone: a source with one part becomes the train split as a whole, in its
            own order, and test may be empty.

    Returns:
        The task. Training examples that also are in test or validation are left out, and `warnings` says how many.

    Raises:
        DataError: a sentence that names the place and what would be right.
    """
    parts = _read(spec, offline)
    given_test = _read_test(spec, parts.reading)
    if given_test and (given_test.format == "text") != (parts.format == "text"):
        raise DataError(f"task.test_source: is {given_test.format}, but the source is {parts.format}; give one format")
    splits, notes = _assemble(parts, given_test.merged if given_test else None, spec, train_only)
    count = len(splits["train"])
    splits, dropped = separate(splits)
    label = parts.label or _title(spec.source)
    if not splits["train"] and count:
        raise DataError(
            f"task {label}: nothing is left for the train split, as all {count} training examples also occur, word "
            "for word, in validation or test; take duplicates out of the data, or give other examples"
        )
    for name in ("train",) if train_only else ("train", "test"):
        if not splits[name]:
            raise DataError(f"task {label}: nothing is left for the {name} split; give more examples")
    splits = limit(splits, spec.sizes)
    files = {**parts.files, **(given_test.files if given_test else {})}
    own = spec.scorers or parts.scorers
    scorers, forms = (own, []) if own else _default_scorers(parts.format, splits, files, strict=not train_only)
    test_notes = given_test.notes if given_test else ()
    task = Task(
        name=_name(spec.source),
        label=parts.label or _name(spec.source),
        splits=splits,
        scorers=scorers,
        template=spec.template,
        max_length=spec.max_length,
        max_new_tokens=spec.max_new_tokens or parts.max_new_tokens or _NEW_TOKENS[parts.format],
        warnings=(*parts.notes, *test_notes, *notes, *dropped, *(f"{label}: {form}" for form in forms)),
        revision=parts.revision,
        fields=parts.fields,
    )
    if own or not train_only:
        check_scorers(task, files)
    return replace(task, warnings=(*task.warnings, *leakage(task)))


def list_tasks() -> list[dict]:
    """Describe the bundled tasks: name, title, description, mirrors, scorers, sizes, max_new_tokens."""
    from paraknow_core.demo import tasks as demo

    return [
        {
            "name": name,
            "source": f"bundled:{name}",
            "title": info.title,
            "description": info.description,
            "mirrors": info.mirrors,
            "scorers": [info.scorer, *info.secondary_scorers],
            "sizes": dict(info.sizes),
            "max_new_tokens": info.max_new_tokens,
        }
        for name, info in demo.TASKS.items()
    ]


def check_scorers(task: Task, files: Mapping[str, str] | None = None) -> None:
    """Refuse scorers that the task's examples cannot serve.

    Args:
        task: with its examples.
        files: what their ids begin with -> how a sentence names that line.

    Raises:
        DataError: names the scorer, the first example it does not fit, and another scorer.
    """
    examples = [example for split in task.splits.values() for example in split]
    for scorer in task.scorers:
        by = SCORERS[scorer].by
        if task.is_text and by != "reading":
            raise DataError(
                f"task {task.name}: {scorer} needs questions and answers; plain text is scored by perplexity"
            )
        odd = next((example for example in examples if by == "choice" and not example.choices), None)
        if odd is not None:
            raise DataError(f"{_place(odd, files or {})}: {scorer} needs choices; add them or use exact_match")
        if scorer == "number_match":
            check_numbers(list(map(_judged, examples)), lambda example: _place(example, files or {}))


def _read(spec: TaskSpec, offline: bool) -> Parts:
    source = named(spec.source)
    if source.prefixed:
        from paraknow_core.tasks.hub import read_hub

        return read_hub(source.name, spec, offline=offline)
    for key in ("subset", "revision"):
        if getattr(spec, key):
            raise DataError(f"task.{key}: only a hub data set has it; leave it out for '{spec.source}'")
    if source.kind == "bundled":
        if spec.columns:
            raise DataError(f"task.columns: a bundled task has no columns to map; leave it out for '{spec.source}'")
        return read_bundled(source.name)
    if spec.format == "hub":
        raise DataError(f"task.format: hub given for '{spec.source}'; write hub:OWNER/NAME as source, or format auto")
    if source.path is None:  # an id of a hub, without its prefix
        raise not_there(Path(source.text))
    return read_path(source.path, spec.format, spec.columns)


def _read_test(spec: TaskSpec, reading: str) -> Parts | None:
    """Read the second file: by the same columns if it has them, else by its own names."""
    if spec.test_source is None:
        return None
    source = named(spec.test_source)
    if source.path is None:  # only a file or a folder holds a test split of its own
        raise not_there(Path(source.text))
    path, format = source.path, "auto" if spec.format == "hub" else spec.format
    try:
        return read_path(path, format, spec.columns, reading)
    except ColumnsError as error:
        problem = error
    try:
        parts = read_path(path, format, {}, reading)
    except DataError:
        raise problem from None
    note = f"{name_of(path)}: read by its own names of fields, as it has not all that task.columns names"
    return replace(parts, notes=(*parts.notes, note))


def _assemble(parts: Parts, test: tuple[Example, ...] | None, spec: TaskSpec, train_only: bool) -> tuple[dict, list]:
    """Bring whatever parts there are into train, validation and test."""
    splits, notes, is_text = dict(parts.parts), [], parts.format == "text"
    if test is not None:
        splits["test"] = test
    whole = splits.pop("all", None)
    if whole is not None and "test" not in splits:
        if train_only:
            return {"train": whole, "validation": (), "test": ()}, notes
        return dict(split_by_position(whole) if is_text else split_by_shuffle(whole, spec.sizes, spec.split_seed)), []
    if whole is not None:
        splits["train"] = whole
    if "train" not in splits:
        raise DataError(f"task {spec.source}: has {' and '.join(splits)} but no train part; give its training examples")
    if "test" not in splits and "validation" in splits:
        splits["test"] = splits.pop("validation")
        notes.append("there is no test part; the validation part is used as test")
    if "validation" not in splits and is_text:
        cut = split_by_position(splits["train"])
        splits |= {"train": cut["train"], "validation": (*cut["validation"], *cut["test"])}
    elif "validation" not in splits:
        splits["train"], splits["validation"] = cut_validation(splits["train"], spec.sizes, spec.split_seed)
    return splits, notes


def _default_scorers(
    format: str, splits: Mapping[str, tuple[Example, ...]], files: Mapping[str, str], *, strict: bool
) -> tuple[tuple[str, ...], list[str]]:
    """Return the scorers that most examples ask for, and sentences about the others.

    Args:
        format, splits: of the task.
        files: see `check_scorers`.
        strict: refuse an example that these scorers cannot read; False where nothing is scored.

    Raises:
        DataError: names the first such example.
    """
    if format == "text":
        return ("perplexity",), []
    examples = [_judged(example) for split in splits.values() for example in split]
    total = len(examples)
    with_choices = sum(bool(example.choices) for example in examples)
    if 2 * with_choices > total:
        odd = next((example for example in examples if not example.choices), None)
        if odd is not None and strict:
            raise DataError(
                f"{_place(odd, files)}: has no choices, which {with_choices} of {total} examples have; give it some, "
                "remove it, or set task.scorers"
            )
        return ("multiple_choice",), []
    unmarked = [example for example in examples if extract_number(example.reference, strict=True) is None]
    marked = total - len(unmarked)
    if 2 * marked > total:
        return ("number_match",), _unmarked(unmarked, marked, total, files, strict)
    notes = []
    if with_choices:
        notes.append(
            f"only {with_choices} of {total} examples have choices, so that all are scored as texts; give the "
            "others choices too, or set task.scorers"
        )
    if 5 * marked >= total:
        notes.append(
            f"only {marked} of {total} answers end in '#### NUMBER', so that all are scored as texts; write "
            "the others so too, or set task.scorers"
        )
    return ("exact_match", "rouge_l"), notes


def _unmarked(unmarked: list[Example], marked: int, total: int, files: Mapping[str, str], strict: bool) -> list[str]:
    """Say which answers have another form than most, whose numbers are marked; refuse one without a number."""
    without = next((example for example in unmarked if extract_number(example.reference) is None), None)
    if without is not None and strict:
        raise DataError(
            f"{_place(without, files)}: its answer holds no number, while {marked} of {total} answers end in "
            "'#### NUMBER' and are scored by it; write this one so, remove it, or set task.scorers"
        )
    if not unmarked:
        return []
    first = ", ".join(_place(example, files) for example in unmarked[:3])
    more = f" and {len(unmarked) - 3} more" if len(unmarked) > 3 else ""
    return [
        f"in {len(unmarked)} of {total} answers the '#### NUMBER' of the others is missing or not plain ({first}"
        f"{more}); the number that is found there is scored"
    ]


def _judged(example: Example) -> Example:
    """Return an example without the thoughts of its answer, as it will be scored."""
    against = judged("", example.reference)[1]
    return example if against == example.reference else example.with_answer(against)


def _place(example: Example, files: Mapping[str, str]) -> str:
    """Name an example as its file's reader knows it: by its line, where its id tells it."""
    stem, _, number = example.id.rpartition(":")
    return f"{files[stem]} {number}" if stem in files and number.isdigit() else f"example {example.id}"


def _title(source: str) -> str:
    """Return what a source is called in sentences: never a path of the server."""
    parsed = named(source)
    return parsed.text if parsed.path is None else name_of(parsed.path)


def _name(source: str) -> str:
    parsed = named(source)
    return parsed.name if parsed.path is None and parsed.name else (parsed.path or Path(parsed.text)).resolve().stem
