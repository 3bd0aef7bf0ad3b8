"""Curves of all chosen runs on top of each other: training and validation loss, one colour an arm."""

import streamlit as st

from pages._ui.compare import data as compare_data
from pages._ui.compare.scores import about
from pages._ui.frame import layout
from pages._ui.frame.fields import kept
from pages._ui.frame.layout import download, info
from paraknow_core.figures import compare as charts
from paraknow_core.studies.arms import Arm


def draw(arms: list[Arm]) -> None:
    """Draw the view."""
    curves = [
        charts.RunCurve(arm.label, arm.method, arm.variant, seed, compare_data.metrics(run))
        for arm in arms
        for seed, run in zip(arm.seeds, arm.runs, strict=True)
    ]
    curves = [curve for curve in curves if "step" in curve.table]
    if not curves:
        info("None of these runs was trained: there are no curves.", "show_chart")
        return
    smoothing = kept(
        st.slider,
        "Smoothing",
        "compare.smoothing",
        0.0,
        min_value=0.0,
        max_value=0.98,
        step=0.02,
        width=320,
        help="Exponential mean mₜ = w·mₜ₋₁ + (1 − w)·yₜ, freed of its start; the raw curve stays visible.",
    )
    runs = f"{about(arms)}; {len(curves)} run{'s' if len(curves) > 1 else ''}"
    dark, boxes = layout.is_dark(), st.container(key="stack-pictures-curves").columns(2, gap="medium")
    for box, column, title in zip(
        boxes, ("loss", "validation_loss"), ("Training loss", "Validation loss"), strict=True
    ):
        if not any(column in curve.table and curve.table[column].notna().any() for curve in curves):
            info(f"No {title.lower()} was measured.", "show_chart", box)
            continue
        weight = smoothing if column == "loss" else 0.0
        figure = charts.overlaid(curves, column, f"{title} on answers", runs, smoothing=weight, dark=dark)
        layout.chart(figure, f"compare.{column}", f"Curves: {title.lower()} of each run by step", box)
    download("Curves as CSV", lambda: charts.curves_table(curves), "curves.csv", key="compare.curves.csv")
