"""The draft's choice, and the one that is held beside it: asked of the desk, held, swapped, dropped."""

from pages._ui.frame import state
from pages._ui.frame.asking import answered
from pages._ui.frame.layout import grid, info
from paraknow_core.catalogue import STRUCTURES
from paraknow_core.sensitivity.saved_similarity import saved_similarity
from paraknow_core.sensitivity.store import SensitivityStore
from paraknow_core.spec import RunSpec
from paraknow_core.workbench.desk import requests
from paraknow_core.workbench.views.mapping import Choice, reads_states, saved_for, setting_differences


def choice_of(spec: RunSpec) -> Choice | None:
    """Return a spec's choice; while the desk works it out a line is drawn and None returned."""
    source = answered(requests.TransferSource(spec=spec), "Reading the teacher and the seed samples …")
    if source is None:
        return None
    names, exact = saved_for(state.place(), source.value["fingerprint"], source.value["key"])
    structure = spec.extraction.structure
    structure = structure if len(names) > 1 or "reductions" in STRUCTURES[structure].needs else ""
    alike, unlike, kept = None, "", ""
    if reads_states(spec):
        read = answered(requests.TransferSimilarity(spec=spec), "Reading the seed samples with both models …")
        if read is None:
            return None
        unlike, key = read.value["problem"], read.value["key"]
        alike = saved_similarity(state.place(), key) if key else None
        kept = key if alike else ""
    question = requests.TransferPlan(spec=spec, stores=names, structure=structure, similarity=kept)
    reply = answered(question, "Reading both models …")
    if reply is None:
        return None
    store = SensitivityStore(state.place().sensitivity / reply.value["store"]) if reply.value["store"] else None
    problem = source.value["problem"]
    return Choice(spec, reply.value, reply.folder.name, store, exact, problem, alike, unlike)


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
    if choice is None or choice.can_be_shown:
        return choice
    info(
        "The held choice cannot be shown: its teacher was not measured, or its layers are not mapped. Swap to see what "
        "is missing.",
        "info",
    )
    return None


def differences(mine: Choice, held: Choice) -> None:
    """Name the settings in which the two choices differ."""
    rows = setting_differences(mine.spec, held.spec)
    if rows:
        grid(["setting", "this choice", "held choice"], rows, "differences")
    else:
        info(
            "Both choices are the same so far: change a setting above, and it is compared with what is held.",
            "compare_arrows",
        )
