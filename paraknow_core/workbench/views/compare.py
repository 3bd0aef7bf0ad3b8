"""The table of all runs as people look through it: filtered, searched, with the settings that differ; suggestions."""

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any

import pandas

from paraknow_core.display import arm_of, score_text
from paraknow_core.paths import Workspace
from paraknow_core.runs.table import differing_settings
from paraknow_core.studies.arms import suggest
from paraknow_core.studies.folder import list_studies
from paraknow_core.studies.words import setting_text
from paraknow_core.workbench import reading
from paraknow_core.workbench.uploads import task_label

MOST_ROWS = 500  # of the table; older runs are found by its filters and its search
SHOWN_APART = ("spec.teacher.source", "spec.student.source", "spec.task.source", "spec.method", "spec.seed")


def columns_to_filter(table: pandas.DataFrame) -> dict[str, pandas.Series]:
    """Return pair, task, method and state of every run, as people read them."""
    return {"Pair": _pairs(table), "Task": _tasks(table), "Method": _arms(table), "State": table["state"]}


def filtered(table: pandas.DataFrame, choices: Mapping[str, str], text: str, place: Workspace) -> pandas.DataFrame:
    """Return the runs that are left by filters and a search.

    Args:
        table: of all runs.
        choices: column of `columns_to_filter` -> the value it must have.
        text: must occur in name, note, id or a setting, in any case.
        place: the workspace.
    """
    mask = pandas.Series(True, index=table.index)
    columns = columns_to_filter(table)
    for name, value in choices.items():
        mask &= columns[name] == value
    if text:
        mask &= _found(table, text.lower(), place)
    return table[mask]


def listed(table: pandas.DataFrame, chosen: Collection[str]) -> pandas.DataFrame:
    """Return the newest `MOST_ROWS` of the runs that match, and those among them that are chosen, however old."""
    if len(table) <= MOST_ROWS:
        return table
    mask = table["id"].isin(list(chosen))
    mask.iloc[:MOST_ROWS] = True
    return table[mask]


def as_shown(table: pandas.DataFrame, titles: Mapping[str, str]) -> pandas.DataFrame:
    """Return the columns that people see: state, name, arm, score, and the settings in which the runs differ.

    Args:
        table: of the runs that are shown.
        titles: of all runs, by id.
    """
    view = pandas.DataFrame(
        {
            "state": _states(table),
            "name": [titles.get(run_id, run_id) for run_id in table["id"]],
            "arm": _arms(table),
            "score": _scores(table),
        }
    )
    for name, column in (("pair", _pairs(table)), ("task", _tasks(table))):
        if len(set(column)) > 1:
            view[name] = column
    if "spec.seed" in table:
        view["seed"] = ["" if pandas.isna(seed) else str(int(seed)) for seed in table["spec.seed"]]
    for column in differing_settings(table):
        if column not in SHOWN_APART:
            key = column.removeprefix("spec.")
            view[key] = [_setting(key, value) for value in table[column]]
    view["run"] = table["id"]
    return view


def suggestion(table: pandas.DataFrame, place: Workspace) -> list[str]:
    """Return the newest finished run and those that ask the same question with another method or seed."""
    if "score.value" not in table:
        return []
    done = set(table[(table["state"] == "done") & table["score.value"].notna()]["id"])
    runs = ((run, facts.spec) for run, facts in reading.all_facts(place) if run.id in done)
    return [run.id for run in suggest([(run, spec) for run, spec in runs if spec is not None])]


def of_study(table: pandas.DataFrame, study: str, place: Workspace) -> list[str]:
    """Return the scored runs of the study with this id, seed by seed; else the runs whose name begins with it."""
    folder = next((folder for folder in list_studies(place) if folder.id == study), None)
    if folder is not None:
        cells = (one for one in folder.cells() if one.cell.purpose == "test" and one.state == "done" and one.run)
        return list(dict.fromkeys(one.run.id for one in cells))
    if "spec.name" not in table:
        return []
    names = table["spec.name"].fillna("").astype(str)
    return list(table[(names == study) | names.str.startswith(f"{study} ")]["id"])


def has_scores(table: pandas.DataFrame) -> bool:
    """Tell whether any run has a score."""
    return "score.value" in table and bool(table["score.value"].notna().any())


def _setting(key: str, value: object) -> str:
    if isinstance(value, float) and value != value:  # a run whose spec cannot be read
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column with a gap turns whole numbers into floats
    return shown_setting(key, value, 24)


def shown_setting(key: str, value: object, limit: int) -> str:
    """Return a setting's value for people; of a source its label, shortened."""
    if key.endswith("source") and isinstance(value, str):
        return task_label(value, limit)
    return setting_text("value", value).removeprefix("value").strip()


def _states(table: pandas.DataFrame) -> list[str]:
    active = table["state"].isin(("running", "stopping"))
    return [
        f"{state} {100 * part:.0f} %" if busy else str(state)
        for state, part, busy in zip(table["state"], table["progress"], active, strict=True)
    ]


def _scores(table: pandas.DataFrame) -> list[str]:
    if "score.value" not in table:
        return [""] * len(table)
    keys = ("value", "low", "high", "n", "unit")
    rows = zip(*(table[f"score.{key}"] for key in keys), strict=True)
    scores = [{key: None if v != v else v for key, v in zip(keys, row, strict=True)} for row in rows]
    return ["" if s["value"] is None else score_text({**s, "n": s["n"] and int(s["n"])}) for s in scores]


def _pairs(table: pandas.DataFrame) -> pandas.Series:
    teachers, students = (_labels(table, f"spec.{who}.source") for who in ("teacher", "student"))
    return (teachers + " → " + students).where(teachers != "", "")


def _tasks(table: pandas.DataFrame) -> pandas.Series:
    return _labels(table, "spec.task.source")


def _labels(table: pandas.DataFrame, column: str) -> pandas.Series:
    return _mapped(table, column, lambda source: task_label(source, 28), "")


def _arms(table: pandas.DataFrame) -> pandas.Series:
    return _mapped(table, "spec.method", lambda method: arm_of(method).label, "unreadable spec")


def _mapped(table: pandas.DataFrame, column: str, words: Callable[[str], str], missing: str) -> pandas.Series:
    values: Any = table[column] if column in table else pandas.Series([None] * len(table), index=table.index)
    named = {value: words(value) if isinstance(value, str) else missing for value in values.unique()}
    return values.map(lambda value: named.get(value, missing))


def _found(table: pandas.DataFrame, text: str, place: Workspace) -> pandas.Series:
    """Tell of each row whether a text in lower case occurs in its id, its name, its note, or a setting."""
    titles = reading.titles(place)
    notes = {run.id: facts.label.note for run, facts in reading.all_facts(place)}
    mask = table["id"].map(lambda run: text in f"{run}\n{titles.get(run, '')}\n{notes.get(run, '')}".lower())
    for column in (column for column in table.columns if column.startswith("spec.")):
        values = table[column]
        with suppress(TypeError):  # of lists there are not many
            kinds = values.unique()  # of thousands of runs, a setting has some values
            mask |= values.isin([value for value in kinds if text in str(value).lower()])
            continue
        mask |= values.map(lambda value: text in str(value).lower())
    return mask
