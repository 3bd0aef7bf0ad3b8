"""Two choices side by side: one is held in the draft's file, the other is edited."""

import streamlit as st

from pages._ui.frame import layout, state
from pages._ui.mapping.choice import Choice, choice_of, side_by_side


def hold() -> None:
    """Keep the draft's spec as the held choice."""
    state.change_beside(held=state.draft())


def swap() -> None:
    """Edit the held choice and hold the edited one."""
    whole = state.whole_draft()
    if whole.held is not None:
        state.replace_draft(whole.model_copy(update={"spec": whole.held, "held": whole.spec}))


def drop() -> None:
    """Forget the held choice."""
    state.change_beside(held=None)


def held_choice() -> Choice | None:
    """Return the held choice if there is one that can be shown; says why where it cannot."""
    held = state.whole_draft().held
    if held is None:
        return None
    choice = choice_of(held)
    if choice is not None and (choice.store is None or choice.plan["layers"] is None or not choice.pairs):
        st.info(
            "The held choice cannot be shown: its teacher was not measured, or its layers are not mapped. "
            "Swap to see what is missing.",
            icon=":material/info:",
        )
        return None
    return choice


def differences(mine: Choice, held: Choice) -> None:
    """Name the settings in which the two choices differ."""
    found = side_by_side(mine.spec, held.spec)
    if not found:
        st.info(
            "Both choices are the same so far: change a setting above, and it is compared with what is held.",
            icon=":material/compare_arrows:",
        )
        return
    layout.grid(["setting", "this choice", "held choice"], found, "differences")
