"""Presets as cards: what each asks and what it takes, and one click that makes it the study draft."""

import streamlit as st

from pages._ui.frame import state
from pages._ui.frame.fields import linked
from pages._ui.frame.layout import plain, say
from paraknow_core.studies.presets import PRESETS, Preset
from paraknow_core.studies.study import StudySpec
from paraknow_core.workbench.study_draft import StudyDraft
from paraknow_core.workbench.views import study_draft as view

SIZES = {"pocket": "Pocket", "full": "Full"}
ABOUT = {
    "pocket": "Meant to end within ten minutes on two cores with the bundled models: fewer arms and examples.",
    "full": "What may be believed: six seeds or more, tuned rates, all examples, all that the catalogue has.",
}
COLUMNS = 3
EVERY_S = 0.3  # until what all of them take is known


def draw() -> None:
    """Draw all cards, of the size that is chosen."""
    size = linked(
        "ablations",
        st.segmented_control,
        "Size",
        "size",
        list(SIZES),
        format_func=lambda name: SIZES[name],
        required=True,
        label_visibility="collapsed",
    )
    st.caption(f"{ABOUT[size]} Each keeps teacher, student and task of the draft.")
    place, base = state.place(), state.draft()
    known = view.costs_in_short(place, size, base)
    drawn = []

    def tick() -> None:
        now = view.costs_in_short(place, size, base) if drawn else known
        _cards(size, now)
        if drawn and len(known) < len(PRESETS) == len(now):
            st.rerun()  # nothing is missing any more: the clock stops
        drawn.append(now)

    st.fragment(tick, run_every=EVERY_S if len(known) < len(PRESETS) else None)()


def _cards(size: str, costs: dict[str, str]) -> None:
    presets = list(PRESETS.values())
    with st.container(key="ablations-cards"):
        for first in range(0, len(presets), COLUMNS):
            row = st.columns(COLUMNS, gap="small")
            for box, preset in zip(row, presets[first : first + COLUMNS], strict=False):
                with box.container(border=True, height="stretch", key=f"ablations-card-{preset.name}"):
                    _card(preset, size, costs.get(preset.name, "…"))


def _card(preset: Preset, size: str, cost: str) -> None:
    study = view.made(preset.name, size, state.draft())
    st.markdown(f"**{plain(preset.title)}**  \n{plain(preset.asks)}")
    if isinstance(study, str):
        say(study)
        return
    left, right = st.columns([1.5, 1], vertical_alignment="center", wrap=False)
    left.caption(plain(cost))
    tip = preset.pocket_limits if size == "pocket" else "Makes it the study draft."
    right.button(
        "Set up",
        key=f"ablations.preset.{preset.name}",
        icon=":material/tune:",
        width="stretch",
        on_click=_take,
        args=(preset, study),
        help=plain(tip),
    )


def _take(preset: Preset, study: StudySpec) -> None:
    if state.replace_study(StudyDraft(study=study, own_base=True)):
        st.toast(f"Study draft: {preset.title}", icon=":material/science:")
