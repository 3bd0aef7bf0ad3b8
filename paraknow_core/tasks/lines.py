"""From a line of a known layout to an example: its turns, its answer, its choices, its id."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from paraknow_core.errors import DataError
from paraknow_core.tasks.characters import nfc, same_text
from paraknow_core.tasks.choices import offered, settle
from paraknow_core.tasks.layouts import Layout, Line, key_of, unused_sentence
from paraknow_core.tasks.task import ROLES, Example, Message
from paraknow_core.tasks.values import MISSING, find, is_empty, quoted, short, text_of, whole

_SEVERAL = ("answers", "outputs", "targets")  # names of fields that may hold several right answers
_LOST = ("nan", "NaN", "<NA>", "NaT")  # what a table's library writes as text for a value that is missing
_SPEAKERS = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant"}
_TURN = ("role", "content", "from", "value")
_CALCULATOR = re.compile(r"<<[^<>]*>>")


@dataclass
class Read:
    """Examples of one data set.

    Attributes:
        examples: one a line, in order.
        notes: sentences for the user, without the data's name.
        reading: how answers name their choice, "" without choices.
        ignored: answer columns that were no answers.
    """

    examples: list[Example]
    notes: list[str] = field(default_factory=list)
    reading: str = ""
    ignored: list[str] = field(default_factory=list)


def examples_of(lines: Sequence[Line], layout: Layout, *, hub: bool = False, hint: str = "") -> Read:
    """Turn lines of a known layout (not plain text) into examples.

    Args:
        lines, layout: see `layouts.understand`.
        hub: an `id` that is no text or whole number is not used, instead of refused.
        hint: the reading of choices in another part of the same data.

    Raises:
        DataError: names the line.
    """
    known = [_KnownLine(*line, layout) for line in lines]
    if layout.kind == "chat":
        return _conversations(known, hub)
    return _choice_examples(known, layout, hint) if layout.kind == "choice" else _answered(known, hub)


def multiple_choice(question: str, choices: tuple[str, ...], letter: str, name: str, subject: str = "") -> Example:
    """Lay a question out as the usual lettered prompt; the answer and the candidates are the letters.

    Args:
        question, choices: the texts, 2 to 26 choices.
        letter: of the right choice.
        subject: if known, named in the first line.
    """
    letters = tuple(chr(ord("A") + index) for index in range(len(choices)))
    about = f" about {subject}" if subject else ""
    lines = [f"The following are multiple choice questions (with answers){about}.", "", question.strip()]
    lines += [f"{mark}. {choice.strip()}" for mark, choice in zip(letters, choices, strict=True)]
    prompt = "\n".join([*lines, "Answer:"])
    return Example(name, (Message("user", prompt), Message("assistant", letter)), letters)


@dataclass(frozen=True)
class _KnownLine:
    """One line: its fields, its place for sentences, the id it gets if it has none, and what its fields mean."""

    fields: Mapping[str, Any]
    where: str
    name: str
    layout: Layout

    def column(self, part: str) -> str:
        """Return the first column of a part, "" without one."""
        return next(iter(self.layout.parts.get(part, ())), "")

    def value(self, part: str) -> Any:
        """Return what stands in the first column of a part."""
        return find(self.fields, self.column(part)) if self.column(part) else MISSING

    def id(self, lenient: bool) -> str:
        value, column = self.value("id"), self.column("id")
        if value is MISSING:
            return self.name
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            if lenient:
                return self.name
            raise DataError(
                f"{self.where}: {quoted(column)} is {short(value)}; give text or a whole number, or leave it out"
            )
        return text_of(value, column, self.where)

    def optional(self, part: str) -> str:
        """Return the text of a part that may be missing or empty."""
        value, column = self.value(part), self.column(part)
        if is_empty(value):
            return ""
        if isinstance(value, list) and all(isinstance(text, str) for text in value):
            return "\n\n".join(whole(text, column, self.where) for text in value if text.strip())
        if isinstance(value, Mapping):
            raise DataError(
                f"{self.where}: {quoted(column)} is an object; map a field of it, such as task.columns.{part}: "
                f"{quoted(f'{column}.{next(iter(value))}')[1:-1]}"
            )
        return text_of(value, column, self.where)

    def prompt(self) -> str:
        """Return context, question and input, with an empty line between; what is empty is left out."""
        question = self.value("question")
        if isinstance(question, list) and len(question) == 1:  # Super-NaturalInstructions gives its definition so
            question = question[0]
        context = self.optional("context")
        texts = [context, text_of(question, self.column("question"), self.where), self.optional("input")]
        return "\n\n".join(text for text in texts if text)

    def history(self) -> list[Message]:
        """Return the turns before the question: pairs of question and answer, or turns."""
        value, column, turns = self.value("history"), self.column("history"), list[Message]()
        if is_empty(value):
            return []
        for index, pair in enumerate(value if isinstance(value, list) else [value], 1):
            place = f"{self.where}, {quoted(column)} {index}"
            if isinstance(pair, Mapping):
                turns.append(_message(pair, place))
            elif isinstance(pair, list) and len(pair) == 2:
                question, answer = (text_of(text, column, place) for text in pair)
                turns += [Message("user", question), Message("assistant", answer)]
            else:
                raise DataError(f"{place}: is {short(pair)}; write a history as [[question, answer], ...]")
        return turns

    def turns(self, value: list, column: str) -> list[Message]:
        """Return the turns that a field holds."""
        called = "message" if column in ("messages", "conversations") else quoted(column)
        return [_message(turn, f"{self.where}, {called} {index}") for index, turn in enumerate(value, 1)]

    def conversation(self, turns: Sequence[Message]) -> tuple[Message, ...]:
        """Return turns that end with an answer, refused if they do not, behind the line's system text."""
        if turns[-1].role != "assistant":
            raise DataError(
                f"{self.where}: no assistant answer at the end; end each conversation with an assistant message"
            )
        if len(turns) < 2:
            raise DataError(f"{self.where}: an answer without a question; put a user message before it")
        system = self.optional("system")
        if not system:
            return tuple(turns)
        if turns[0].role != "system":
            return (Message("system", system), *turns)
        if turns[0].content.strip() != system.strip():
            raise DataError(
                f"{self.where}: {quoted(self.column('system'))} and the first message are two system texts; "
                "keep one of them"
            )
        return tuple(turns)


