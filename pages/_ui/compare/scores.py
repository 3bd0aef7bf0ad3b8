"""Scores and paired differences on Compare: two pictures, the sentences, and the table with adjusted p-values."""

from typing import Any

import streamlit as st

from pages._ui.compare import data as compare_data
from pages._ui.compare.link import linked
from pages._ui.frame import layout
from pages._ui.frame.layout import download, info, plain
from paraknow_core.catalogue import BASELINE
from paraknow_core.display import SHARE, score_text, scorer_label, source_label
from paraknow_core.figures import compare as charts
from paraknow_core.studies import differences
from paraknow_core.studies.arms import Arm
from paraknow_core.studies.differences import Contrast
from paraknow_core.studies.words import interval_text, p_text, points_text
from paraknow_core.workbench.uploads import task_label

MOST_SAID = 5  # differences in words before the rest is folded
PAPER_HELP = (
    "The method's gain over default LoRA as published: LLaMA-1, 7B student, teachers of 13 and 30 billion weights, one "
    "run each. Other models, data and scale: only the sign and the size of the effect can be held beside this one."
)


def about(arms: list[Arm]) -> str:
    """Say for which pair and task a picture is."""
    specs = [arm.spec for arm in arms]
    pairs = {(s.teacher.source, s.student.source) for s in specs}
    tasks = {s.task.source for s in specs}
    pair = " → ".join(source_label(name, 26) for name in pairs.pop()) if len(pairs) == 1 else f"{len(pairs)} pairs"
    return f"{pair}, {task_label(tasks.pop(), 28) if len(tasks) == 1 else f'{len(tasks)} tasks'}"


def draw(arms: list[Arm]) -> None:
    """Draw the view."""
    names = differences.scorers(arms)
    base, scorer, paper = _controls(arms, names)
    ready = differences.scored_by(arms, scorer)
    missing = [arm.label for arm in arms if arm not in ready]
    if missing:
        st.caption(plain(f"Not scored by this scorer: {', '.join(missing)}."))
    if base not in ready:
        info("The arm to compare with was not scored by this scorer: choose another.", "info")
        return
    rows = differences.score_rows(ready, scorer, compare_data.pooled)
    changes = differences.contrasts(ready, base, scorer, compare_data.difference)
    published = differences.published(changes, base, scorer) if paper else []
    _pictures(arms, rows, changes, base, published)
    untouched = [f"{row['label']} {score_text(row)}" for row in rows if row["method"] in charts.UNTOUCHED]
    if untouched:
        st.caption(plain(f"Beside them: {'; '.join(untouched)}."))
    if paper:
        why = "" if published else " Nothing is published for this scorer, or the arm to compare with is another one."
        st.caption(plain(f"Diamonds: {PAPER_HELP}{why}"))
    _sentences(changes, base)
    _table(rows, changes, base)


def _controls(arms: list[Arm], names: list[str]) -> tuple[Arm, str, bool]:
    against, which, toggle = st.container(key="stack-fields-scores").columns([2.4, 2, 1.6], vertical_alignment="bottom")
    by_key = {arm.key: arm for arm in arms}
    default = next((arm.key for arm in arms if arm.method == BASELINE), arms[-1].key)
    key = linked(
        against.selectbox,
        "Difference to",
        "base",
        list(by_key),
        default,
        format_func=lambda key: by_key[key].label,
        help="Paired example by example: d = mean(score of the arm − score of this one).",
    )
    scorer = linked(
        which.selectbox,
        "Scorer",
        "scorer",
        names,
        format_func=lambda name: scorer_label({"scorer": name}).split(",")[0],
        help="All scorers read the same answers.",
    )
    paper = linked(toggle.segmented_control, "Paper's values", "paper", ["hide", "show"], help=PAPER_HELP)
    return by_key[key], scorer, paper == "show"


