"""Presets as cards: what each asks and what it takes, and one click that makes it the study draft."""

import streamlit as st

from pages._ui.ablations import launch
from pages._ui.frame import state
from pages._ui.frame.fields import linked
from pages._ui.frame.layout import plain, say
from paraknow_core.studies.presets import PRESETS, Preset
from paraknow_core.workbench.study_draft import StudyDraft
from paraknow_core.workbench.views import ablations as view

SIZES = {
    "pocket": "Pocket: within ten minutes on two cores, with the bundled models",
    "full": "Full: six seeds, tuned rates, all that there is",
}
COLUMNS = 3


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
    presets = list(PRESETS.values())
    with st.container(key="ablations-cards"):
        for first in range(0, len(presets), COLUMNS):
            row = st.columns(COLUMNS, gap="small")
            for box, preset in zip(row, presets[first : first + COLUMNS], strict=False):
                with box.container(border=True, height="stretch", key=f"ablations-card-{preset.name}"):
                    _card(preset, size)


def _card(preset: Preset, size: str) -> None:
    study = view.made(preset.name, size, state.draft())
    st.markdown(f"**{plain(preset.title)}**  \n{plain(preset.asks)}")
    if isinstance(study, str):
        say(study)
        return
    left, right = st.columns([2.4, 1], vertical_alignment="center", wrap=False)
    left.caption(plain(launch.in_short(study)))
    right.button(
        "Set up",
        key=f"ablations.preset.{preset.name}",
        icon=":material/tune:",
        width="stretch",
        on_click=_take,
        args=(preset, study),
        help=plain(preset.pocket_limits if size == "pocket" else f"Makes it the study draft. {preset.figure}".strip()),
    )


def _take(preset: Preset, study: object) -> None:
    if state.replace_study(StudyDraft(study=study, own_base=True)):
        st.toast(f"Study draft: {preset.title}", icon=":material/science:")
