"""Layouts of data: which field is the question, the answer, the choices, ..., told from all fields of all lines.

One place for JSON lines, tables with a header and hub rows alike, with or without `task.columns`. A layout is only
recognised if every field that could belong to the prompt has its place in it; other fields are named.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from paraknow_core.errors import DataError
from paraknow_core.tasks.characters import nfc, same_text
from paraknow_core.tasks.choices import Offered, offered, settle
from paraknow_core.tasks.task import ROLES, Example, Message
from paraknow_core.tasks.values import MISSING, find, is_empty, listed, quoted, short, text_of, whole

# What `task.columns` may name. `input` follows the question in the prompt, `context` comes before it.
PARTS = ("question", "answer", "choices", "input", "context", "system", "history", "subject", "messages", "text", "id")
FORMAT_OF = {"chat": "chat_jsonl", "qa": "gsm8k", "choice": "mmlu", "text": "text"}
LETTERS = tuple("ABCDEFGHIJ")
LAYOUTS = '{"messages": [...]} or {"question": ..., "answer": ...}'
MAP = "say with task.columns which field is which, such as question: NAME, answer: NAME, input: NAME"

_MESSAGES = ("messages", "conversations")
_QUESTIONS = ("question", "instruction", "prompt", "query", "problem", "definition")
_QUESTIONS_OF_CHOICES = ("questionstem", "ctx", "goal", "sentence", "stem")
_ANSWERS = ("answer", "answers", "output", "outputs", "response", "completion", "solution", "target", "targets")
_ANSWERS_OF_CHOICES = (
    "answer",
    "answerkey",
    "answerindex",
    "answeridx",
    "correctanswer",
    "correctoption",
    "correct",
    "gold",
    "label",
)
_CHOICES = ("choices", "options", "endings", "answerchoices", "candidates", "alternatives")
_MORE = {
    "input": ("input", "inputs"),
    "context": ("context", "passage", "article"),
    "system": ("system", "systemprompt", "systemmessage"),
    "history": ("history",),
}
# Fields that cannot change a prompt; every other one that is not used is named.
_QUIET = {
    "id",
    "idx",
    "index",
    "uid",
    "uuid",
    "guid",
    "qid",
    "questionid",
    "exampleid",
    "promptid",
    "sourceid",
    "dataset",
    "split",
    "indexlevel0",
    "unnamed0",
}
_SEVERAL = ("answers", "outputs", "targets")  # names of fields that may hold several right answers
_LOST = ("nan", "NaN", "<NA>", "NaT")  # what a table's library writes as text for a value that is missing
_LETTERED = re.compile(r"(choice|option|opt|ending|sol|alternative|candidate|answer|op)?([a-j]|10|[0-9])")
_NUMBERED = re.compile(r"(choice|option|opt|ending|sol|alternative|candidate)([a-j]|10|[0-9])")
_SPEAKERS = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant"}
_CALCULATOR = re.compile(r"<<[^<>]*>>")

Line = tuple[Mapping[str, Any], str, str]  # its fields, its place for sentences, the id it gets if it has none


@dataclass(frozen=True)
class Layout:
    """What a set of fields means.

    Attributes:
        kind: a key of FORMAT_OF.
        parts: part of PARTS -> its columns (choices: one or one each; answer: those that must agree).
    """

    kind: str
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[str, ...]:
        """Return what all lines of one data set share; a context or a system may be missing from some."""
        return (
            self.kind,
            *(
                self.parts[part][0]
                for part in ("question", "answer", "choices", "messages", "text")
                if part in self.parts and (part != "choices" or self.kind == "choice")
            ),
        )

    @property
    def used(self) -> set[str]:
        """Return every column that is read."""
        return {column for columns in self.parts.values() for column in columns}

    @property
    def fields(self) -> dict[str, str]:
        """Return part -> its columns in words, for people."""
        return {part: ", ".join(columns) for part, columns in self.parts.items()}


class UnclearError(Exception):
    """The fields cannot be told apart; the text says why, without a place."""


class UnknownLayoutError(DataError):
    """The fields are not understood; `task.columns` can say what they are."""


class ColumnsError(DataError):
    """`task.columns` names a field that the data does not have."""


def mapping_of(columns: Mapping[str, str], names: Collection[str], title: str) -> dict[str, tuple[str, ...]]:
    """Check `task.columns` against the fields there are.

    Args:
        columns: part -> a field (`choices.text` for a field of a field; for choices also fields with commas between);
            an empty name keeps a part from being filled.
        names: all fields there are.
        title: names the data.

    Raises:
        DataError: an unknown part.
        ColumnsError: a field that is not there.
    """
    found: dict[str, tuple[str, ...]] = {}
    for part, name in columns.items():
        if part not in PARTS:
            raise DataError(f"task.columns: unknown key {quoted(part)}; known keys are {', '.join(PARTS)}")
        several = part == "choices" and name not in names and "," in name
        wanted = [each.strip() for each in name.split(",")] if several else [name]
        for each in wanted:
            if each and each not in names and each.partition(".")[0] not in names:
                raise ColumnsError(
                    f"{title}: task.columns.{part} is {quoted(each)}, which is not a column; "
                    f"its columns are {', '.join(quoted(each)[1:-1] for each in names)[:200]}"
                )
        found[part] = tuple(each for each in wanted if each)
    return found


def recognise(names: Collection[str], given: Mapping[str, tuple[str, ...]], format: str = "auto") -> Layout:
    """Tell from names alone what fields mean.

    Args:
        names: the fields that say something.
        given: parts that the user mapped; an empty tuple for one that is to stay empty.
        format: "chat_jsonl", "gsm8k", "mmlu" or "text" if the user gave it; else anything.

    Raises:
        UnclearError: no layout explains all fields that may belong to the prompt.
    """
    return _Names(names, given, format).layout()


def guess(names: Collection[str]) -> dict[str, str]:
    """Return part -> the field that it most likely is, also where a layout is not clear; to be checked by a person."""
    try:
        return {part: columns.replace(", ", ",") for part, columns in recognise(names, {}).fields.items()}
    except UnclearError:
        pass
    known = _Names(names, {}, "auto")
    words = {
        "question": (*_QUESTIONS, *_QUESTIONS_OF_CHOICES, "text"),
        "answer": (*_ANSWERS, *_ANSWERS_OF_CHOICES),
        "choices": _CHOICES,
        "messages": _MESSAGES,
        **_MORE,
    }
    likely: dict[str, str] = {}
    for part, usual in words.items():
        found = next((name for name in known.pick(usual) if name not in likely.values()), None)
        likely |= {part: found} if found is not None else {}
    if known.letters and "choices" not in likely:
        likely["choices"] = ",".join(known.letters[0])
    if "question" not in likely and "input" in likely:
        likely["question"] = likely.pop("input")
    return likely


def unused(names: Iterable[str], layout: Layout) -> list[str]:
    """Return the fields that a layout does not read and that could matter, in their order."""
    roots = {column.partition(".")[0] for column in layout.used}
    return [name for name in names if name not in layout.used and name not in roots and _key(name) not in _QUIET]


def is_relevant(name: str) -> bool:
    """True for a field that recognising a layout asks for; others are only named."""
    key = _key(name)
    return key in _RELEVANT or _LETTERED.fullmatch(key) is not None


class _Names:
    """The fields of a line, by the usual spellings of their names."""

    def __init__(self, names: Collection[str], given: Mapping[str, tuple[str, ...]], format: str) -> None:
        self.given, self.names, self.format = given, list(names), format
        mapped = {column if column in names else column.partition(".")[0] for each in given.values() for column in each}
        self.by: dict[str, str] = {}
        for name in sorted((n for n in names if n not in mapped), key=lambda n: (n != n.casefold(), n)):
            self.by.setdefault(_key(name), name)
        self.letters = self._lettered()

    def layout(self) -> Layout:
        given, wanted = self.given, self.format
        own = any(given.get(part) for part in ("question", "answer", "choices", "text"))
        if given.get("messages") or (not own and wanted in ("auto", "chat_jsonl", "hub") and self.pick(_MESSAGES)):
            return self._chat()
        if wanted == "chat_jsonl":
            raise UnclearError("there is no field messages")
        asked = any(given.get(part) for part in ("question", "answer", "choices"))
        if given.get("text") and not asked:
            return Layout("text", {"text": given["text"]})
        if wanted != "text":
            found = self._answered()
            if found is not None:
                return found
        if "text" in self.by and wanted in ("auto", "text", "hub") and not asked:
            others = [name for name in self.by.values() if _key(name) in _RELEVANT - {"text", "id"}]
            if others and wanted != "text":
                raise UnclearError(f"the field {quoted(others[0])} beside 'text' may be a question or an answer")
            return Layout("text", {"text": (self.by["text"],)})
        raise UnclearError("")

    def _chat(self) -> Layout:
        parts = {"messages": self.given.get("messages") or self.pick(_MESSAGES)[:1]}
        for part, words in (("system", _MORE["system"]), ("choices", ("choices",)), ("id", ("id",))):
            parts |= self._part(part, words)
        return Layout("chat", {part: columns for part, columns in parts.items() if columns})

    def _answered(self) -> Layout | None:
        """Return the layout of questions with answers; None where there is no question or no answer at all."""
        choices = self._choices()
        question, taken = self._question(bool(choices)), set()
        if not question:
            return None
        taken.update(question)
        answer = self._answer(question, bool(choices))
        if not answer:
            return None
        parts = {"question": question, "answer": answer, "choices": choices}
        for part, words in _MORE.items():
            parts |= self._part(part, words, taken)
        parts |= {part: self.given[part] for part in ("subject", "id") if self.given.get(part)}
        # A context that an instruction works on follows it; one of a question comes before it.
        if _key(question[0]) == "instruction" and "context" not in self.given and not parts.get("input"):
            parts["input"] = parts.pop("context", ())
        found = Layout("choice" if choices else "qa", {part: columns for part, columns in parts.items() if columns})
        self._refuse_loose(found)
        if self.format == "gsm8k" and choices:
            raise UnclearError(
                f"format gsm8k has no choices, and {quoted(choices[0])} holds some; use format mmlu, or auto"
            )
        if self.format == "mmlu" and not choices:
            raise UnclearError("format mmlu needs choices, and no field holds any")
        return found

    def _part(self, part: str, words: Sequence[str], taken: Collection[str] = ()) -> dict[str, tuple[str, ...]]:
        if part in self.given:
            return {part: self.given[part]}
        return {part: tuple(name for name in self.pick(words) if name not in taken)[:1]}

    def _question(self, choices: bool) -> tuple[str, ...]:
        if self.given.get("question"):
            return self.given["question"]
        asked = self.pick(_QUESTIONS) or (self.pick(_QUESTIONS_OF_CHOICES) if choices else ())
        if "question" in self.by:
            return (self.by["question"],)
        if len(asked) > 1:
            raise UnclearError(f"{listed(asked)} may each be the question")
        return asked or (self.pick(_MORE["input"])[:1] if "input" not in self.given else ())

    def _answer(self, question: tuple[str, ...], choices: bool) -> tuple[str, ...]:
        if self.given.get("answer"):
            return self.given["answer"]
        told = self.pick(_ANSWERS)
        if choices:
            named = self.pick(_ANSWERS_OF_CHOICES)
            # A label beside an answer may be anything.
            if named:
                return tuple(name for name in named if _key(name) != "label") or named
        if "answer" in self.by and (_key(question[0]) == "question" or self.given.get("question")):
            return (self.by["answer"],)
        if len(told) > 1:
            raise UnclearError(f"{listed(told)} may each be the answer")
        return told

    def _choices(self) -> tuple[str, ...]:
        if "choices" in self.given:
            return self.given["choices"]
        lists = self.pick(_CHOICES)
        if len(lists) + len(self.letters) > 1:
            raise UnclearError(f"{listed([*lists, *(row[0] for row in self.letters)])} may each hold the choices")
        return lists or (self.letters[0] if self.letters else ())

    def _lettered(self) -> list[tuple[str, ...]]:
        """Return every run of fields such as A, B, C or choice1, choice2."""
        runs: dict[str, dict[int, str]] = {}
        for key, name in self.by.items():
            found = _LETTERED.fullmatch(key)
            prefix, mark = (found.group(1) or "", found.group(2)) if found else ("", "")
            if mark.isdigit() and prefix in ("", "answer", "op"):
                continue
            if mark:
                runs.setdefault(prefix + ("0" if mark.isdigit() else "a"), {})[
                    int(mark) if mark.isdigit() else ord(mark) - ord("a")
                ] = name
        rows = []
        for run in runs.values():
            start = min(run)
            row = tuple(run[start + step] for step in range(len(run)) if start + step in run)
            if len(run) > 1 and start <= 1 and len(row) == len(run):
                rows.append(row)
        return rows

    def _refuse_loose(self, layout: Layout) -> None:
        """Refuse a field that may belong to the prompt and has no place; whoever maps fields has decided about it."""
        if self.given.keys() - {"id"}:
            return
        asking = {*_QUESTIONS, *_CHOICES, *(word for words in _MORE.values() for word in words)}
        letters = [key for key in self.by if len(key) == 1 and "a" <= key <= "j"]
        asking |= set(letters) if len(letters) > 1 else set()
        for name in unused(self.names, layout):
            if _key(name) in asking or _NUMBERED.fullmatch(_key(name)):
                raise UnclearError(f"the field {quoted(name)} may belong to the prompt")

    def pick(self, words: Iterable[str]) -> tuple[str, ...]:
        """Return the fields with one of these names, in the order of the names."""
        return tuple(self.by[word] for word in words if word in self.by)


def understand(
    lines: Sequence[Line], columns: Mapping[str, str], format: str, title: str, names: Sequence[str] | None = None
) -> tuple[Layout, list[str]]:
    """Tell what the fields of all lines mean.

    Args:
        lines: all lines of a data set.
        columns: `task.columns`; format: `task.format`; title: names the data.
        names: its columns, where lines hold only those that matter.

    Returns:
        The layout, and the fields that it does not read and that may matter.

    Raises:
        DataError: most lines have no known layout, or one line has another than most.
    """
    seen: dict[str, bool] = dict.fromkeys(names or (), False)
    for fields, _, _ in lines:
        for name, value in fields.items():
            if not seen.get(name, False):
                seen[name] = not is_empty(value)
    given = mapping_of(columns, seen, title)
    speaking = {name for name, says in seen.items() if says or name == "id"}
    speaking |= {name for name in names or () if not is_relevant(name)}
    mapped = {column for each in given.values() for column in each}
    mapped |= {column.partition(".")[0] for column in mapped if column not in seen}
    kept = {name for name in speaking if is_relevant(name)} | mapped
    groups: Counter[frozenset[str]] = Counter(frozenset(kept.intersection(fields)) for fields, _, _ in lines)
    layouts = {group: _recognised(group, given, format) for group in groups}
    shapes: Counter[tuple[str, ...] | None] = Counter()
    for group, number in groups.items():
        found = layouts[group]
        shapes[found.shape if isinstance(found, Layout) else None] += number
    known = {shape: number for shape, number in shapes.items() if shape}
    shape = max(known, key=known.__getitem__) if known else None  # the first one where there are as many of two
    if shape is None or shapes[None] > known[shape]:
        raise _unknown(lines, layouts, kept, title if names else "", names)
    together = set().union(*(g for g, found in layouts.items() if isinstance(found, Layout) and found.shape == shape))
    layout = _recognised(together, given, format)
    if not isinstance(layout, Layout) or layout.shape != shape:
        fields, where, _ = lines[0]
        raise UnknownLayoutError(_sentence(where, fields, str(layout) if isinstance(layout, UnclearError) else ""))
    for fields, where, _ in lines:
        found = layouts[frozenset(kept.intersection(fields))]
        if not isinstance(found, Layout) or found.shape != shape:
            raise _odd(fields, where, layout, found, known[shape], len(lines))
    return layout, unused([name for name in seen if seen[name] or name in speaking], layout)


def _recognised(names: Collection[str], given: Mapping, format: str) -> Layout | UnclearError:
    try:
        return recognise(names, given, format)
    except UnclearError as error:
        return error


def _unknown(
    lines: Sequence[Line],
    layouts: Mapping[frozenset, Layout | UnclearError],
    kept: set[str],
    title: str,
    names: Sequence[str] | None,
) -> DataError:
    for fields, where, _ in lines:
        found = layouts[frozenset(kept.intersection(fields))]
        if isinstance(found, UnclearError):
            return UnknownLayoutError(_sentence(title or where, names or fields, str(found)))
    raise AssertionError("no line is unclear")


def _sentence(where: str, fields: Iterable[str], why: str) -> str:
    names = list(fields)
    shown = ", ".join(quoted(name)[1:-1] for name in names[:8])[:120] or "none"
    reason = f" ({why})" if why else ""
    return f"{where}: unknown layout with keys {shown}{reason}; write each line as {LAYOUTS}, or {MAP}"


def _odd(
    fields: Mapping[str, Any], where: str, layout: Layout, found: Layout | UnclearError, number: int, total: int
) -> DataError:
    """Name the one line that is not like the others."""
    needed = [
        column
        for part in ("messages", "text", "question", "answer", "choices")
        for column in layout.parts.get(part, ())[:1]
        if part != "choices" or layout.kind == "choice"
    ]
    absent = next((column for column in needed if find(fields, column) is MISSING), None)
    if absent is not None:
        return DataError(
            f"{where}: has no {quoted(absent)}, which {number} of {total} lines have; fill it in or remove the line"
        )
    if isinstance(found, Layout):
        extra = next((name for name in fields if name in found.used and name not in layout.used), None)
        why = f"also has {quoted(extra)}, which" if extra is not None else "has other fields than"
        middle = f"{number} of {total} lines do not have" if extra is not None else f"{number} of {total} lines"
        return DataError(f"{where}: {why} {middle}; give every line the same fields, or remove the line")
    return DataError(_sentence(where, fields, str(found)))


# --- from a line to an example --------------------------------------------------------------------------------------


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
        lines, layout: see `understand`.
        hub: an `id` that is no text or whole number is not used, instead of refused.
        hint: the reading of choices in another part of the same data.

    Raises:
        DataError: names the line.
    """
    if layout.kind == "chat":
        return _conversations(lines, layout, hub)
    if layout.kind == "choice":
        return _choice_examples(lines, layout, hint)
    read, several, lost = Read([]), 0, list[str]()
    (answer_column, *_), (column, *_) = layout.parts["answer"], layout.parts["question"]
    for fields, where, name in lines:
        name = _own_id(fields, layout, where, name, hub)
        given, number = _right_answer(find(fields, answer_column), answer_column, where)
        several += number > 1
        asked = find(fields, column)
        if isinstance(asked, list) and asked and all(isinstance(turn, Mapping) for turn in asked):
            turns = [*_turns(asked, column, where), *_closing(given, answer_column, where)]
            read.examples.append(Example(name, _with_system(_checked(turns, where), fields, layout, where)))
            continue
        answer = text_of(given, answer_column, where)
        if answer.strip() in _LOST:
            lost.append(where)
        if "####" in answer and (_key(column) == "question" or answer.rstrip().rpartition("\n")[2].startswith("####")):
            answer = _CALCULATOR.sub("", answer)
        turns = (
            *_before(fields, layout, where),
            Message("user", _prompt(fields, layout, where)),
            Message("assistant", answer),
        )
        read.examples.append(Example(name, _with_system(turns, fields, layout, where)))
    if lost:
        read.notes.append(
            f"{len(lost)} of {len(lines)} answers are the word for a missing value (the first in {lost[0]}); correct "
            "them if they were lost in a table"
        )
    if several:
        read.notes.append(
            f"{several} of {len(lines)} lines hold several answers in {quoted(answer_column)}; "
            "the first one is learnt and scored"
        )
    return read


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


