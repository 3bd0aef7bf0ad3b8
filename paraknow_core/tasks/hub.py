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
from paraknow_core.tasks.sources import Parts, settle_dev, split_of

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
    if not _REPOSITORY.fullmatch(name):
        raise DataError(f"task.source: 'hub:{name[:80]}' is not a hub data set; write hub:OWNER/NAME")
    loaded = _load(name, spec, offline)
    if not isinstance(loaded, Mapping):
        loaded = {"train": loaded}
    notes: list[str] = []
    tables = {
        split: _table(name, split, label, data, spec, notes)
        for split, (label, data) in _by_split(name, loaded).items()
        if len(data)
    }
    if not tables:
        raise DataError(f"{name}: holds no rows; choose another data set or subset")
    # The library itself numbers the classes of such a column, from 0.
    hint = (
        "from 0"
        if any(
            type(kind).__name__ == "ClassLabel" for each in loaded.values() for kind in (each.features or {}).values()
        )
        else ""
    )
    data = read_tables(list(tables.values()), spec.columns, _format(spec), name, hub=True, hint=hint)
    parts = dict(zip(tables, data.parts, strict=True))
    for split, part in parts.items():
        check_unique(part, f"{name} ({tables[split].stem})")
    notes += data.notes
    settled, more = settle_dev({split: part for split, part in parts.items() if part})
    if not settled:
        raise DataError(f"{name}: holds no rows; choose another data set or subset")
    if len(settled) == 1:
        settled = {"all": next(iter(settled.values()))}
    commit = _commit(loaded)
    notes += _check_commit(name, spec.revision, commit)
    return Parts(
        data.format,
        settled,
        (*notes, *more),
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
        "columns": samples([Table(name, "", [(first[0], "", "")])]),
        "fields": guess(first.column_names),
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
    except (TypeError, LookupError, AttributeError, AssertionError, EOFError, zlib.error) as error:
        problem = error  # an answer taken apart that is none of a hub, or a file that is torn
    raise DataError(_sentence(name, spec, problem, offline)) from None


def _sentence(name: str, spec: TaskSpec, error: Exception, offline: bool) -> str:
    """Say in one sentence what went wrong; the library's own text is only used where it names the user's choices."""
    said, kind = str(error), type(error).__name__
    chain = {type(error).__name__, type(error.__cause__).__name__}
    if "gated" in said.lower() or "GatedRepoError" in chain:
        return f"{name}: is gated; accept its terms on its hub page, log in with `hf auth login`, and try again"
    if "RevisionNotFoundError" in chain or "revision" in said.lower():
        return f"{name}: has no revision '{spec.revision or 'main'}'; give a branch, tag or commit that exists"
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
    if isinstance(error, _NOT_UNDERSTOOD):
        return (
            f"{name}: what answered is not the hub, or its answer or data are damaged; open any page in a browser to "
            "see whether this network asks you to log in, then try again"
        )
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


def _table(name: str, split: str, label: str, data: Any, spec: TaskSpec, notes: list[str]) -> Table:
    """Return the rows of one hub split; only of the columns that matter, as others may be pictures."""
    total, names = len(data), tuple(data.column_names)
    if total > MOST_ROWS and getattr(spec.sizes, "validation" if split == "dev" else split) is not None:
        data = data.select(range(MOST_ROWS))
        notes.append(f"only the first {MOST_ROWS} of {total} rows of {label} were read")
    roots = {
        column.partition(".")[0] for columns in mapping_of(spec.columns, names, name).values() for column in columns
    }
    wanted = [column for column in names if is_relevant(column) or column in roots or column in spec.columns.values()]
    rows = data.select_columns(wanted) if wanted else [{}] * len(data)
    lines = [(row, f"{label} row {index}", f"{label}:{index}") for index, row in enumerate(rows, 1)]
    return Table(name, label, lines, names)


def _format(spec: TaskSpec) -> str:
    return "auto" if spec.format == "hub" else spec.format


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
