"""The table of runs on Compare: filters, only the settings that differ, and rows to pick."""

import hashlib

import pandas
import streamlit as st

from pages._ui.compare import link as compare_link
from pages._ui.frame import reading, state
from pages._ui.frame.layout import plain
from paraknow_core.display import arm_of, score_text
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.table import differing_settings
from paraknow_core.studies import setting_text

FILTER = "compare.filter."
VERSION = "compare.table.version"
SHOWN_APART = ("spec.teacher.source", "spec.student.source", "spec.task.source", "spec.method", "spec.seed")
ROWS_HIGH = 9


def pick(table: pandas.DataFrame, chosen: list[str]) -> None:
    """Draw filters and table; what is picked goes into the address."""
    shown = _filtered(table)
    if shown.empty:
        st.info("No run matches these filters.", icon=":material/filter_alt_off:")
        if st.button("Clear the filters", icon=":material/filter_alt_off:"):
            for name in [key for key in st.session_state if str(key).startswith(FILTER)]:
                del st.session_state[name]
            st.rerun()
        return
    ids = list(shown["id"])
    places = [place for place, run_id in enumerate(ids) if run_id in set(chosen)]
    key = _key(ids)

    def picked() -> None:
        rows = st.session_state[key]["selection"]["rows"]
        inside = [ids[row] for row in rows if row < len(ids)]
        compare_link.choose([*(run_id for run_id in chosen if run_id not in ids), *inside])

    view, config = _view(shown)
    st.dataframe(
        view,
        key=key,
        on_select=picked,
        selection_mode="multi-row",
        selection_default={"selection": {"rows": places}},
        hide_index=True,
        height=38 + 35 * min(ROWS_HIGH, len(view)),
        column_config=config,
        placeholder="",
        alt="Table of runs: state, arm, pair, task, score, and the settings in which they differ",
    )
    _below(table, shown, chosen)


def _below(table: pandas.DataFrame, shown: pandas.DataFrame, chosen: list[str]) -> None:
    hidden = len(set(chosen) - set(shown["id"]))
    text = f"{len(chosen)} of {len(table)} runs chosen; tick rows to choose. Only settings that differ are columns."
    line = st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center")
    line.caption(plain(text + (f" {hidden} chosen are hidden by the filters." if hidden else "")), width="content")
    buttons = line.container(horizontal=True, width="content")
    if buttons.button(
        "Newest and its siblings",
        icon=":material/auto_awesome:",
        type="tertiary",
        help="The newest finished run and all that ask the same: same models, task, rank and training, "
        "any method and seed.",
    ):
        redraw(compare_link.suggestion(table))
    if chosen and buttons.button("Choose none", icon=":material/deselect:", type="tertiary"):
        redraw([])


def redraw(ids: list[str]) -> None:
    """Choose runs from outside the table: it is drawn anew, with these ticked."""
    st.session_state[VERSION] = st.session_state.get(VERSION, 0) + 1
    compare_link.choose(ids)
    st.rerun()


def _key(ids: list[str]) -> str:
    """A table of other rows is another widget: Streamlit keeps row numbers, not runs."""
    digest = hashlib.sha256("\n".join(ids).encode()).hexdigest()[:12]
    return f"compare.table:{digest}:{st.session_state.get(VERSION, 0)}"


def _filtered(table: pandas.DataFrame) -> pandas.DataFrame:
    columns = st.container(key="stack-fields-filters").columns([2.2, 1.6, 1.5, 1.2, 2], vertical_alignment="bottom")
    values = {
        "Pair": _pairs(table),
        "Task": _labels(table, "spec.task.source"),
        "Method": _arms(table),
        "State": table["state"],
    }
    mask = pandas.Series(True, index=table.index)
    for column, (label, series) in zip(columns, values.items(), strict=False):
        options = ["all", *sorted(set(series) - {""})]
        name = f"{FILTER}{label}"
        if st.session_state.get(name) not in options:
            st.session_state.pop(name, None)
        with column:
            wanted = state.kept(st.selectbox, label, name, "all", options=options)
        if wanted != "all":
            mask &= series == wanted
    with columns[-1]:
        text = (
            state.kept(
                st.text_input,
                "Find",
                f"{FILTER}text",
                "",
                placeholder="name, note, id or setting",
                max_chars=200,
                icon=":material/search:",
            )
            .strip()
            .lower()
        )
    if text:
        mask &= _haystack(table).str.contains(text, regex=False)
    return table[mask]