def _choice_examples(lines: Sequence[Line], layout: Layout, hint: str) -> Read:
    offers: list[Offered] = []
    answers: dict[str, list[Any]] = {column: [] for column in layout.parts["answer"]}
    places = [where for _, where, _ in lines]
    for fields, where, _ in lines:
        offers.append(offered(fields, layout.parts["choices"], where))
        for column, values in answers.items():
            values.append(_right_answer(find(fields, column), column, where)[0])
    positions, reading, ignored = settle(offers, answers, places, hint)
    read = Read([], reading=reading, ignored=ignored)
    for (fields, where, name), offer, position in zip(lines, offers, positions, strict=True):
        name = _own_id(fields, layout, where, name, True)
        subject = _optional(fields, layout, "subject", where).replace("_", " ")
        example = multiple_choice(_prompt(fields, layout, where), offer.texts, chr(65 + position), name, subject)
        turns = _with_system((*_before(fields, layout, where), *example.messages), fields, layout, where)
        read.examples.append(Example(name, turns, example.choices))
    return read


def _conversations(lines: Sequence[Line], layout: Layout, hub: bool) -> Read:
    read, extra = Read([]), dict[str, None]()
    column = layout.parts["messages"][0]
    for fields, where, name in lines:
        name = _own_id(fields, layout, where, name, hub)
        given = find(fields, column)
        if not isinstance(given, list) or not given:
            raise DataError(
                f"{where}: {quoted(column)} must be a list of turns; write [{{'role': 'user', 'content': ...}}, ...]"
            )
        for turn in given:
            if isinstance(turn, Mapping):
                extra |= dict.fromkeys(key for key, value in turn.items() if key not in _TURN and not is_empty(value))
        turns = _with_system(_checked(_turns(given, column, where), where), fields, layout, where)
        given = find(fields, layout.parts["choices"][0]) if layout.parts.get("choices") else None
        choices = _candidates(given, turns[-1].content, where)
        for choice in choices:  # the answer is learnt as the choice is scored
            if same_text(choice, turns[-1].content):
                turns = (*turns[:-1], Message("assistant", choice))
        read.examples.append(Example(name, turns, choices))
    if extra:
        read.notes.append(f"of the turns, {_fields_are(list(extra))} not used")
    return read