def _answered(lines: Sequence[_KnownLine], hub: bool) -> Read:
    read, several, lost = Read([]), 0, list[str]()
    for line in lines:
        name, column = line.id(hub), line.column("answer")
        value, number = _right_answer(line.value("answer"), column, line.where)
        several += number > 1
        asked = line.value("question")
        if isinstance(asked, list) and asked and all(isinstance(turn, Mapping) for turn in asked):
            turns = line.turns(asked, line.column("question"))
            if isinstance(value, list) and value:
                turns += line.turns(value, column)
            else:
                turns.append(Message("assistant", text_of(value, column, line.where)))
        else:
            answer = text_of(value, column, line.where)
            if answer.strip() in _LOST:
                lost.append(line.where)
            marked = answer.rstrip().rpartition("\n")[2].startswith("####")
            if marked or ("####" in answer and key_of(line.column("question")) == "question"):
                answer = _CALCULATOR.sub("", answer)
            turns = [*line.history(), Message("user", line.prompt()), Message("assistant", answer)]
        read.examples.append(Example(name, line.conversation(turns)))
    if lost:
        read.notes.append(
            f"{len(lost)} of {len(lines)} answers are the word for a missing value (the first in {lost[0]}); correct "
            "them if they were lost in a table"
        )
    if several:
        read.notes.append(
            f"{several} of {len(lines)} lines hold several answers in {quoted(lines[0].column('answer'))}; "
            "the first one is learnt and scored"
        )
    return read


