"""The one control of the origin: groups and roles as chips in step, on whatever page it stands."""

from collections.abc import Sequence

import streamlit as st

from pages._ui.frame import state
from paraknow_core.spec import GROUP_OF_ROLE, GROUPS, ROLES, normal_origin

GROUP_KEY, ROLE_KEY = "origin.groups", "origin.roles"


def pills(there: Sequence[str]) -> None:
    """Draw which modules give a block: a group is lit when all its roles are, so nothing can be chosen twice.

    Args:
        there: the roles that the student has; all that there are while nobody knows.
    """
    roles = [role for role in ROLES if role in there] or list(ROLES)
    chosen = [role for role in state.draft().extraction.roles if role in roles]
    groups = [g for g in GROUPS if any(GROUP_OF_ROLE[r] == g for r in roles)]
    whole = [g for g in groups if all(r in chosen for r in roles if GROUP_OF_ROLE[r] == g)]
    for key, value in ((GROUP_KEY, whole), (ROLE_KEY, chosen)):
        st.session_state[key] = value
    left, right = st.container(key="stack-fields-origin").columns([1, 2.1])
    left.pills(
        "Origin by group",
        groups,
        selection_mode="multi",
        wrap=True,
        key=GROUP_KEY,
        on_change=_take_groups,
        args=(whole, chosen, roles),
        help="Which modules give a block; a group is all its roles.",
    )
    right.pills(
        "Origin by role",
        roles,
        selection_mode="multi",
        wrap=True,
        key=ROLE_KEY,
        on_change=_take_roles,
        args=(roles,),
        help="Only these modules get an adapter; the rest stays as it is.",
    )


def _take_groups(before: list[str], chosen: list[str], roles: list[str]) -> None:
    now = st.session_state[GROUP_KEY]
    added, removed = set(now) - set(before), set(before) - set(now)
    wanted = [r for r in roles if GROUP_OF_ROLE[r] in added or (r in chosen and GROUP_OF_ROLE[r] not in removed)]
    _put(wanted, roles)


def _take_roles(roles: list[str]) -> None:
    _put([r for r in roles if r in st.session_state[ROLE_KEY]], roles)


def _put(wanted: list[str], roles: list[str]) -> None:
    """Write chosen roles, of those that the student has, into the draft."""
    if not wanted:
        state.tell("origin: nothing would give a block; choose at least one role")
        return
    state.change({"extraction.origin": list(normal_origin(wanted, roles))})