_TURN = ("role", "content", "from", "value")


def unused_sentence(names: Sequence[str]) -> str:
    """Say which fields are not used."""
    return f"{_fields_are(names)} not used"


def _fields_are(names: Sequence[str]) -> str:
    return f"the field{'s' * (len(names) > 1)} {listed(names)} {'are' if len(names) > 1 else 'is'}"


def _turns(given: list, column: str, where: str) -> list[Message]:
    return [
        _message(turn, f"{where}, {'message' if column in _MESSAGES else quoted(column)} {index}")
        for index, turn in enumerate(given, 1)
    ]


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


def _checked(turns: Sequence[Message], where: str) -> tuple[Message, ...]:
    if turns[-1].role != "assistant":
        raise DataError(f"{where}: no assistant answer at the end; end each conversation with an assistant message")
    if len(turns) < 2:
        raise DataError(f"{where}: an answer without a question; put a user message before it")
    return tuple(turns)


def _closing(given: Any, column: str, where: str) -> list[Message]:
    """Return the answer after a prompt that is a list of turns: turns too, or one text."""
    if isinstance(given, list) and given:
        return _turns(given, column, where)
    return [Message("assistant", text_of(given, column, where))]


def _with_system(turns: Sequence[Message], fields: Mapping, layout: Layout, where: str) -> tuple[Message, ...]:
    system = _optional(fields, layout, "system", where)
    if not system:
        return tuple(turns)
    if turns[0].role == "system":
        if turns[0].content.strip() == system.strip():
            return tuple(turns)
        column = layout.parts["system"][0]
        raise DataError(f"{where}: {quoted(column)} and the first message are two system texts; keep one of them")
    return (Message("system", system), *turns)


