"""What is cut and how it enters the student: origin, structure, rank, scale, split, injection mode."""

from collections.abc import Mapping
from typing import Any

import streamlit as st

from pages._ui.frame import state
from pages._ui.frame.fields import field, number, origin_pills
from pages._ui.frame.layout import plain, say
from pages._ui.frame.vary import varied
from paraknow_core.catalogue import MODES, SPLITS, STRUCTURES, Row, offered
from paraknow_core.workbench.views.mapping import Choice


def settings(choice: Choice) -> None:
    """Draw everything below the layer mapping that decides what is injected."""
    origin_pills(choice.plan["student_roles"])
    left, right = st.container(key="stack-fields-extraction").columns(2, gap="medium")
    _explained("Structure", "extraction.structure", {name: STRUCTURES[name] for name in offered(STRUCTURES)}, left)
    _explained("Injection mode", "injection.mode", MODES, right)
    rank, alpha, split, seed = st.container(key="stack-fields-numbers").columns([1, 1, 1.6, 1])
    number("factorisation.rank", rank)
    number("factorisation.lora_alpha", alpha)
    factors = state.draft().factorisation
    alpha.caption(plain(f"s = {factors.lora_alpha:g} / {factors.rank:,} = {factors.lora_alpha / factors.rank:.3g}"))
    field(
        varied("factorisation.split", split).selectbox,
        "Split of the singular values",
        "factorisation.split",
        options=list(SPLITS),
        format_func=lambda name: f"{name}: {SPLITS[name].text}",
        help="The product BA is the same; how it trains is not.",
    )
    number("extraction.seed", seed)
    problem = choice.rank_problem()
    if problem:
        say(problem)


def _explained(label: str, dotted: str, rows: Mapping[str, Row], box: Any) -> None:
    """Draw a choice with the sentence of what is chosen below it."""
    names = {name: row.label if "_" in name else name for name, row in rows.items()}
    tip = "; ".join(f"{name}: {row.text}" for name, row in rows.items()) + "."
    shown = {"required": True, "wrap": True, "format_func": names.get, "help": tip}
    field(varied(dotted, box).segmented_control, label, dotted, options=list(rows), **shown)
    chosen = state.value_of(dotted)
    box.caption(plain(f"{names[chosen]}: {rows[chosen].text}."))
