"""What a task is: messages, examples and a task with its splits. Plain frozen data, no heavy imports.

`Task.seed_samples` chooses the examples that sensitivity is measured with; to add a way, write its row in
`catalogue.SELECTIONS` and its branch there.
"""

import hashlib
import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from paraknow_core.catalogue import MANUAL
from paraknow_core.errors import DataError
from paraknow_core.spec import SensitivitySpec

SPLITS = ("train", "validation", "test")
ROLES = ("user", "assistant", "system")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; `role` is user, assistant or system."""

    role: str
    content: str


@dataclass(frozen=True)
class Example:
    """One conversation that ends with the assistant's answer, or (`text`) a piece of plain text without messages.

    Attributes:
        id: unique within its split.
        messages: the turns; the last one is the assistant's.
        choices: candidate answers of a multiple-choice question, the reference among them; empty otherwise.
        text: for plain language modelling; then `messages` is empty.
    """

    id: str
    messages: tuple[Message, ...] = ()
    choices: tuple[str, ...] = ()
    text: str | None = None

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Return the messages before the last assistant one."""
        return self.messages[:-1]

    @property
    def reference(self) -> str:
        """Return the content of the last assistant message; of a text example, the text."""
        return self.messages[-1].content if self.messages else self.text or ""

    @property
    def question(self) -> str:
        """Return the prompt's contents in one string, for records and for people; of a text example, nothing."""
        return "\n\n".join(message.content for message in self.prompt)

    def with_answer(self, answer: str) -> "Example":
        """Return the same conversation with another last answer."""
        return Example(self.id, (*self.prompt, Message("assistant", answer)), self.choices, None)


@dataclass(frozen=True)
class Task:
    """A named data set with its splits, its scorers and how it is rendered.

    Attributes:
        name: short name, e.g. "gsm8k"; label: for people.
        splits: train, validation and test, each a tuple of examples (validation may be empty).
        scorers: names of scorers, the first one is the task's main score.
        template: "tulu", "chat" or "plain".
        max_length: tokens of prompt and answer together; max_new_tokens: tokens an answer may take.
        warnings: sentences a user should see, e.g. about examples that occur in two splits.
        revision: commit of a hub data set, where known.
        fields: what was read from which field of the data, where its fields have names.
    """

    name: str
    label: str
    splits: Mapping[str, tuple[Example, ...]]
    scorers: tuple[str, ...]
    template: str = "tulu"
    max_length: int = 2048
    max_new_tokens: int = 256
    warnings: tuple[str, ...] = field(default=())
    revision: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_text(self) -> bool:
        """True for plain language modelling."""
        return any(example.text is not None for split in self.splits.values() for example in split[:1])

    def split(self, name: str) -> tuple[Example, ...]:
        """Return one split.

        Raises:
            DataError: there is no such split.
        """
        if name not in self.splits:
            raise DataError(f"task {self.name}: no split '{name}'; choose from {', '.join(self.splits)}")
        return self.splits[name]

    def fingerprint(self, split: str) -> str:
        """Return the SHA-256 of a split's content (not of its ids or its origin), as 64 hex digits."""
        return fingerprint(self.split(split))

    def seed_samples(self, spec: SensitivitySpec) -> tuple[Example, ...]:
        """Choose the seed samples among the training examples: the first, a random choice, or by their ids.

        Raises:
            DataError: the train split has fewer examples, or not the ids asked for.

        Source:
            Zhong et al., ICLR 2024, arXiv:2310.11451: 32 examples of the training file.
        """
        train = self.split("train")
        if spec.selection == MANUAL:
            return self._by_ids(spec.ids)
        if spec.samples > len(train):
            raise DataError(
                f"sensitivity: {spec.samples} seed samples asked for, but the train split of task {self.name} has "
                f"{len(train)} example{'' if len(train) == 1 else 's'}; set sensitivity.samples to at most that or "
                "give more training data"
            )
        if spec.selection == "first":
            return train[: spec.samples]
        chosen = random.Random(spec.seed).sample(range(len(train)), spec.samples)
        return tuple(train[index] for index in sorted(chosen))

    def _by_ids(self, ids: tuple[str, ...]) -> tuple[Example, ...]:
        by_id = {example.id: example for example in self.split("train")}
        missing = [name for name in ids if name not in by_id]
        if missing:
            raise DataError(
                f"sensitivity.ids: '{missing[0]}' is not in the train split of task {self.name} "
                f"({len(missing)} of {len(ids)} ids are not); give ids such as '{next(iter(by_id), '')}'"
            )
        if len(set(ids)) != len(ids):
            raise DataError("sensitivity.ids: an id is given twice; give each id once")
        return tuple(by_id[name] for name in ids)


def fingerprint(examples: Iterable[Example]) -> str:
    """Return the SHA-256 over the content of examples, in their order, as 64 hex digits; ids do not count."""
    digest = hashlib.sha256()
    for example in examples:
        turns = [[turn.role, turn.content] for turn in example.messages]
        content = [turns, list(example.choices), example.text]
        digest.update(json.dumps(content, ensure_ascii=True).encode() + b"\n")
    return digest.hexdigest()
