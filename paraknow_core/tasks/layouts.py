"""Layouts of data: which field is the question, the answer, the choices, ..., told from all fields of all lines.

One place for JSON lines, tables with a header and hub rows alike, with or without `task.columns`. A layout is only
recognised if every field that could belong to the prompt has its place in it; other fields are named.

To let a known layout have another name of a field, add the name to `_USUAL`. To add a kind of layout: its key in
`FORMAT_OF`, how its fields are recognised in `_Names.layout`, and how its lines become examples in
`lines.examples_of`. Files without named fields (plain text, bare tables) are the business of `formats`.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from paraknow_core.errors import DataError
from paraknow_core.tasks.values import MISSING, find, is_empty, listed, quoted

# What `task.columns` may name. `input` follows the question in the prompt, `context` comes before it.
PARTS = ("question", "answer", "choices", "input", "context", "system", "history", "subject", "messages", "text", "id")
FORMAT_OF = {"chat": "chat_jsonl", "qa": "gsm8k", "choice": "mmlu", "text": "text"}
LAYOUTS = '{"messages": [...]} or {"question": ..., "answer": ...}'
MAP = "say with task.columns which field is which, such as question: NAME, answer: NAME, input: NAME"

# part of a prompt -> the names that its field usually has (see `_key`), the likeliest first. Two parts have more names
# where there are choices.
_USUAL = {
    part: tuple(names.split())
    for part, names in {
        "question": "question instruction prompt query problem definition",
        "question of choices": "questionstem ctx goal sentence stem",
        "answer": "answer answers output outputs response completion solution target targets",
        "answer of choices": "answer answerkey answerindex answeridx correctanswer correctoption correct gold label",
        "choices": "choices options endings answerchoices candidates alternatives",
        "messages": "messages conversations",
        "input": "input inputs",
        "context": "context passage article",
        "system": "system systemprompt systemmessage",
        "history": "history",
    }.items()
}
_AROUND = ("input", "context", "system", "history")  # parts that a question may have or not
_ASKING = {name for part in ("question", "choices", *_AROUND) for name in _USUAL[part]}
_RELEVANT = {"id", "text", *(name for names in _USUAL.values() for name in names)}
# Fields that cannot change a prompt; every other one that is not used is named.
_QUIET = set(
    "id idx index uid uuid guid qid questionid exampleid promptid sourceid dataset split indexlevel0 unnamed0".split()
)
_LETTERED = re.compile(r"(choice|option|opt|ending|sol|alternative|candidate|answer|op)?([a-j]|10|[0-9])")
_NUMBERED = re.compile(r"(choice|option|opt|ending|sol|alternative|candidate)([a-j]|10|[0-9])")

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
        shared = ("question", "answer", "messages", "text", *(["choices"] if self.kind == "choice" else []))
        return (self.kind, *(self.parts[part][0] for part in shared if part in self.parts))

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

    shape = None


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
    mapping: dict[str, tuple[str, ...]] = {}
    for part, column in columns.items():
        if part not in PARTS:
            raise DataError(f"task.columns: unknown key {quoted(part)}; known keys are {', '.join(PARTS)}")
        several = part == "choices" and column not in names and "," in column
        asked = [name.strip() for name in column.split(",")] if several else [column]
        for name in asked:
            if name and name not in names and _root(name) not in names:
                raise ColumnsError(
                    f"{title}: task.columns.{part} is {quoted(name)}, which is not a column; "
                    f"its columns are {', '.join(quoted(known)[1:-1] for known in names)[:200]}"
                )
        mapping[part] = tuple(name for name in asked if name)
    return mapping


def recognise(names: Collection[str], mapping: Mapping[str, tuple[str, ...]], format: str = "auto") -> Layout:
    """Tell from names alone what fields mean.

    Args:
        names: the fields that say something.
        mapping: parts that the user mapped; an empty tuple for one that is to stay empty.
        format: "chat_jsonl", "gsm8k", "mmlu" or "text" if the user gave it; else anything.

    Raises:
        UnclearError: no layout explains all fields that may belong to the prompt.
    """
    return _Names(names, mapping, format).layout()


def guess(names: Collection[str]) -> dict[str, str]:
    """Return part -> the field that it most likely is, also where a layout is not clear; to be checked by a person."""
    try:
        return {part: columns.replace(", ", ",") for part, columns in recognise(names, {}).fields.items()}
    except UnclearError:
        pass
    fields = _Names(names, {}, "auto")
    usual = {
        "question": (*_USUAL["question"], *_USUAL["question of choices"], "text"),
        "answer": (*_USUAL["answer"], *_USUAL["answer of choices"]),
        **{part: _USUAL[part] for part in ("choices", "messages", *_AROUND)},
    }
    likely: dict[str, str] = {}
    for part, words in usual.items():
        free = [name for name in fields.pick(words) if name not in likely.values()]
        likely |= {part: free[0]} if free else {}
    if fields.letters and "choices" not in likely:
        likely["choices"] = ",".join(fields.letters[0])
    if "question" not in likely and "input" in likely:
        likely["question"] = likely.pop("input")
    return likely


def unused(names: Iterable[str], layout: Layout) -> list[str]:
    """Return the fields that a layout does not read and that could matter, in their order."""
    read = layout.used | set(map(_root, layout.used))
    return [name for name in names if name not in read and key_of(name) not in _QUIET]


def unused_sentence(names: Sequence[str]) -> str:
    """Say which fields are not used."""
    several = len(names) > 1
    return f"the field{'s' if several else ''} {listed(names)} {'are' if several else 'is'} not used"


def is_relevant(name: str) -> bool:
    """True for a field that recognising a layout asks for; others are only named."""
    return key_of(name) in _RELEVANT or _LETTERED.fullmatch(key_of(name)) is not None


def key_of(name: str) -> str:
    """Return a field's name without case, spaces and hyphens; of `a.b` the whole."""
    return re.sub(r"[\s_:-]", "", name).casefold() if isinstance(name, str) else ""


