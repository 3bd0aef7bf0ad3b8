"""Read a data set of a hub through the `datasets` library. Data only: loading scripts are never run."""

import json
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paraknow_core.errors import DataError
from paraknow_core.spec import TaskSpec
from paraknow_core.tasks.formats import Table, check_unique, read_tables, samples
from paraknow_core.tasks.layouts import guess, is_relevant, mapping_of
from paraknow_core.tasks.sources import Parts, settle_parts, split_of

# What is raised where an answer is taken apart that is none of a hub, or a file that is torn.
_NOT_UNDERSTOOD = (json.JSONDecodeError, UnicodeError, RecursionError, TypeError, LookupError, AttributeError, EOFError)
MOST_ROWS = 100_000  # of a split whose size is limited anyway
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_COMMIT = re.compile(r"\b[0-9a-f]{40}\b")


def read_hub(name: str, spec: TaskSpec, *, offline: bool = False) -> Parts:
    """Download (or, offline, take from the local cache) a hub data set and read its examples.

    Args:
        name: OWNER/NAME.
        spec: `subset`, `revision`, `columns` (see `paraknow_core.tasks.layouts.mapping_of`), `format`.

    Raises:
        DataError: it cannot be reached or read, is gated, or its columns are not understood.
    """
    loaded = _load(name, spec, offline)
    notes: list[str] = []
    tables = {
        split: _table(name, split, label, data, spec, notes)
        for split, (label, data) in _by_split(name, loaded).items()
        if len(data)
    }
    if not tables:
        raise _no_rows(name)
    columns = [kind for data in loaded.values() for kind in (data.features or {}).values()]
    # The library itself numbers the classes of a class label, from 0.
    hint = "from 0" if any(type(kind).__name__ == "ClassLabel" for kind in columns) else ""
    format = "auto" if spec.format == "hub" else spec.format
    data = read_tables(list(tables.values()), spec.columns, format, name, hub=True, hint=hint)
    parts = dict(zip(tables, data.parts, strict=True))
    for split, part in parts.items():
        check_unique(part, f"{name} ({tables[split].stem})")
    settled, more = settle_parts({split: part for split, part in parts.items() if part})
    if not settled:
        raise _no_rows(name)
    commit = _commit(loaded)
    return Parts(
        data.format,
        settled,
        (*notes, *data.notes, *_check_commit(name, spec.revision, commit), *more),
        revision=commit,
        label=name,
        fields=data.fields,
        reading=data.reading,
        files={table.stem: f"{name} {table.stem} row" for table in tables.values()},
    )


def hub_columns(name: str, spec: TaskSpec, *, offline: bool = False) -> dict[str, Any]:
    """Tell what a hub data set holds, so that its columns can be mapped.

    Args:
        name: OWNER/NAME.
        spec: `subset` and `revision`.

    Returns:
        `splits` (name -> rows), `columns` (column -> the start of its first value, as text) and `fields` (part of the
        prompt -> the column that it is, or most likely is).

    Raises:
        DataError: it cannot be reached or read.
    """
    loaded = _load(name, spec, offline)
    first = next((data for data in loaded.values() if len(data)), None)
    if first is None:
        raise _no_rows(name)
    return {
        "splits": {label: len(data) for label, data in loaded.items()},
        "columns": samples([Table(name, "", [(first[0], "", "")])]),
        "fields": guess(first.column_names),
    }


def _no_rows(name: str) -> DataError:
    return DataError(f"{name}: holds no rows; choose another data set or subset")


def _load(name: str, spec: TaskSpec, offline: bool) -> Mapping[str, Any]:
    """Return the splits of a hub data set by their names; data that has none is called train."""
    if not _REPOSITORY.fullmatch(name):
        raise DataError(f"task.source: 'hub:{name[:80]}' is not a hub data set; write hub:OWNER/NAME")
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
            loaded = datasets.load_dataset(name, spec.subset, revision=spec.revision, streaming=False)
            return loaded if isinstance(loaded, Mapping) else {"train": loaded}
    except transport as error:
        problem: Exception = error if isinstance(error, HfHubHTTPError) else ConnectionError(type(error).__name__)
    except (datasets.exceptions.DatasetsError, OfflineModeIsEnabled, ValueError, OSError, RuntimeError) as error:
        problem = error
    except (TypeError, LookupError, AttributeError, AssertionError, EOFError, zlib.error) as error:
        problem = error  # an answer taken apart that is none of a hub, or a file that is torn
    raise DataError(_sentence(name, spec, problem, offline)) from None


