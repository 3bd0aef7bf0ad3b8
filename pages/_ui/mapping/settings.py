"""What is cut and how it enters the student: origin, structure, rank, scale, split, injection mode."""

import streamlit as st

from pages._ui.frame import origin, state
from pages._ui.frame.layout import plain, say
from pages._ui.mapping.choice import Choice
from paraknow_core.catalogue import MODES, SPLITS, STRUCTURES, offered


def settings(choice: Choice) -> None:
    """Draw everything below the layer mapping that decides what is injected."""
    origin.pills(choice.plan["student_roles"])
    _extraction()
    _numbers()
    problem = rank_problem(choice)
    if problem:
        say(problem)


def rank_problem(choice: Choice) -> str:
    """Return why nothing can be injected with the choice's rank, or nothing."""
    tight = choice.plan["most_rank"]
    if not tight or choice.rank <= tight:
        return ""
    return f"rank {choice.rank:,} does not fit {choice.plan['tightest']}; choose 1 to {tight:,}, or another origin"


def _extraction() -> None:
    structure, mode = st.container(key="stack-fields-extraction").columns(2, gap="medium")
    with structure:
        state.field(
            st.segmented_control,
            "Structure",
            "extraction.structure",
            options=list(offered(STRUCTURES)),
            required=True,
            wrap=True,
            format_func=lambda name: name.replace("_", "/"),
            help="; ".join(f"{name}: {STRUCTURES[name].text}" for name in offered(STRUCTURES)) + ".",
        )
        chosen = state.draft().extraction.structure
        st.caption(plain(f"{chosen.replace('_', '/')}: {STRUCTURES[chosen].text}."))
    with mode:
        state.field(
            st.segmented_control,
            "Injection mode",
            "injection.mode",
            options=list(MODES),
            required=True,
            wrap=True,
            help="; ".join(f"{name}: {row.text}" for name, row in MODES.items()) + ".",
        )
        chosen = state.draft().injection.mode
        st.caption(plain(f"{chosen}: {MODES[chosen].text}."))


def _numbers() -> None:
    rank, alpha, split, seed = st.container(key="stack-fields-numbers").columns([1, 1, 1.6, 1])
    with rank:
        state.field(
            st.number_input,
            "Rank r",
            "factorisation.rank",
            min_value=1,
            max_value=65_536,
            step=1,
            help="A is (r, in), B is (out, r); the update is s·BA with scaling s = lora_alpha / r. The paper: 16.",
        )
    with alpha:
        state.field(
            st.number_input,
            "lora_alpha",
            "factorisation.lora_alpha",
            min_value=0.001,
            max_value=1e6,
            step=1.0,
            format="%g",
            to_widget=float,
            help="Scaling s = lora_alpha / r. The paper: 16.",
        )
        numbers = state.draft().factorisation
        st.caption(plain(f"s = {numbers.lora_alpha:g} / {numbers.rank:,} = {numbers.lora_alpha / numbers.rank:.3g}"))
    with split:
        state.field(
            st.selectbox,
            "Split of the singular values",
            "factorisation.split",
            options=list(SPLITS),
            format_func=lambda name: f"{name}: {SPLITS[name].text}",
            help="The product BA is the same; how it trains is not.",
        )
    with seed:
        state.field(
            st.number_input,
            "Seed of random picks",
            "extraction.seed",
            min_value=0,
            max_value=2**32 - 1,
            step=1,
            help="Of structure random and of the control random offset.",
        )