def _pictures(arms: list[Arm], rows: list[dict], changes: list[Contrast], base: Arm, published: list) -> None:
    dark, where = layout.is_dark(), about(arms)
    title = f"Test score: {scorer_label(rows[0])}"
    left, right = st.container(key="stack-pictures-compare").columns(2, gap="medium")
    layout.chart(
        charts.score_forest(rows, title, f"{where}; lines: 95 % intervals over examples", dark=dark),
        "compare.scores",
        "Points with intervals: " + "; ".join(f"{r['label']} {score_text(r)}" for r in rows),
        left,
    )
    if not changes:
        words = "Choose runs of a second arm, such as default LoRA, and their paired difference will appear here."
        info(words, "balance", right)
        return
    by_label = {c.arm.label: c for c in changes}
    # Each difference in the row of its score, the arm to compare with in its own.
    in_rows = [by_label.get(row["label"], base) for row in rows if row["method"] not in charts.UNTOUCHED]
    sizes = {c.result.n for c in changes if c.result}
    n = f"n = {min(sizes):,}" + (f" to {max(sizes):,}" if len(sizes) > 1 else "") if sizes else "not paired"
    layout.chart(
        charts.difference_forest(
            in_rows,
            f"Difference to {base.label}",
            f"paired by example, {n}; lines: 95 % intervals",
            published=published,
            dark=dark,
        ),
        "compare.differences",
        "Points with intervals: " + "; ".join(f"{c.arm.label}: {c.says}" for c in changes),
        right,
    )


def _sentences(changes: list[Contrast], base: Arm) -> None:
    """Say each difference in words, and what stands in its way."""
    tests = sum(c.p_adjusted is not None for c in changes)
    of_all = [part for part in changes[0].cautions if all(part in c.cautions for c in changes)] if changes else []
    for change in changes[:MOST_SAID]:
        _sentence(change, base, of_all)
    if len(changes) > MOST_SAID:
        with st.expander(f"{len(changes) - MOST_SAID} more differences in words", icon=":material/notes:"):
            for change in changes[MOST_SAID:]:
                _sentence(change, base, of_all)
    if of_all:
        which = "For all of these: " if len(changes) > 1 else ""
        st.caption(f":material/warning: {which}{plain('; '.join(of_all))}.")
    if tests > 1:
        st.caption(f"{tests} comparisons were made with this arm; p-values are adjusted for their number (Holm).")


def _sentence(change: Contrast, base: Arm, of_all: list[str]) -> None:
    st.markdown(f"**{plain(change.arm.label)}** against {plain(base.label)}: {plain(change.says)}")
    own = [part for part in change.cautions if part not in of_all]
    if own:
        st.caption(f":material/warning: {plain('; '.join(own))}.")


def _table(rows: list[dict[str, Any]], changes: list[Contrast], base: Arm) -> None:
    """Draw every number as a table, and hand it out."""
    by_label = {c.arm.label: c for c in changes}
    unit_of_all = changes[0].unit if changes else rows[0].get("unit")
    records = []
    for row in rows:
        change = by_label.get(row["label"])
        unit, paired = (change.unit, change.result) if change else (unit_of_all, None)
        records.append(
            {
                "arm": row["label"],
                "score": score_text(row),
                "seeds": "" if row["seeds"] is None else str(row["seeds"]),
                f"difference [{'points' if unit == SHARE else unit}]": points_text(paired.difference, unit)
                if paired
                else "",
                "95 % interval": interval_text(paired.low, paired.high, unit) if paired else "",
                "p": p_text(paired.p_value) if paired else "",
                "p, Holm": p_text(change.p_adjusted) if paired else "",
                "test": paired.method if paired else "",
            }
        )
    with st.expander("The numbers as a table", icon=":material/table:"):
        st.dataframe(records, hide_index=True, alt="Table of scores and differences")
    flat = {label: change.row() for label, change in by_label.items()}
    full = [
        {
            **row,
            "points": " ".join(map(str, row["points"])),
            "against": base.label,
            **{k: v for k, v in flat.get(row["label"], {}).items() if k not in row},
        }
        for row in rows
    ]
    download("Scores and differences as CSV", full, "comparison.csv", key="compare.csv")