def _root(column: str) -> str:
    return column.partition(".")[0]


class _Names:
    """The fields of a line, by the usual spellings of their names."""

    def __init__(self, names: Collection[str], mapping: Mapping[str, tuple[str, ...]], format: str) -> None:
        self.mapping, self.names, self.format = mapping, list(names), format
        taken = {column if column in names else _root(column) for columns in mapping.values() for column in columns}
        self.by_key: dict[str, str] = {}
        for name in sorted((n for n in names if n not in taken), key=lambda n: (n != n.casefold(), n)):
            self.by_key.setdefault(key_of(name), name)
        self.letters = self._lettered()

    def layout(self) -> Layout:
        """Return the one layout that explains the fields; see `recognise`."""
        mapping, format = self.mapping, self.format
        asked = any(mapping.get(part) for part in ("question", "answer", "choices"))
        own = asked or mapping.get("text")
        talks = format in ("auto", "chat_jsonl", "hub") and self.pick(_USUAL["messages"])
        if mapping.get("messages") or (talks and not own):
            return self._chat()
        if format == "chat_jsonl":
            raise UnclearError("there is no field messages")
        if mapping.get("text") and not asked:
            return Layout("text", {"text": mapping["text"]})
        answered = self._answered() if format != "text" else None
        if answered is not None:
            return answered
        if "text" in self.by_key and format in ("auto", "text", "hub") and not asked:
            others = [name for key, name in self.by_key.items() if key in _RELEVANT - {"text", "id"}]
            if others and format != "text":
                raise UnclearError(f"the field {quoted(others[0])} beside 'text' may be a question or an answer")
            return Layout("text", {"text": (self.by_key["text"],)})
        raise UnclearError("")

    def pick(self, words: Iterable[str]) -> tuple[str, ...]:
        """Return the fields with one of these names, in the order of the names."""
        return tuple(self.by_key[word] for word in words if word in self.by_key)

    def _chat(self) -> Layout:
        parts = {"messages": self.mapping.get("messages") or self.pick(_USUAL["messages"])[:1]}
        parts |= {part: self._part(part, words) for part, words in _OF_CHAT.items()}
        return Layout("chat", {part: columns for part, columns in parts.items() if columns})

    def _answered(self) -> Layout | None:
        """Return the layout of questions with answers; None where there is no question or no answer at all."""
        choices = self._choices()
        question = self._question(bool(choices))
        answer = self._answer(question, bool(choices)) if question else ()
        if not answer:
            return None
        parts = {"question": question, "answer": answer, "choices": choices}
        parts |= {part: self._part(part, _USUAL[part], question) for part in _AROUND}
        parts |= {part: self.mapping[part] for part in ("subject", "id") if self.mapping.get(part)}
        # A context that an instruction works on follows it; one of a question comes before it.
        if key_of(question[0]) == "instruction" and "context" not in self.mapping and not parts.get("input"):
            parts["input"] = parts.pop("context", ())
        layout = Layout("choice" if choices else "qa", {part: columns for part, columns in parts.items() if columns})
        self._refuse_loose(layout)
        if self.format == "gsm8k" and choices:
            raise UnclearError(
                f"format gsm8k has no choices, and {quoted(choices[0])} holds some; use format mmlu, or auto"
            )
        if self.format == "mmlu" and not choices:
            raise UnclearError("format mmlu needs choices, and no field holds any")
        return layout

    def _part(self, part: str, words: Sequence[str], taken: Collection[str] = ()) -> tuple[str, ...]:
        if part in self.mapping:
            return self.mapping[part]
        return tuple(name for name in self.pick(words) if name not in taken)[:1]

    def _question(self, choices: bool) -> tuple[str, ...]:
        if self.mapping.get("question"):
            return self.mapping["question"]
        if "question" in self.by_key:
            return (self.by_key["question"],)
        asked = self.pick(_USUAL["question"]) or (self.pick(_USUAL["question of choices"]) if choices else ())
        if len(asked) > 1:
            raise UnclearError(f"{listed(asked)} may each be the question")
        return asked or (self.pick(_USUAL["input"])[:1] if "input" not in self.mapping else ())

    def _answer(self, question: tuple[str, ...], choices: bool) -> tuple[str, ...]:
        if self.mapping.get("answer"):
            return self.mapping["answer"]
        named = self.pick(_USUAL["answer of choices"]) if choices else ()
        if named:  # a label beside an answer may be anything
            return tuple(name for name in named if key_of(name) != "label") or named
        if "answer" in self.by_key and (key_of(question[0]) == "question" or self.mapping.get("question")):
            return (self.by_key["answer"],)
        answers = self.pick(_USUAL["answer"])
        if len(answers) > 1:
            raise UnclearError(f"{listed(answers)} may each be the answer")
        return answers

    def _choices(self) -> tuple[str, ...]:
        if "choices" in self.mapping:
            return self.mapping["choices"]
        lists = self.pick(_USUAL["choices"])
        if len(lists) + len(self.letters) > 1:
            raise UnclearError(f"{listed([*lists, *(row[0] for row in self.letters)])} may each hold the choices")
        return lists or (self.letters[0] if self.letters else ())

    def _lettered(self) -> list[tuple[str, ...]]:
        """Return every run of fields such as A, B, C or choice1, choice2."""
        runs: dict[str, dict[int, str]] = {}
        for key, name in self.by_key.items():
            match = _LETTERED.fullmatch(key)
            if match is None:
                continue
            prefix, mark = match.group(1) or "", match.group(2)
            if not mark.isdigit():
                runs.setdefault(f"{prefix}a", {})[ord(mark) - ord("a")] = name
            elif prefix not in ("", "answer", "op"):
                runs.setdefault(f"{prefix}0", {})[int(mark)] = name
        rows = []
        for run in runs.values():
            start = min(run)
            if len(run) > 1 and start <= 1 and max(run) - start == len(run) - 1:
                rows.append(tuple(run[position] for position in sorted(run)))
        return rows

    def _refuse_loose(self, layout: Layout) -> None:
        """Refuse a field that may belong to the prompt and has no place; whoever maps fields has decided about it."""
        if self.mapping.keys() - {"id"}:
            return
        letters = {key for key in self.by_key if len(key) == 1 and "a" <= key <= "j"}
        asking = _ASKING | (letters if len(letters) > 1 else set())
        for name in unused(self.names, layout):
            if key_of(name) in asking or _NUMBERED.fullmatch(key_of(name)):
                raise UnclearError(f"the field {quoted(name)} may belong to the prompt")