def _before(fields: Mapping, layout: Layout, where: str) -> list[Message]:
    """Return the turns of a history: pairs of question and answer, or turns."""
    if not layout.parts.get("history"):
        return []
    (column, *_) = layout.parts["history"]
    given, turns = find(fields, column), list[Message]()
    if is_empty(given):
        return []
    for index, pair in enumerate(given if isinstance(given, list) else [given], 1):
        place = f"{where}, {quoted(column)} {index}"
        if isinstance(pair, Mapping):
            turns.append(_message(pair, place))
        elif isinstance(pair, list) and len(pair) == 2:  # question and answer
            turns += [
                Message(role, text_of(text, column, place))
                for role, text in zip(("user", "assistant"), pair, strict=True)
            ]
        else:
            raise DataError(f"{place}: is {short(pair)}; write a history as [[question, answer], ...]")
    return turns


def _prompt(fields: Mapping, layout: Layout, where: str) -> str:
    """Return context, question and input, with an empty line between; what is empty is left out."""
    (column, *_) = layout.parts["question"]
    question = find(fields, column)
    if isinstance(question, list) and len(question) == 1:  # Super-NaturalInstructions gives its definition so
        question = question[0]
    texts = [
        _optional(fields, layout, "context", where),
        text_of(question, column, where),
        _optional(fields, layout, "input", where),
    ]
    return "\n\n".join(text for text in texts if text)


