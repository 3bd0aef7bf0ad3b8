"""A glance at a task before its run: how many examples it has, and how long the first of them are. Needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

from paraknow_core.catalogue import SCORERS
from paraknow_core.errors import without_panic
from paraknow_core.files.disk import file_stamp
from paraknow_core.files.naming import named
from paraknow_core.spec import TaskSpec
from paraknow_core.tasks.task import Task
from paraknow_core.tasks.templates import render

LOOKED_AT = 300  # examples of a split whose lengths stand for all of it
MOST_BYTES = 30_000_000  # of the files that are read for a glance
GUESSED_TOKENS = 64  # of an example that nobody has looked at, half of them of its prompt
_SPLITS = {"train": 1000, "validation": 100, "test": 300}  # examples, where all are asked for


@dataclass(frozen=True)
class Glance:
    """What a task is like; without arguments, what is assumed of one that was not looked at.

    Attributes:
        sizes: examples of each split; of plain text, windows.
        tokens: of some training examples, the shortest first.
        supervised: which share of them counts in the loss.
        prompt: mean tokens of a test prompt.
        answer: tokens of a test example's answer, one of the longest.
        rows: that a test example is read in, such as its choices.
        writes: whether test answers are written by the model; else their likelihood is read.
        limit: tokens that an answer may have.
        seen: whether this comes from the task itself.
    """

    sizes: dict[str, int] = field(default_factory=lambda: dict(_SPLITS))
    tokens: tuple[int, ...] = (GUESSED_TOKENS,)
    supervised: float = 0.5
    prompt: float = GUESSED_TOKENS / 2
    answer: int = GUESSED_TOKENS // 2
    rows: int = 1
    writes: bool = True
    limit: int = 256
    seen: bool = False

    def __hash__(self) -> int:
        return hash((*self.sizes.items(), self.tokens, self.supervised, self.prompt, self.answer, self.limit))


def glance(task: TaskSpec, tokenizer: Path, context: int) -> Glance | None:
    """Look at a bundled task, or one in small local files.

    Args:
        task: as the spec has it.
        tokenizer: the student's `tokenizer.json`.
        context: tokens that the student reads at most.

    Returns:
        None where the task is elsewhere, large, or cannot be read: the run itself says what is wrong.
    """
    stamps = _stamps(task)
    if stamps is None or not tokenizer.is_file():
        return None
    return _glance(task.model_dump_json(), str(tokenizer), context, stamps, file_stamp(tokenizer))


def _stamps(task: TaskSpec) -> tuple[tuple[str, int, int], ...] | None:
    """Return name, time and size of all files of a task; None where some are elsewhere, or too large for a glance."""
    stamps: list[tuple[str, int, int]] = []
    for source in filter(None, (task.source, task.test_source)):
        place = named(source)
        if place.kind == "bundled":
            continue
        if place.path is None:
            return None
        try:
            files = sorted(place.path.iterdir()) if place.path.is_dir() else [place.path]
        except (OSError, ValueError):  # what cannot be read, or cannot be a path
            return None
        stamps += [(str(file), *file_stamp(file)) for file in files]
    return tuple(stamps) if sum(size for _, _, size in stamps) <= MOST_BYTES else None


@lru_cache(64)
def _glance(task: str, tokenizer: str, context: int, *_changes: object) -> Glance | None:
    from paraknow_core.tasks.examples import load_task

    try:
        with without_panic():
            loaded = load_task(TaskSpec.model_validate_json(task), offline=True)
            return _seen(loaded, _reader(tokenizer, file_stamp(tokenizer)), context)
    except Exception:  # noqa: BLE001 - the tokenizers library raises bare ones for damaged files, which the run refuses
        return None


@lru_cache(8)
def _reader(tokenizer: str, *_changes: object) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(tokenizer)


def _seen(task: Task, reader: Any, context: int) -> Glance:
    """Look at the first examples of a task; a chat template counts like "tulu"."""
    limit, train, test = min(task.max_length, context), task.split("train")[:LOOKED_AT], task.split("test")[:LOOKED_AT]
    if task.is_text:
        entries = [_windows(_count([e.text or "" for e in part], reader), limit) for part in (train, test)]
    else:
        template, plain = "tulu" if task.template == "chat" else task.template, SimpleNamespace(eos_token="")
        rendered = [[render(example, template, plain) for example in part] for part in (train, test)]
        counts = [
            [_count([getattr(one, part) for one in ones], reader, part == "prompt") for part in ("prompt", "answer")]
            for ones in rendered
        ]
        # With its end mark, and cut to the limit.
        entries = [
            [(prompt, min(limit - prompt, answer + 1)) for prompt, answer in zip(*both, strict=True) if prompt < limit]
            for both in counts
        ]
    return glance_of(task, *entries)


def _windows(counts: Sequence[int], limit: int) -> list[tuple[int, int]]:
    parts = [(limit,) * (count // limit) + ((count % limit,) if count % limit else ()) for count in counts]
    return [(0, length) for windows in parts for length in windows]


def _count(texts: Sequence[str], reader: Any, special: bool = True) -> list[int]:
    """Return the tokens of texts, with those that the tokenizer puts around each or without."""
    return [len(one.ids) for one in reader.encode_batch(list(texts), add_special_tokens=special)]


def glance_of(task: Task, train: Sequence[tuple[int, int]], test: Sequence[tuple[int, int]]) -> Glance:
    """Return what a task is like, by its first examples.

    Args:
        task: the whole task.
        train, test: tokens of prompt and answer that the first `LOOKED_AT` examples of these splits give; of plain
            text, those of their windows.
    """

    def entries_an_example(split: str, entries: Sequence[tuple[int, int]]) -> float:
        return len(entries) / max(1, min(LOOKED_AT, len(task.split(split)))) if task.is_text else 1.0

    windows = {"train": entries_an_example("train", train), "test": entries_an_example("test", test)}
    windows["validation"] = windows["train"]
    writes = any(SCORERS[scorer].writes for scorer in task.scorers)
    asked = [example.choices for example in task.split("test")[:LOOKED_AT]]
    letters = writes or not any(len(choice) > 1 for choices in asked for choice in choices)
    return Glance(
        {name: round(windows[name] * len(task.split(name))) for name in _SPLITS},
        tuple(sorted(prompt + answer for prompt, answer in train)) or (GUESSED_TOKENS,),
        sum(answer for _, answer in train) / max(1, sum(map(sum, train))),
        fmean([prompt if writes else prompt + answer for prompt, answer in test] or [GUESSED_TOKENS / 2]),
        max((answer for _, answer in test), default=0),
        1 if letters else max(1, round(fmean(map(len, asked)))),
        writes,
        task.max_new_tokens,
        seen=True,
    )