def _view(shown: pandas.DataFrame) -> tuple[pandas.DataFrame, dict]:
    """Return the columns that people see, and how wide they are."""
    differing = [c for c in differing_settings(shown) if c not in SHOWN_APART]
    titles = reading.titles(state.place())
    view = pandas.DataFrame(
        {
            "state": _state(shown),
            "name": [titles.get(run_id, run_id) for run_id in shown["id"]],
            "arm": _arms(shown),
            "score": _scores(shown),
        }
    )
    if len(set(_pairs(shown))) > 1:
        view["pair"] = _pairs(shown)
    if len(set(_labels(shown, "spec.task.source"))) > 1:
        view["task"] = _labels(shown, "spec.task.source")
    if "spec.seed" in shown:
        view["seed"] = [("" if pandas.isna(seed) else str(int(seed))) for seed in shown["spec.seed"]]
    for column in differing:
        key = column.removeprefix("spec.")
        view[key] = [_setting(key, value) for value in shown[column]]
    view["run"] = shown["id"]
    config = {
        "state": st.column_config.TextColumn(width=92),
        "arm": st.column_config.TextColumn(width=150),
        "score": st.column_config.TextColumn(width=190, help="main score, half its 95 % interval, n"),
        "seed": st.column_config.TextColumn(width=60),
        "name": st.column_config.TextColumn(width=220),
        "run": st.column_config.TextColumn(width=280),
    }
    return view, config


def _setting(key: str, value: object) -> str:
    if isinstance(value, float) and value != value:  # a run whose spec cannot be read
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column with a gap turns whole numbers into floats
    text = setting_text("value", value)
    return text.removeprefix("value").strip() if not key.endswith("source") else state.task_label(str(value), 24)


def _state(shown: pandas.DataFrame) -> list[str]:
    active = shown["state"].isin(("running", "stopping"))
    return [
        f"{word} {100 * part:.0f} %" if busy else str(word)
        for word, part, busy in zip(shown["state"], shown["progress"], active, strict=True)
    ]


def _scores(shown: pandas.DataFrame) -> list[str]:
    if "score.value" not in shown:
        return [""] * len(shown)
    keys = ("value", "low", "high", "n", "unit")
    rows = zip(*(shown[f"score.{key}"] for key in keys), strict=True)
    plain_rows = [{k: None if v != v else v for k, v in zip(keys, row, strict=True)} for row in rows]
    return ["" if r["value"] is None else score_text({**r, "n": r["n"] and int(r["n"])}) for r in plain_rows]


def _pairs(table: pandas.DataFrame) -> pandas.Series:
    teachers, students = (_labels(table, f"spec.{name}.source") for name in ("teacher", "student"))
    return (teachers + " → " + students).where(teachers != "", "")


def _labels(table: pandas.DataFrame, column: str) -> pandas.Series:
    values = _column(table, column)
    return values.map(lambda v: state.task_label(v, 28) if isinstance(v, str) else "")


def _arms(table: pandas.DataFrame) -> pandas.Series:
    return _column(table, "spec.method").map(lambda v: arm_of(v).label if isinstance(v, str) else "unreadable spec")


def _column(table: pandas.DataFrame, column: str) -> pandas.Series:
    return table[column] if column in table else pandas.Series([None] * len(table), index=table.index)


def _haystack(table: pandas.DataFrame) -> pandas.Series:
    """Return everything that can be searched in a row, in lower case."""
    columns = ["id", *(c for c in table.columns if c.startswith("spec."))]
    rows = table[columns].itertuples(index=False)
    titles = reading.titles(state.place())
    said = (
        f"{titles.get(run_id, '')} {reading.facts(RunFolder(state.place().runs / run_id)).label.note}"
        for run_id in table["id"]
    )
    found = [" ".join([*map(str, row), more]).lower() for row, more in zip(rows, said, strict=True)]
    return pandas.Series(found, index=table.index)