def _optional(fields: Mapping, layout: Layout, part: str, where: str) -> str:
    if not layout.parts.get(part):
        return ""
    (column, *_) = layout.parts[part]
    value = find(fields, column)
    if is_empty(value):
        return ""
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return "\n\n".join(whole(each, column, where) for each in value if each.strip())
    if isinstance(value, Mapping):
        raise DataError(
            f"{where}: {quoted(column)} is an object; map a field of it, such as task.columns.{part}: "
            f"{quoted(f'{column}.{next(iter(value))}')[1:-1]}"
        )
    return text_of(value, column, where)


def _right_answer(value: Any, column: str, where: str) -> tuple[Any, int]:
    """Return the answer, the first one where the field holds several, and how many there are."""
    if _key(column) not in _SEVERAL or not isinstance(value, Mapping | list):
        return value, 1
    found = value.get("text") if isinstance(value, Mapping) else value
    if not isinstance(found, list) or not found:
        raise DataError(f"{where}: {quoted(column)} holds no answer; fill it in or remove the line")
    return found[0], len({each for each in found if isinstance(each, str)})


def _candidates(given: Any, reference: str, where: str) -> tuple[str, ...]:
    if given is None or given is MISSING or given == []:
        return ()
    if not isinstance(given, list) or not all(isinstance(choice, str) and choice.strip() for choice in given):
        raise DataError(f'{where}: \'choices\' must be a list of texts; write for example ["A", "B"]')
    if len({nfc(choice) for choice in given}) != len(given) or len(given) < 2:
        raise DataError(f"{where}: 'choices' must be two or more different texts; correct them")
    if not any(same_text(choice, reference) for choice in given):
        raise DataError(f"{where}: the answer {short(reference)} is not among the choices; add it or correct it")
    return tuple(given)


def _own_id(fields: Mapping, layout: Layout, where: str, name: str, lenient: bool) -> str:
    if not layout.parts.get("id"):
        return name
    (column, *_) = layout.parts["id"]
    given = find(fields, column)
    if given is MISSING:
        return name
    if isinstance(given, bool) or not isinstance(given, str | int) or given == "":
        if lenient:
            return name
        raise DataError(f"{where}: {quoted(column)} is {short(given)}; give text or a whole number, or leave it out")
    return text_of(given, column, where)


def _key(name: str) -> str:
    """Return a field's name without case, spaces and hyphens; of `a.b` the whole."""
    return re.sub(r"[\s_:-]", "", name).casefold() if isinstance(name, str) else ""


_RELEVANT = {
    *_MESSAGES,
    *_QUESTIONS,
    *_QUESTIONS_OF_CHOICES,
    *_ANSWERS,
    *_ANSWERS_OF_CHOICES,
    *_CHOICES,
    "id",
    "text",
    *(word for words in _MORE.values() for word in words),
}