_OF_CHAT = {"system": _USUAL["system"], "choices": ("choices",), "id": ("id",)}


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
    says: dict[str, bool] = dict.fromkeys(names or (), False)  # field -> whether any line says something in it
    for fields, _, _ in lines:
        for name, value in fields.items():
            says[name] = says.get(name, False) or not is_empty(value)
    mapping = mapping_of(columns, says, title)
    speaking = {name for name, any_line in says.items() if any_line or name == "id"}
    speaking |= {name for name in names or () if not is_relevant(name)}
    mapped = {column for part in mapping.values() for column in part}
    mapped |= {_root(column) for column in mapped if column not in says}
    kept = {name for name in speaking if is_relevant(name)} | mapped

    groups = Counter(frozenset(kept.intersection(fields)) for fields, _, _ in lines)
    # In the order of the data, so that a sentence names the same field every time.
    layouts = {group: _recognised([name for name in says if name in group], mapping, format) for group in groups}
    shapes: Counter[tuple[str, ...] | None] = Counter()
    for group, number in groups.items():
        shapes[layouts[group].shape] += number
    unclear = shapes.pop(None, 0)
    shape = max(shapes, key=shapes.__getitem__, default=None)  # the first one where there are as many of two
    of_lines = [layouts[frozenset(kept.intersection(fields))] for fields, _, _ in lines]
    if shape is None or unclear > shapes[shape]:
        first = next(index for index, layout in enumerate(of_lines) if layout.shape is None)
        fields, where, _ = lines[first]
        raise _unknown((names and title) or where, names or fields, of_lines[first])
    together = set().union(*(group for group, layout in layouts.items() if layout.shape == shape))
    layout = _recognised([name for name in says if name in together], mapping, format)
    if not isinstance(layout, Layout) or layout.shape != shape:
        fields, where, _ = lines[0]
        raise _unknown(where, fields, layout)
    for (fields, where, _), own in zip(lines, of_lines, strict=True):
        if own.shape != shape:
            raise _odd(fields, where, layout, own, f"{shapes[shape]} of {len(lines)} lines")
    return layout, unused([name for name in says if says[name] or name in speaking], layout)


