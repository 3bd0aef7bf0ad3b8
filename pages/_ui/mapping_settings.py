"""What is cut and how it enters the student: origin, structure, rank, scale, split, injection mode."""

import streamlit as st

from pages._ui import state
from pages._ui.layout import plain, say
from pages._ui.mapping_choice import Choice
from paraknow_core.display import MODE_TEXTS, SPLIT_TEXTS, STRUCTURE_TEXTS
from paraknow_core.spec import GROUP_OF_ROLE, GROUPS, ROLES, STRUCTURES

GROUP_KEY, ROLE_KEY = "mapping.groups", "mapping.roles"


def settings(choice: Choice) -> None:
    """Draw everything below the layer mapping that decides what is injected."""
    _origin(choice)
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


def _origin(choice: Choice) -> None:
    """Draw groups and roles as chips in step: a group is lit when all its roles are."""
    roles = [role for role in ROLES if role in choice.plan["student_roles"]]
    chosen = [role for role in choice.spec.extraction.roles if role in roles]
    groups = [g for g in GROUPS if any(GROUP_OF_ROLE[r] == g for r in roles)]
    whole = [g for g in groups if all(r in chosen for r in roles if GROUP_OF_ROLE[r] == g)]
    for key, value in ((GROUP_KEY, whole), (ROLE_KEY, chosen)):
        st.session_state[key] = value
    left, right = st.container(key="stack-fields-origin").columns([1, 2.1])
    left.pills("Origin by group", groups, selection_mode="multi", wrap=True, key=GROUP_KEY, on_change=_take_groups,
               args=(whole, chosen, roles), help="Which modules give a block; a group is all its roles.")  # fmt: skip
    right.pills("Origin by role", roles, selection_mode="multi", wrap=True, key=ROLE_KEY, on_change=_take_roles,
                args=(roles,), help="Only these modules get an adapter; the rest stays as it is.")  # fmt: skip


def _take_groups(before: list[str], chosen: list[str], roles: list[str]) -> None:
    now = st.session_state[GROUP_KEY]
    added, removed = set(now) - set(before), set(before) - set(now)
    wanted = [r for r in roles if GROUP_OF_ROLE[r] in added or (r in chosen and GROUP_OF_ROLE[r] not in removed)]
    set_origin(wanted, roles)


def _take_roles(roles: list[str]) -> None:
    set_origin([r for r in roles if r in st.session_state[ROLE_KEY]], roles)


def set_origin(wanted: list[str], roles: list[str]) -> None:
    """Write chosen roles into the draft, in the fewest words.

    Args:
        wanted: roles to take.
        roles: all that the student has.
    """
    if not wanted:
        state.tell("origin: nothing would give a block; choose at least one role")
        return
    state.change({"extraction.origin": origin_of(wanted, roles)})


def origin_of(wanted: list[str], roles: list[str]) -> list[str]:
    """Return roles as the spec writes them: all, or whole groups by name and single roles after them."""
    if set(wanted) >= set(roles):
        return ["all"]
    whole = [g for g in GROUPS
             if (own := [r for r in roles if GROUP_OF_ROLE[r] == g]) and all(r in wanted for r in own)]  # fmt: skip
    return whole + [r for r in wanted if GROUP_OF_ROLE[r] not in whole]


def _extraction() -> None:
    structure, mode = st.container(key="stack-fields-extraction").columns(2, gap="medium")
    with structure:
        state.field(
            st.segmented_control, "Structure", "extraction.structure", options=list(STRUCTURES), required=True,
            wrap=True,
            format_func=lambda name: name.replace("_", "/"),
            help="; ".join(f"{name}: {STRUCTURE_TEXTS[name]}" for name in STRUCTURES) + ".",
        )  # fmt: skip
        chosen = state.draft().extraction.structure
        st.caption(plain(f"{chosen.replace('_', '/')}: {STRUCTURE_TEXTS[chosen]}."))
    with mode:
        state.field(
            st.segmented_control, "Injection mode", "injection.mode", options=list(MODE_TEXTS), required=True,
            wrap=True,
            help="; ".join(f"{name}: {text}" for name, text in MODE_TEXTS.items()) + ".",
        )  # fmt: skip
        chosen = state.draft().injection.mode
        st.caption(plain(f"{chosen}: {MODE_TEXTS[chosen]}."))


def _numbers() -> None:
    rank, alpha, split, seed = st.container(key="stack-fields-numbers").columns([1, 1, 1.6, 1])
    with rank:
        state.field(st.number_input, "Rank r", "factorisation.rank", min_value=1, max_value=65_536, step=1,
                    help="A is (r, in), B is (out, r); the update is s·BA with scaling s = lora_alpha / r. "
                    "The paper: 16.")  # fmt: skip
    with alpha:
        state.field(st.number_input, "lora_alpha", "factorisation.lora_alpha", min_value=0.001, max_value=1e6, step=1.0,
                    format="%g", to_widget=float, help="Scaling s = lora_alpha / r. The paper: 16.")  # fmt: skip
        numbers = state.draft().factorisation
        st.caption(plain(f"s = {numbers.lora_alpha:g} / {numbers.rank:,} = "
                         f"{numbers.lora_alpha / numbers.rank:.3g}"))  # fmt: skip
    with split:
        state.field(st.selectbox, "Split of the singular values", "factorisation.split", options=list(SPLIT_TEXTS),
                    format_func=lambda name: f"{name}: {SPLIT_TEXTS[name]}",
                    help="The product BA is the same; how it trains is not.")  # fmt: skip
    with seed:
        state.field(st.number_input, "Seed of random picks", "extraction.seed", min_value=0, max_value=2**32 - 1,
                    step=1, help="Of structure random and of the control random offset.")  # fmt: skip
