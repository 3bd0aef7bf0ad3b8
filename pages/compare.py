"""Compare: runs that differ in one stated way, their scores, paired differences, answers, weights, and a report."""

from typing import TYPE_CHECKING

import streamlit as st

from pages._ui.compare import answers as compare_answers
from pages._ui.compare import curves as compare_curves
from pages._ui.compare import data as compare_data
from pages._ui.compare import files as compare_files
from pages._ui.compare import lens as compare_lens
from pages._ui.compare import link as compare_link
from pages._ui.compare import scores as compare_scores
from pages._ui.compare import table as compare_table
from pages._ui.frame.layout import info, plain
from pages._ui.frame.page import page
from paraknow_core.workbench.views.compare import has_scores

if TYPE_CHECKING:
    import pandas

VIEWS = {
    "scores": ("Scores and differences", compare_scores.draw),
    "curves": ("Curves", compare_curves.draw),
    "answers": ("Answers", compare_answers.draw),
    "lens": ("Before and after", compare_lens.draw),
    "files": ("Report and files", compare_files.draw),
}


def empty() -> None:
    """Say what will be here, and the way to it."""
    info(
        "Runs will be compared here: scores with intervals, paired differences, curves, answers side by side, and "
        "where the weights moved. Start a transfer with default LoRA beside it first.",
        "balance",
    )
    st.page_link("pages/train.py", label="Start a transfer on Train", icon=":material/play_arrow:")


def body(table: "pandas.DataFrame") -> None:
    """Draw the table of runs and the view of those that were chosen."""
    ids = compare_link.chosen(table)
    compare_table.pick(table, ids)
    arms, left_out = compare_data.finished(ids)
    if left_out:
        states = list(left_out.values())
        words = ", ".join(f"{states.count(word)} {word}" for word in dict.fromkeys(states))
        st.caption(plain(f"Not compared, because they have no scores: {words}."))
    repeats = sum(arm.repeats for arm in arms)
    if repeats:
        st.caption(f"{repeats} older run{'s' if repeats > 1 else ''} with the same settings and seed left out.")
    if not arms:
        _nothing_chosen(table)
        return
    view = compare_link.linked(
        st.segmented_control,
        "View",
        "view",
        list(VIEWS),
        format_func=lambda name: VIEWS[name][0],
        required=True,
        label_visibility="collapsed",
    )
    VIEWS[view][1](arms)


def _nothing_chosen(table: "pandas.DataFrame") -> None:
    if has_scores(table):
        info("Tick runs in the table to compare them: several arms, and several seeds of each.", "check_box")
        return
    info("No run has scores yet. Runs that finish will be compared here.", "hourglass_empty")
    st.page_link("pages/train.py", label="Start or resume a transfer on Train", icon=":material/play_arrow:")


with page("Compare"):
    rows = compare_data.all_rows()
    if rows.empty:
        empty()
    else:
        body(rows)