def _recognised(names: Collection[str], mapping: Mapping, format: str) -> Layout | UnclearError:
    try:
        return recognise(names, mapping, format)
    except UnclearError as error:
        return error


def _unknown(where: str, fields: Iterable[str], reason: Layout | UnclearError) -> UnknownLayoutError:
    shown = ", ".join(quoted(name)[1:-1] for name in list(fields)[:8])[:120] or "none"
    why = f" ({reason})" if isinstance(reason, UnclearError) and str(reason) else ""
    return UnknownLayoutError(f"{where}: unknown layout with keys {shown}{why}; write each line as {LAYOUTS}, or {MAP}")


def _odd(fields: Mapping[str, Any], where: str, layout: Layout, own: Layout | UnclearError, most: str) -> DataError:
    """Name the one line that is not like the others."""
    absent = next((column for column in layout.shape[1:] if find(fields, column) is MISSING), None)
    if absent is not None:
        return DataError(f"{where}: has no {quoted(absent)}, which {most} have; fill it in or remove the line")
    if not isinstance(own, Layout):
        return DataError(str(_unknown(where, fields, own)))
    extra = next((name for name in fields if name in own.used and name not in layout.used), None)
    why = f"has other fields than {most}" if extra is None else f"also has {quoted(extra)}, which {most} do not have"
    return DataError(f"{where}: {why}; give every line the same fields, or remove the line")
