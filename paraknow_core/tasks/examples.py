"""Load a task: its examples from wherever the spec says, split, kept apart, with its scorers. Start here."""

from pathlib import Path

from paraknow_core.errors import DataError
from paraknow_core.spec import TaskSpec
from paraknow_core.tasks.answers import check_numbers, extract_number
from paraknow_core.tasks.sources import Parts, read_bundled, read_path
from paraknow_core.tasks.splits import cut_validation, leakage, limit, separate, split_by_position, split_by_shuffle
from paraknow_core.tasks.task import Example, Message, Task, fingerprint

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
    given_test = _read_test(spec)
    if given_test and (given_test.format == "text") != (parts.format == "text"):
        raise DataError(f"task.test_source: is {given_test.format}, but the source is {parts.format}; give one format")
    splits, notes = _assemble(parts, given_test.merged if given_test else None, spec, train_only)
    splits, dropped = separate(splits)
    splits = limit(splits, spec.sizes)
    for name in ("train",) if train_only else ("train", "test"):
        if not splits[name]:
            raise DataError(f"task {spec.source}: nothing is left for the {name} split; give more examples")
    task = Task(
        name=_name(spec.source),
        label=parts.label or _name(spec.source),
        splits=splits,
        scorers=spec.scorers or parts.scorers or _default_scorers(parts.format, splits),
        template=spec.template,
        max_length=spec.max_length,
        max_new_tokens=spec.max_new_tokens or parts.max_new_tokens or _NEW_TOKENS[parts.format],
        warnings=(*parts.notes, *notes, *dropped),
        revision=parts.revision,
    )
    check_scorers(task)
    return Task(**{**vars(task), "warnings": (*task.warnings, *leakage(task))})


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


def check_scorers(task: Task) -> None:
    """Refuse scorers that the task's examples cannot serve.

    Raises:
        DataError: names the scorer, the first example it does not fit, and another scorer.
    """
    examples = [example for split in task.splits.values() for example in split]
    for scorer in task.scorers:
        if task.is_text and scorer != "perplexity":
            raise DataError(
                f"task {task.name}: {scorer} needs questions and answers; plain text is scored by perplexity"
            )
        for example in examples:
            if scorer == "multiple_choice" and not example.choices:
                raise DataError(f"example {example.id}: multiple_choice needs choices; add them or use exact_match")
        if scorer == "number_match":
            check_numbers(examples)


def _read(spec: TaskSpec, offline: bool) -> Parts:
    kind, _, name = spec.source.partition(":")
    if kind == "hub":
        from paraknow_core.tasks.hub import read_hub

        return read_hub(name, spec, offline=offline)
    for key in ("columns", "subset", "revision"):
        if getattr(spec, key):
            raise DataError(f"task.{key}: only a hub data set has it; leave it out for '{spec.source}'")
    if kind == "bundled":
        return read_bundled(name)
    if spec.format == "hub":
        raise DataError(f"task.format: hub given for '{spec.source}'; write hub:OWNER/NAME as source, or format auto")
    return read_path(Path(spec.source).expanduser(), spec.format)


def _read_test(spec: TaskSpec) -> Parts | None:
    if spec.test_source is None:
        return None
    return read_path(Path(spec.test_source).expanduser(), "auto" if spec.format == "hub" else spec.format)


def _assemble(parts: Parts, test: tuple[Example, ...] | None, spec: TaskSpec, train_only: bool) -> tuple[dict, list]:
    """Bring whatever parts there are into train, validation and test."""
    given, notes = dict(parts.parts), []
    if test is not None:
        given["test"] = test
    whole = given.pop("all", None)
    if whole is not None and "test" not in given:
        if train_only:
            return {"train": whole, "validation": (), "test": ()}, notes
        cut = (
            split_by_position(whole) if parts.format == "text" else split_by_shuffle(whole, spec.sizes, spec.split_seed)
        )
        return dict(cut), notes
    if whole is not None:
        given["train"] = whole
    if "train" not in given:
        raise DataError(f"task {spec.source}: has {' and '.join(given)} but no train part; give its training examples")
    if "test" not in given and "validation" in given:
        given["test"] = given.pop("validation")
        notes.append("there is no test part; the validation part is used as test")
    if "validation" not in given:
        if parts.format == "text":
            cut = split_by_position(given["train"])
            given["train"], given["validation"] = cut["train"], (*cut["validation"], *cut["test"])
        else:
            given["train"], given["validation"] = cut_validation(given["train"], spec.sizes, spec.split_seed)
    return given, notes


def _default_scorers(format: str, splits: dict) -> tuple[str, ...]:
    examples = [example for split in splits.values() for example in split]
    if format == "text":
        return ("perplexity",)
    if all(example.choices for example in examples):
        return ("multiple_choice",)
    if all(extract_number(example.reference, strict=True) is not None for example in examples):
        return ("number_match",)
    return ("exact_match", "rouge_l")


def _name(source: str) -> str:
    kind, _, rest = source.partition(":")
    return rest if kind in ("bundled", "hub") and rest else Path(source).expanduser().resolve().stem