def _sentence(name: str, spec: TaskSpec, error: Exception, offline: bool) -> str:
    """Say in one sentence what went wrong; the library's own text is only used where it names the user's choices."""
    text, kind = str(error), type(error).__name__
    chain = {kind, type(error.__cause__).__name__}
    if "gated" in text.lower() or "GatedRepoError" in chain:
        return f"{name}: is gated; accept its terms on its hub page, log in with `hf auth login`, and try again"
    if "RevisionNotFoundError" in chain or "revision" in text.lower():
        return f"{name}: has no revision '{spec.revision or 'main'}'; give a branch, tag or commit that exists"
    if "scripts are no longer supported" in text:
        return f"{name}: needs a loading script, which is never run; choose a data set in Parquet, JSON or CSV"
    available = re.search(r"\[(['\"][^\]]*)\]", text)
    if "onfig" in text and available:
        shown = available.group(1).replace("'", "").replace('"', "")[:200]
        problem = f"has no subset '{spec.subset}'" if spec.subset else "has several subsets"
        return f"{name}: {problem}; set task.subset to one of {shown}"
    if offline or "OfflineModeIsEnabled" in chain:
        return f"{name}: is not in the local cache and the hub is switched off (offline); load it once online"
    if kind in ("DatasetNotFoundError", "RepositoryNotFoundError") or "doesn't exist" in text:
        return f"{name}: is not on the hub or is private; check the name, or log in with `hf auth login`"
    if isinstance(error, ConnectionError) or kind in ("HfHubHTTPError", "LocalEntryNotFoundError"):
        return f"{name}: the hub cannot be reached and no copy is in the local cache; check the network and try again"
    if isinstance(error, _NOT_UNDERSTOOD):
        return (
            f"{name}: what answered is not the hub, or its answer or data are damaged; open any page in a browser to "
            "see whether this network asks you to log in, then try again"
        )
    if isinstance(error, OSError) and error.errno == 28:
        return f"{name}: no space is left for the download; free some space in the hub's cache and try again"
    return f"{name}: cannot be read ({kind}); check that it holds Parquet, JSON or CSV data, or download a file of it"


@contextmanager
def _offline(switched_off: bool) -> Iterator[None]:
    """Both libraries read HF_HUB_OFFLINE once, when imported; within this process only their constants help."""
    if not switched_off:
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
    by_split: dict[str, tuple[str, Any]] = {}
    for label in sorted(loaded, key=lambda text: (split_of(text) != text, text)):  # a split's exact name goes first
        split = split_of(label) or ("train" if len(loaded) == 1 else None)
        if split:
            by_split.setdefault(split, (label, loaded[label]))
    if not by_split:
        raise DataError(f"{name}: its splits are {', '.join(loaded)}; one named train, validation or test is needed")
    return by_split


def _table(name: str, split: str, label: str, data: Any, spec: TaskSpec, notes: list[str]) -> Table:
    """Return the rows of one hub split; only of the columns that matter, as others may be pictures."""
    total, names = len(data), tuple(data.column_names)
    if total > MOST_ROWS and getattr(spec.sizes, "validation" if split == "dev" else split) is not None:
        data = data.select(range(MOST_ROWS))
        notes.append(f"only the first {MOST_ROWS} of {total} rows of {label} were read")
    mapped = {column for columns in mapping_of(spec.columns, names, name).values() for column in columns}
    mapped |= {*(column.partition(".")[0] for column in mapped), *spec.columns.values()}
    kept = [column for column in names if is_relevant(column) or column in mapped]
    rows = data.select_columns(kept) if kept else [{}] * len(data)
    lines = [(row, f"{label} row {index}", f"{label}:{index}") for index, row in enumerate(rows, 1)]
    return Table(name, label, lines, names)


def _commit(loaded: Mapping) -> str | None:
    """The hub commit, which the library writes into the path of its prepared files."""
    for data in loaded.values():
        for file in getattr(data, "cache_files", None) or ():
            commits = _COMMIT.findall(str(file.get("filename", "")))
            if commits:
                return commits[-1]
    return None


def _check_commit(name: str, revision: str | None, commit: str | None) -> list[str]:
    """The library may serve a cached copy of another revision when the hub is out of reach: never without a word."""
    if revision is None or commit is None or revision == commit:
        return []
    if _COMMIT.fullmatch(revision):
        raise DataError(f"{name}: only commit {commit[:8]} is in the local cache, not {revision[:8]}; load it online")
    return [f"{name}: revision '{revision}' was read as commit {commit[:8]}"]
