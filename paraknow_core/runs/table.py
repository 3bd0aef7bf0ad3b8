"""Many runs as one table, a row each, and the settings in which they differ."""

from collections.abc import Container
from functools import cache
from typing import TYPE_CHECKING, Any

from paraknow_core.errors import ParaknowError
from paraknow_core.files.disk import file_stamp
from paraknow_core.files.remember import once_each
from paraknow_core.runs.folder import RunFolder, result_once
from paraknow_core.runs.status import ACTIVE
from paraknow_core.spec import RunSpec, Strict

if TYPE_CHECKING:
    import pandas

_TABLE = "table"  # the key of a memo under which the last table is kept


def runs_table(runs: list[RunFolder], memo: dict | None = None) -> "pandas.DataFrame":
    """Return one row a run: id, state, stage, progress, main score with interval, and every setting as `spec.<key>`.

    Args:
        runs: the rows, in this order.
        memo: keeps the rows of runs that have ended or wait between calls, and the table, which must not be changed; a
            row is read again when a file of its run has changed.
    """
    import pandas

    memo = {} if memo is None else memo
    rows = [_remembered_row(run, memo) for run in runs]
    if _TABLE not in memo or memo[_TABLE][0] != rows:
        memo[_TABLE] = rows, pandas.DataFrame(rows)
    return memo[_TABLE][1]


def _remembered_row(run: RunFolder, memo: dict) -> dict[str, Any]:
    stamps = tuple([file_stamp(run.name_of(name)) for name in ("spec.yaml", "status.json", "result.json")])
    known, row = memo.get(run.path, (None, {}))
    if known == stamps and (row["state"] != "queued" or not run.claimed):
        return row
    row = _row(run)
    # One with a process may be lost at any moment without a file that says so; one that waits has none yet.
    if row["state"] not in ACTIVE or (row["state"] == "queued" and not run.claimed):
        memo[run.path] = stamps, row
    return row


def _row(run: RunFolder) -> dict[str, Any]:
    status = run.status()
    row: dict[str, Any] = {
        "id": run.id,
        "state": status.state,
        "stage": status.stage,
        "progress": status.fraction,
        "started": status.started,
        "ended": status.ended,
    }
    scores = (result_once(run)[0] or {}).get("scores") or []
    if scores:
        row |= {f"score.{key}": scores[0].get(key) for key in ("scorer", "value", "low", "high", "n", "unit")}
    try:
        return row | {_column(key): value for key, value in settings_of(run.spec()).items()}
    except ParaknowError as error:
        return row | {"state": "failed", "stage": str(error)}


@cache
def _column(key: str) -> str:
    """Return the column of a setting, the same text for all rows."""
    return f"spec.{key}"


def differing_settings(table: "pandas.DataFrame") -> list[str]:
    """Return the `spec.` columns of `runs_table` whose values are not all equal (names apart)."""
    columns = [c for c in table.columns if c.startswith("spec.") and c != "spec.name"]
    return [c for c in columns if table[c].astype(str).nunique(dropna=False) > 1]


def settings_of(spec: RunSpec, parts: Container[str] | None = None) -> dict[str, Any]:
    """Return `flat_settings` of a spec as JSON gives it; specs that were read from files share most of their parts.

    Args:
        spec: of a run.
        parts: top-level keys; None: all.
    """
    settings: dict[str, Any] = {}
    for name, value in vars(spec).items():
        if parts is not None and name not in parts:
            continue
        if isinstance(value, Strict):
            known = _settings_of_part(value)  # a part has one name, but for models
            if name not in known:
                known[name] = flat_settings(value.model_dump(mode="json"), f"{name}.")
            settings |= known[name]
        else:
            settings[name] = list(value) if isinstance(value, tuple) else value
    return settings


@once_each
def _settings_of_part(part: Strict) -> dict[str, dict[str, Any]]:
    """Return where the settings of a part of a spec are kept, by what the part is called there."""
    del part
    return {}


def flat_settings(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> value of a spec as plain data; an empty part counts as a value."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict) and value:
            flat |= flat_settings(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
