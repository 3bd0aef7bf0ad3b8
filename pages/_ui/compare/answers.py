"""Answers of two runs side by side: what was gained, what was lost, example by example."""

from html import escape
from typing import Any

import streamlit as st

from pages._ui.compare import data as compare_data
from pages._ui.compare.link import linked
from pages._ui.frame import state
from pages._ui.frame.layout import download, info, plain
from paraknow_core.catalogue import BASELINE
from paraknow_core.display import LOWER_IS_BETTER, scorer_label
from paraknow_core.studies import differences
from paraknow_core.studies.arms import Arm
from paraknow_core.workbench import reading

KINDS = ("gained", "lost", "same", "all")
CHIP = {"gained": "pk-gained", "lost": "pk-lost2", "same": "pk-same"}
ARROWS = "compare_arrows"
SEARCHED = ("id", "prompt", "reference", "output_a", "output_b")
PER_PAGE = 8
MOST_SHOWN = 6000  # letters of one text on screen; the CSV has all


def draw(arms: list[Arm]) -> None:
    """Draw the view."""
    runs, titles = {run.id: run for arm in arms for run in arm.runs}, reading.titles(state.place())
    labels = {run_id: titles.get(run_id, run_id) for run_id in runs}
    if len(runs) < 2:
        info("Choose at least two finished runs in the table: their answers will stand side by side here.", ARROWS)
        return
    first, second, scorer = _which(arms, labels)
    scores = [score for score in reading.facts(runs[first]).scores if score.get("scorer") == scorer]
    lower = any(score.get("unit") in LOWER_IS_BETTER for score in scores)
    both = [compare_data.predictions(runs[run_id]) for run_id in (first, second)]
    rows = differences.side_by_side(*both, scorer, lower_is_better=lower)
    if not rows:
        info("The two runs share no test example by this scorer; choose runs of one task and split.", ARROWS)
        return
    counts = {kind: sum(kind in (row["kind"], "all") for row in rows) for kind in KINDS}
    kinds, find = st.columns([3, 2], vertical_alignment="bottom")
    kind = linked(
        kinds.segmented_control,
        "Show",
        "kind",
        list(KINDS),
        format_func=lambda name: f"{name} ({counts[name]:,})",
        required=True,
        help="gained: the second run scores higher than the first on this example; lost: lower. "
        "McNemar's test asks whether these two counts could be equal.",
    )
    shown = {"placeholder": "in prompt, reference or answers", "max_chars": 200, "icon": ":material/search:"}
    needle = find.text_input("Find", key="compare.find", **shown).strip().lower()
    of_kind = [row for row in rows if kind in (row["kind"], "all")]
    matching = [row for row in of_kind if not needle or needle in "\n".join(row[key] for key in SEARCHED).lower()]
    _pages(matching, (labels[first], labels[second]), f"{kind}|{needle}|{first}|{second}|{scorer}")
    table = [{**row, "run_a": first, "run_b": second, "scorer": scorer} for row in matching]
    download("These answers as CSV", table, "answers.csv", key="compare.answers.csv")


def _which(arms: list[Arm], labels: dict[str, str]) -> tuple[str, str, str]:
    left, right, which = st.container(key="stack-fields-answers").columns([2, 2, 1.4])
    base = next((arm for arm in arms if arm.method == BASELINE), arms[-1])
    other = next((arm for arm in arms if arm.key != base.key), base)
    lines = reading.options(state.place(), [run for arm in arms for run in arm.runs])
    first = linked(left.selectbox, "First", "first", list(labels), base.runs[0].id, format_func=lines.get)
    default = other.runs[0].id if other is not base else base.runs[1].id
    rest = [run_id for run_id in labels if run_id != first]
    second = linked(right.selectbox, "Second", "second", rest, default, format_func=lines.get)
    named = {"format_func": lambda name: scorer_label({"scorer": name}).split(",")[0]}
    return first, second, linked(which.selectbox, "Scorer", "scorer", differences.scorers(arms), **named)


def _pages(rows: list[dict[str, Any]], names: tuple[str, str], question: str) -> None:
    """Draw one page of examples; another question starts at the first page again."""
    if not rows:
        info("No example is like this.", "search_off")
        return
    pages = -(-len(rows) // PER_PAGE)
    if st.session_state.get("compare.asked") != question:
        st.session_state["compare.asked"], st.session_state["compare.page"] = question, 1
    number = min(st.session_state.get("compare.page", 1), pages)
    st.html("".join(_card(row, names) for row in rows[(number - 1) * PER_PAGE : number * PER_PAGE]))
    if pages > 1:
        back, where, on = st.columns([1, 3, 1], vertical_alignment="center")
        if back.button("Previous", icon=":material/chevron_left:", disabled=number <= 1, width="stretch"):
            st.session_state["compare.page"] = number - 1
            st.rerun()
        where.markdown(plain(f"page {number} of {pages:,}, {len(rows):,} examples"), text_alignment="center")
        if on.button("Next", icon=":material/chevron_right:", disabled=number >= pages, width="stretch"):
            st.session_state["compare.page"] = number + 1
            st.rerun()


def _card(row: dict[str, Any], names: tuple[str, str]) -> str:
    head = f'<span class="pk-chip {CHIP[row["kind"]]}">{row["kind"]}</span><code>{escape(str(row["id"])[:120])}</code>'
    cells = [
        ("Prompt", row["prompt"]),
        ("Reference", row["reference"]),
        (f"score {row['score_a']:.3g} · {names[0]}", row["output_a"]),
        (f"score {row['score_b']:.3g} · {names[1]}", row["output_b"]),
    ]
    body = "".join(f"<section><h4>{escape(name)}</h4><pre>{_shown(text)}</pre></section>" for name, text in cells)
    return f'<article class="pk-answer"><header>{head}</header><div>{body}</div></article>'


def _shown(text: str) -> str:
    cut = escape(text[:MOST_SHOWN])
    return (cut + " …" if len(text) > MOST_SHOWN else cut) or '<span class="pk-quiet">nothing</span>'
