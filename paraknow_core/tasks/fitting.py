"""Whether the examples of a task fit the models that will read them: in length, and in the tokens they need.

Needs tokenizers, but no weights: all of it is known before anything costly begins.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from os.path import commonprefix
from typing import Any, Literal

from paraknow_core.catalogue import MANUAL, SCORERS
from paraknow_core.errors import DataError, ModelError
from paraknow_core.remembered import Remembered
from paraknow_core.spec import SensitivitySpec
from paraknow_core.tasks.chat import TODAY, asks_for_the_date, chat_parts
from paraknow_core.tasks.likelihood import choice_rows
from paraknow_core.tasks.task import Example, Task
from paraknow_core.tasks.templates import Encoded, TooLongError, encode_prompt, encode_split
from paraknow_core.tasks.thoughts import judged

Use = Literal["learn", "write", "choose", "judge"]
Step = Callable[[Sequence[Example], str], Iterable[Example]]  # yields them again, and tells of the progress


# Of all readers of this process: up to a million tokens, about 50 MB.
_TOKENS: Remembered[list[Encoded]] = Remembered(2**20, lambda entries: 8 + sum(len(e.input_ids) for e in entries))


@dataclass(frozen=True)
class Reader:
    """A model as a reader of examples.

    Attributes:
        who: teacher, student or judge, and which model, for messages.
        tokenizer: its own.
        context: tokens it can read at once.
        rows: of its embedding.
        identity: names the content of its tokenizer, whose tokens are then shared by the runs of a process; "": not.
        encoded: what was tokenised for a loss already; used again for the same task.
    """

    who: str
    tokenizer: Any
    context: int
    rows: int
    identity: str = ""
    encoded: dict[Example, list[Encoded]] = field(default_factory=dict, repr=False)

    def encode(self, example: Example, task: Task) -> list[Encoded]:
        """Return one example (of a text task: its windows) as tokens and labels; see `encode_split`.

        Raises:
            TooLongError: nothing of the answer is left. ModelError: a token has no row in the embedding.
        """
        if example not in self.encoded:
            how = (self.identity, self.context, self.rows, task.template, task.max_length, task.is_text)
            work = partial(self._encode, example, task)
            self.encoded[example] = _TOKENS.recall((*how, example), work) if self.identity else work()
        return self.encoded[example]

    def _encode(self, example: Example, task: Task) -> list[Encoded]:
        entries = encode_split([example], task, self.tokenizer, self.context)
        self._check(example, (entry.input_ids for entry in entries))
        return entries

    def read(self, example: Example, task: Task, uses: Iterable[Use]) -> None:
        """Try whether an example can be used as it will be.

        Raises:
            TooLongError: it does not fit the limit. ModelError: a token has no row in the embedding.
        """
        limit = min(task.max_length, self.context)
        for use in uses:
            if use == "learn":
                self.encode(example, task)
            elif use == "judge":
                self.encode(example.with_answer(judged("", example.reference)[1]), task)
            elif use == "write":
                of_model = limit < task.max_length
                prompt = encode_prompt(example, task.template, self.tokenizer, limit, room=1, of_model=of_model)
                self._check(example, [prompt])
            else:
                for row in choice_rows(example, task.template, self.tokenizer, limit):
                    self._check(example, [row.tokens, [token for group in row.asked for _, token in group]])

    def _check(self, example: Example, ids: Iterable[Sequence[int]]) -> None:
        for tokens in ids:
            check_rows(tokens, self.rows, self.tokenizer, f"example {example.id}", self.who)


Readings = Sequence[tuple[Reader, tuple[Use, ...]]]


def check_rows(ids: Sequence[int], rows: int, tokenizer: Any, where: str, who: str = "model") -> None:
    """Refuse a token that the model's embedding has no row for.

    Args:
        ids: of a text; rows: of the embedding.
        where: the text's name; who: the model's.

    Raises:
        ModelError: names token and size.
    """
    token = next((token for token in ids if token >= rows), None)
    if token is not None:
        name = tokenizer.convert_ids_to_tokens(token)
        raise ModelError(
            f"{who}: token '{name}' (id {token}) of {where} has no row in the embedding of {rows} tokens; give the "
            "tokenizer that belongs to these weights, or resize the embedding to the tokenizer and save the model anew"
        )


def rows_of(model: Any) -> int:
    """Return how many tokens a loaded model's embedding has rows for."""
    embedding = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    return embedding.weight.shape[0] if embedding is not None else 1 << 31


def scoring_uses(scorers: Iterable[str]) -> tuple[Use, ...]:
    """Return how a scored model reads the test split."""
    uses: dict[str, Use] = {"writing": "write", "judge": "write", "choice": "choose", "reading": "learn"}
    asked = {uses[SCORERS[name].by] for name in scorers}
    return tuple(use for use in ("write", "choose", "learn") if use in asked)


