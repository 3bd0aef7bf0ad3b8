"""Read a data set of a hub through the `datasets` library. Data only: loading scripts are never run."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paraknow_core.errors import DataError
from paraknow_core.spec import TaskSpec
from paraknow_core.tasks.characters import nfc
from paraknow_core.tasks.formats import check_unique, multiple_choice, parse_chat, parse_gsm8k, text_pieces
from paraknow_core.tasks.sources import Parts, settle_dev, split_of
from paraknow_core.tasks.task import Example

COLUMNS = ("question", "answer", "choices", "messages", "text", "id")
MOST_ROWS = 100_000  # of a split whose size is limited anyway
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_COMMIT = re.compile(r"\b[0-9a-f]{40}\b")


def read_hub(name: str, spec: TaskSpec, *, offline: bool = False) -> Parts:
    """Download (or, offline, take from the local cache) a hub data set and read its examples.

    Args:
        name: OWNER/NAME.
        spec: `subset`, `revision`, `columns` (question, answer, choices, messages, text, id -> column), `format`.

    Raises:
        DataError: it cannot be reached or read, is gated, or its columns are not understood.
    """
    if not _REPOSITORY.fullmatch(name):
        raise DataError(f"task.source: 'hub:{name[:80]}' is not a hub data set; write hub:OWNER/NAME")
    unknown = sorted(set(spec.columns) - set(COLUMNS))
    if unknown:
        raise DataError(f"task.columns: unknown key '{unknown[0]}'; known keys are {', '.join(COLUMNS)}")
    loaded = _load(name, spec, offline)
    if not isinstance(loaded, Mapping):
        loaded = {"train": loaded}
    parts, layout, notes = {}, "", []
    for split, (label, data) in _by_split(name, loaded).items():
        columns = _columns(name, data.column_names, spec)
        layout = _layout(columns)
        total = len(data)
        if total > MOST_ROWS and getattr(spec.sizes, "validation" if split == "dev" else split) is not None:
            data = data.select(range(MOST_ROWS))
            notes.append(f"only the first {MOST_ROWS} of {total} rows of {label} were read")
        parts[split] = (
            _text_examples(data, columns["text"], label)
            if layout == "text"
            else tuple(
                example_of_row(row, columns, f"{label} row {index}", f"{label}:{index}")
                for index, row in enumerate(data, 1)
            )
        )
        check_unique(parts[split], f"{name} ({label})")
    settled, more = settle_dev({split: part for split, part in parts.items() if part})
    if not settled:
        raise DataError(f"{name}: holds no rows; choose another data set or subset")
    if len(settled) == 1:
        settled = {"all": next(iter(settled.values()))}
    commit = _commit(loaded)
    notes += _check_commit(name, spec.revision, commit)
    return Parts(layout, settled, (*notes, *more), revision=commit, label=name)


def hub_columns(name: str, spec: TaskSpec, *, offline: bool = False) -> dict[str, Any]:
    """Tell what a hub data set holds, so that its columns can be mapped.

    Args:
        name: OWNER/NAME.
        spec: `subset` and `revision`.

    Returns:
        `splits` (name -> rows) and `columns` (column -> the start of its first value, as text).

    Raises:
        DataError: it cannot be reached or read.
    """
    if not _REPOSITORY.fullmatch(name):
        raise DataError(f"task.source: 'hub:{name[:80]}' is not a hub data set; write hub:OWNER/NAME")
    loaded = _load(name, spec, offline)
    if not isinstance(loaded, Mapping):
        loaded = {"train": loaded}
    first = next((data for data in loaded.values() if len(data)), None)
    if first is None:
        raise DataError(f"{name}: holds no rows; choose another data set or subset")
    return {
        "splits": {label: len(data) for label, data in loaded.items()},
        "columns": {column: str(first[0][column])[:200] for column in first.column_names},
    }


def _load(name: str, spec: TaskSpec, offline: bool) -> Any:
    if Path(name).exists():  # the library would prefer it to the hub, and nobody would notice
        raise DataError(
            f"task.source: 'hub:{name}' given, but {name} also lies in the folder the workbench was started in and "
            f"would be read instead; start it in another folder, or write ./{name} to read that one"
        )
    import datasets
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    transport = tuple(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")  # the HTTP library's own

    try:
        with _offline(offline):
            return datasets.load_dataset(name, spec.subset, revision=spec.revision, streaming=False)
    except transport as error:
        problem: Exception = error if isinstance(error, HfHubHTTPError) else ConnectionError(type(error).__name__)
    except (datasets.exceptions.DatasetsError, OfflineModeIsEnabled, ValueError, OSError, RuntimeError) as error:
        problem = error
    raise DataError(_sentence(name, spec, problem, offline)) from None


def _sentence(name: str, spec: TaskSpec, error: Exception, offline: bool) -> str:
    """Say in one sentence what went wrong; the library's own text is only used where it names the user's choices."""
    said, kind = str(error), type(error).__name__
    chain = {type(error).__name__, type(error.__cause__).__name__}
    if "gated" in said.lower() or "GatedRepoError" in chain:
        return f"{name}: is gated; accept its terms on its hub page, log in with `hf auth login`, and try again"
    if "RevisionNotFoundError" in chain or "revision" in said.lower():
        return f"{name}: has no revision '{spec.revision}'; give a branch, tag or commit that exists"
    if "scripts are no longer supported" in said:
        return f"{name}: needs a loading script, which is never run; choose a data set in Parquet, JSON or CSV"
    available = re.search(r"\[(['\"][^\]]*)\]", said)
    if "onfig" in said and available:
        shown = available.group(1).replace("'", "").replace('"', "")[:200]
        given = f"has no subset '{spec.subset}'" if spec.subset else "has several subsets"
        return f"{name}: {given}; set task.subset to one of {shown}"
    if offline or "OfflineModeIsEnabled" in chain:
        return f"{name}: is not in the local cache and the hub is switched off (offline); load it once online"
    if kind in ("DatasetNotFoundError", "RepositoryNotFoundError") or "doesn't exist" in said:
        return f"{name}: is not on the hub or is private; check the name, or log in with `hf auth login`"
    if isinstance(error, ConnectionError) or kind in ("HfHubHTTPError", "LocalEntryNotFoundError"):
        return f"{name}: the hub cannot be reached and no copy is in the local cache; check the network and try again"
    if isinstance(error, OSError) and error.errno == 28:
        return f"{name}: no space is left for the download; free some space in the hub's cache and try again"
    return f"{name}: cannot be read ({kind}); check that it holds Parquet, JSON or CSV data, or download a file of it"


@contextmanager
def _offline(wanted: bool) -> Iterator[None]:
    """Both libraries read HF_HUB_OFFLINE once, when imported; within this process only their constants help."""
    if not wanted:
        yield
        return
    import datasets.config
    import huggingface_hub.constants

    places = (datasets.config, huggingface_hub.constants)
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = True
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def _by_split(name: str, loaded: Mapping) -> dict[str, tuple[str, Any]]:
    found: dict[str, tuple[str, Any]] = {}
    for label in sorted(loaded, key=lambda text: (split_of(text) != text, text)):  # a split's exact name goes first
        split = split_of(label)
        if split and split not in found:
            found[split] = (label, loaded[label])
    if not found and len(loaded) == 1:
        label = next(iter(loaded))
        return {"train": (label, loaded[label])}
    if not found:
        raise DataError(f"{name}: its splits are {', '.join(loaded)}; one named train, validation or test is needed")
    return found


def _columns(name: str, present: list[str], spec: TaskSpec) -> dict[str, str]:
    """The column of each key: as given, else the column with the key's own name."""
    for key, column in spec.columns.items():
        if column not in present:
            raise DataError(
                f"{name}: task.columns.{key} is '{column}', which is not a column; "
                f"its columns are {', '.join(present)[:200]}"
            )
    wanted = {"mmlu": ("question", "answer", "choices", "id"), "gsm8k": ("question", "answer", "id"),
              "chat_jsonl": ("messages", "id"), "text": ("text",)}.get(spec.format, COLUMNS)  # fmt: skip
    columns = {key: spec.columns.get(key, key) for key in wanted if spec.columns.get(key, key) in present}
    if not ("messages" in columns or "text" in columns or {"question", "answer"} <= set(columns)):
        raise DataError(
            f"{name}: no columns question and answer, messages, or text; set task.columns, "
            f"its columns are {', '.join(present)[:200]}"
        )
    return columns