def _choice_examples(lines: Sequence[_KnownLine], layout: Layout, hint: str) -> Read:
    offers, answers = [], {column: list[Any]() for column in layout.parts["answer"]}
    for line in lines:
        offers.append(offered(line.fields, layout.parts["choices"], line.where))
        for column, values in answers.items():
            values.append(_right_answer(find(line.fields, column), column, line.where)[0])
    positions, reading, ignored = settle(offers, answers, [line.where for line in lines], hint)
    read = Read([], reading=reading, ignored=ignored)
    for line, offer, position in zip(lines, offers, positions, strict=True):
        name, subject = line.id(lenient=True), line.optional("subject").replace("_", " ")
        example = multiple_choice(line.prompt(), offer.texts, chr(ord("A") + position), name, subject)
        turns = line.conversation([*line.history(), *example.messages])
        read.examples.append(Example(name, turns, example.choices))
    return read


def _conversations(lines: Sequence[_KnownLine], hub: bool) -> Read:
    read, extra = Read([]), dict[str, None]()
    for line in lines:
        name, column, value = line.id(hub), line.column("messages"), line.value("messages")
        if not isinstance(value, list) or not value:
            raise DataError(
                f"{line.where}: {quoted(column)} must be a list of turns; "
                "write [{'role': 'user', 'content': ...}, ...]"
            )
        for turn in value:
            if isinstance(turn, Mapping):
                extra |= dict.fromkeys(key for key, part in turn.items() if key not in _TURN and not is_empty(part))
        turns = line.conversation(line.turns(value, column))
        choices = _candidates(line.value("choices"), turns[-1].content, line.where)
        for choice in choices:  # the answer is learnt as the choice is scored
            if same_text(choice, turns[-1].content):
                turns = (*turns[:-1], Message("assistant", choice))
        read.examples.append(Example(name, turns, choices))
    if extra:
        read.notes.append(f"of the turns, {unused_sentence(list(extra))}")
    return read


def _message(turn: Any, where: str) -> Message:
    if not isinstance(turn, Mapping) or not ({"role", "content"} <= set(turn) or {"from", "value"} <= set(turn)):
        raise DataError(f"{where}: a turn needs the keys 'role' and 'content'; add them")
    role, key = (turn["role"], "content") if "role" in turn and "content" in turn else (turn["from"], "value")
    if isinstance(role, str) and key == "value":
        role = _SPEAKERS.get(role, role)
    if role not in ROLES:
        raise DataError(f"{where}: the role is {short(role)}; choose from {', '.join(ROLES)}")
    if not isinstance(turn[key], str):
        raise DataError(f"{where}: {quoted(key)} is {short(turn[key])}; it must be text")
    return Message(role, text_of(turn[key], key, where))


def _right_answer(value: Any, column: str, where: str) -> tuple[Any, int]:
    """Return the answer, the first one where the field holds several, and how many there are."""
    if key_of(column) not in _SEVERAL or not isinstance(value, Mapping | list):
        return value, 1
    answers = value.get("text") if isinstance(value, Mapping) else value
    if not isinstance(answers, list) or not answers:
        raise DataError(f"{where}: {quoted(column)} holds no answer; fill it in or remove the line")
    return answers[0], len({answer for answer in answers if isinstance(answer, str)})


def _candidates(choices: Any, reference: str, where: str) -> tuple[str, ...]:
    if choices is None or choices is MISSING or choices == []:
        return ()
    if not isinstance(choices, list) or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise DataError(f'{where}: \'choices\' must be a list of texts; write for example ["A", "B"]')
    if len({nfc(choice) for choice in choices}) != len(choices) or len(choices) < 2:
        raise DataError(f"{where}: 'choices' must be two or more different texts; correct them")
    if not any(same_text(choice, reference) for choice in choices):
        raise DataError(f"{where}: the answer {short(reference)} is not among the choices; add it or correct it")
    return tuple(choices)