def check(examples: Sequence[Example], what: str, task: Task, readings: Readings, follow: Step) -> None:
    """Refuse examples that do not fit, before anything costly.

    Args:
        examples: a split, or the seed samples; `what` names them.
        task: theirs.
        readings: who reads them, and how.
        follow: tells of the progress.

    Raises:
        TooLongError: names the first that is too long, and how many there are. ModelError: see `check_rows`.
    """
    for reader, uses in readings:
        first, count = None, 0
        for example in follow(examples, f"reading the {what} as the {reader.who.partition(' ')[0]}"):
            try:
                reader.read(example, task, uses)
            except TooLongError as error:
                first, count = first or error, count + 1
        if first is not None:
            many = f"{count} of the {len(examples)} {what} are" if count > 1 else f"this one of the {what} is"
            raise TooLongError(f"{first} ({many} too long for the {reader.who}; task.too_long: leave_out does without)")


def leave_out(task: Task, readings: Mapping[str, Readings], follow: Step) -> tuple[Task, dict[str, int]]:
    """Return a task without the examples that are too long for one of their readers, and how many of each split went.

    Raises:
        DataError: nothing is left of train or test.
    """
    splits, left = dict(task.splits), {}
    for name, readers in readings.items():
        splits[name], left[name] = fitting(task.split(name), name, task, readers, follow)
        if left[name] and not splits[name] and name != "validation":
            raise _nothing_left(name, left[name], task)
    return replace(task, splits=splits), left


def fitting(
    examples: Sequence[Example], what: str, task: Task, readings: Readings, follow: Step
) -> tuple[tuple[Example, ...], int]:
    """Return the examples that all of their readers can take, in their order, and the number of the others."""
    kept = tuple(examples)
    for reader, uses in readings:
        kept = tuple(e for e in follow(kept, f"leaving out what is too long: {what}") if _fits(e, task, reader, uses))
    return kept, len(examples) - len(kept)


def seeds_that_fit(
    task: Task, whole: Task, spec: SensitivitySpec, readings: Readings, follow: Step
) -> tuple[tuple[Example, ...], int]:
    """Choose seed samples among the training examples that fit; also return how many did not.

    Args:
        task: what is left of the task for its other readers; whole: the task with what was left out.
        spec: which; ids that are given by hand and too long are left out too.
        readings: the teacher.
        follow: tells of the progress.

    Raises:
        DataError: there are too few, or an id is unknown.
    """
    chosen = whole.seed_samples(spec) if spec.selection == MANUAL else task.split("train")
    kept, _ = fitting(chosen, "seed samples", task, readings, follow)
    train = set(task.split("train"))
    kept = tuple(example for example in kept if example in train)
    if not kept:
        raise _nothing_left("seed samples", len(chosen), task)
    left = replace(task, splits={**task.splits, "train": kept})
    return kept if spec.selection == MANUAL else left.seed_samples(spec), len(chosen) - len(kept)


def _nothing_left(what: str, count: int, task: Task) -> DataError:
    """Return the refusal of a split of which every example is too long."""
    return DataError(
        f"task {task.name}: task.too_long leaves out all {count} examples for {what}, nothing is left; raise "
        "task.max_length, give shorter examples, or take a model with a longer context"
    )


def _fits(example: Example, task: Task, reader: Reader, uses: Iterable[Use]) -> bool:
    try:
        reader.read(example, task, uses)
    except TooLongError:
        return False
    return True


def left_out_sentence(left: Mapping[str, int]) -> str:
    """Say how many examples were left out; empty if none was."""
    counts = ", ".join(f"{count} of {name}" for name, count in left.items() if count)
    return f"task.too_long: left out as too long for the limit: {counts}" if counts else ""


def date_of(readers: Iterable[Reader], task: Task) -> str | None:
    """Return the day that chat templates are told, where one asks for it."""
    asked = task.template == "chat" and any(asks_for_the_date(reader.tokenizer) for reader in readers)
    return TODAY.date().isoformat() if asked else None


def template_notes(examples: Sequence[Example], task: Task, readers: Iterable[Reader]) -> list[str]:
    """Say what the models' chat templates do that a reader of the results should know.

    Args:
        examples: of the task; the first one stands for all of them.
        task: theirs.
        readers: the models.
    """
    if task.template != "chat" or task.is_text or not examples:
        return []
    notes: dict[str, list[str]] = defaultdict(list)  # note -> the models that it is true of
    for reader in readers:
        for note in _notes(examples[0], reader):
            notes[note].append(reader.who)
    return [f"chat template of the {' and the '.join(dict.fromkeys(who))}: {note}" for note, who in notes.items()]


def _notes(example: Example, reader: Reader) -> Iterable[str]:
    if asks_for_the_date(reader.tokenizer):
        yield f"asks for the date; it is told {TODAY.date().isoformat()} in every run, so that numbers can be repeated"
    parts = chat_parts(example, reader.tokenizer)
    if parts.opening is not None and parts.opening != parts.prompt:
        texts = (parts.prompt, parts.opening)
        at = len(commonprefix(texts))
        written, asked = (repr(text[at : at + 60]) if text[at:] else "nothing" for text in texts)
        yield (
            f"writes {written} before an answer, where its generation prompt has {asked}; the former is given in "
            "training, writing and scoring alike, so give it to an exported model too"
        )
    changed = [entry for entries in reader.encoded.values() for entry in entries if entry.rewritten]
    if changed:
        yield (
            f"would write {len(changed)} of the answers otherwise than the data has them (first: {changed[0].id}); "
            "they are learnt and scored as the data has them"
        )