def _layout(columns: Mapping[str, str]) -> str:
    if "messages" in columns:
        return "chat_jsonl"
    if {"question", "answer"} <= set(columns):
        return "mmlu" if "choices" in columns else "gsm8k"
    return "text"


def example_of_row(row: Mapping[str, Any], columns: Mapping[str, str], where: str, name: str) -> Example:
    """Turn one row of a table into an example.

    Args:
        row: column -> value.
        columns: question, answer, choices, messages, id -> column; decides the layout.
        where: names the row in messages; name: its id if it has none.
    """
    record, layout = {key: row[column] for key, column in columns.items()}, _layout(columns)
    if "id" in record and isinstance(record["id"], str | int) and not isinstance(record["id"], bool):
        name = str(record["id"]) or name
    if layout == "chat_jsonl":
        return parse_chat({**record, "id": name}, where, name)
    if layout == "gsm8k":
        return parse_gsm8k(record, where, name)
    return _choice_example(record, where, name)


def _text_examples(data: Any, column: str, label: str) -> tuple[Example, ...]:
    """Rows may be lines or whole documents: join them and cut them like a text file."""
    rows = data[column][:]
    for index, row in enumerate(rows, 1):
        if not isinstance(row, str):
            raise DataError(f"{label} row {index}: '{column}' is not text; set task.columns.text to a column of text")
    text = ("" if all(row.endswith("\n") for row in rows) else "\n\n").join(rows)
    pieces = text_pieces(text) if text.strip() else []
    return tuple(Example(f"{label}:{index}", text=piece) for index, piece in enumerate(pieces, 1))


def _choice_example(record: dict, where: str, name: str) -> Example:
    """Choices are a list, or {"text": [...], "label": [...]}; the answer is a position, a letter, a label or a text."""
    choices, answer = record["choices"], record["answer"]
    labels: list = []
    if isinstance(choices, Mapping):
        labels, choices = list(choices.get("label", ())), choices.get("text")
    if not isinstance(choices, list) or not 2 <= len(choices) <= 26 or not all(isinstance(c, str) for c in choices):
        raise DataError(f"{where}: the choices must be a list of 2 to 26 texts; check task.columns.choices")
    letters = [chr(ord("A") + position) for position in range(len(choices))]
    position = -1
    if isinstance(answer, int) and not isinstance(answer, bool):
        position = answer
    for known in (labels, letters, choices):
        plain = [nfc(value) if isinstance(value, str) else value for value in (*known, answer)]
        if position < 0 and plain[-1] in plain[:-1]:
            position = plain.index(plain[-1])
    if not 0 <= position < len(choices) or not isinstance(record["question"], str):
        raise DataError(f"{where}: the answer {answer!r:.40} names none of {len(choices)} choices; check task.columns")
    return multiple_choice(record["question"], tuple(choices), letters[position], name)


def _commit(loaded: Mapping) -> str | None:
    """The hub commit, which the library writes into the path of its prepared files."""
    for data in loaded.values():
        for file in getattr(data, "cache_files", None) or ():
            found = _COMMIT.findall(str(file.get("filename", "")))
            if found:
                return found[-1]
    return None


def _check_commit(name: str, revision: str | None, commit: str | None) -> list[str]:
    """The library may serve a cached copy of another revision when the hub is out of reach: never without a word."""
    if revision is None or commit is None or revision == commit:
        return []
    if _COMMIT.fullmatch(revision):
        raise DataError(f"{name}: only commit {commit[:8]} is in the local cache, not {revision[:8]}; load it online")
    return [f"{name}: revision '{revision}' was read as commit {commit[:8]}"]
