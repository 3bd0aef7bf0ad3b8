"""The one draft behind all pages, and what this window knows beside it; `fields` draws the widgets that change it.

Streamlit forgets a widget's value when its page is left; the draft is kept apart from the widgets, and in a file of
the workspace, so it survives pages, reloads, and restarts of browser and server. Two windows see each other's changes.
In demo mode every window has a draft of its own: a class shares a machine, not a draft.
"""

from typing import Any

import streamlit as st

from paraknow_core.errors import ParaknowError, RunError, SpecError
from paraknow_core.paths import Workspace, workspace
from paraknow_core.runs.folder import RunFolder
from paraknow_core.spec import RunSpec
from paraknow_core.studies.study import StudySpec, groups_of, parse_study, spec_of
from paraknow_core.workbench import draft as drafts
from paraknow_core.workbench import study_draft as study_drafts
from paraknow_core.workbench.access import Access, declare
from paraknow_core.workbench.access import access as access_of
from paraknow_core.workbench.draft import Draft
from paraknow_core.workbench.reading import run_named
from paraknow_core.workbench.study_draft import StudyDraft

DRAFT = "draft"
STAMP = "draft.stamp"  # of the file as this window last read or wrote it
PROBLEM = "draft.problem"
READ = "draft.read"  # how many changes of other windows this one has read
SHOWN = "draft.shown"  # how many of them it shows
STUDY, STUDY_STAMP, STUDY_READ = "study", "study.stamp", "study.read"  # the same of the study draft
OWN = "own.runs"  # ids of the runs that this window has started


def place() -> Workspace:
    """Return the workspace that all pages read and write."""
    return workspace()


def access() -> Access:
    """Return what this server's visitors may do; the address is what the server really listens on."""
    return access_of(place(), st.get_option("server.address") or "")


def declare_address() -> None:
    """Let everything that this server calls or starts know who can reach it; `access` reads it from there."""
    declare(st.get_option("server.address") or "")


def whole_draft() -> Draft:
    """Return the draft with what is started beside its spec; a new window continues with the workspace's file."""
    shared = not access().demo
    stamp = drafts.stamp(place()) if shared else (0, 0)
    if DRAFT not in st.session_state or (shared and stamp != st.session_state.get(STAMP, stamp)):
        before = st.session_state.get(DRAFT)
        try:
            st.session_state[DRAFT] = drafts.load_draft(place()) if shared else Draft()
            _say_what_changed(before, st.session_state[DRAFT])
        except SpecError as error:
            st.session_state[DRAFT] = Draft()
            st.session_state[PROBLEM] = str(error)
        if before is not None and before.started() != st.session_state[DRAFT].started():
            st.session_state[READ] = st.session_state.get(READ, 0) + 1
    st.session_state[STAMP] = stamp
    return st.session_state[DRAFT]


def _say_what_changed(before: Draft | None, draft_now: Draft) -> None:
    """Tell this window what another one has just set: Start here would run it, too."""
    if before is not None and before.spec != draft_now.spec:
        keys = drafts.differing(before.spec, draft_now.spec)
        more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
        st.toast(
            f"The draft was changed in another window: {', '.join(keys[:4])}{more}".replace("_", "\\_"),
            icon=":material/sync:",
            duration="long",
        )


def changes_read() -> tuple[int, int]:
    """Return how many changes of other windows this one has read: of the draft, and of the study draft."""
    whole_draft()
    whole_study()
    return st.session_state.get(READ, 0), st.session_state.get(STUDY_READ, 0)


def show_changes(numbers: tuple[int, int]) -> None:
    """Note that this window shows so many changes of other windows: it was drawn from top to bottom after them."""
    st.session_state[SHOWN] = numbers


def changed_unseen(*, study: bool = False) -> str:
    """Return why nothing may be started at this click: it was made on settings that are no longer the draft's.

    Args:
        study: whether the study draft counts, too.
    """
    kinds = 2 if study else 1
    if changes_read()[:kinds] == st.session_state.get(SHOWN, (0, 0))[:kinds]:
        return ""
    return (
        "draft: the settings were changed in another window after this one was drawn; they are shown now, so check "
        "them and start again"
    )


def draft() -> RunSpec:
    """Return the draft's spec."""
    return whole_draft().spec


def replace_draft(new: Draft) -> bool:
    """Make this the draft, here and in the workspace's file: the one way into it, from whatever page or link.

    Where it cannot be written, or names what this visitor may not use, that is told on the next draw.

    Returns:
        False where it was refused; the draft is as it was.
    """
    before = whole_draft()
    drawn = [before.spec, *([before.held] if before.held else [])]
    try:
        access().check_limit("seeds", new.seeds)
        for spec in (new.spec, new.held):
            if spec is not None and spec not in drawn:
                access().check_spec(spec, before.spec)
    except ParaknowError as error:
        st.session_state[PROBLEM] = str(error)
        return False
    st.session_state[DRAFT] = new
    if access().demo:
        return True
    try:
        drafts.save_draft(place(), new)
    except ParaknowError as error:
        st.session_state[PROBLEM] = str(error)
    st.session_state[STAMP] = drafts.stamp(place())
    return True


def replace_spec(spec: RunSpec) -> bool:
    """Make this the draft's spec: an imported file, or a run's to tweak; see `replace_draft`."""
    return replace_draft(whole_draft().with_spec(spec))


def change(changes: dict[str, Any]) -> bool:
    """Replace dotted keys of the draft; a refused value leaves it as it was and is told on the next draw."""
    try:
        return replace_spec(draft().with_changes(changes))
    except SpecError as error:
        st.session_state[PROBLEM] = str(error)
        return False


def change_beside(**changes: Any) -> None:
    """Replace what is started beside the spec: `arms`, `seeds`, `held`."""
    replace_draft(whole_draft().model_copy(update=changes))


def tell(problem: object) -> None:
    """Say a sentence about something the user can mend on the next draw, on top of the page."""
    st.session_state[PROBLEM] = str(problem)


def whole_study() -> StudyDraft:
    """Return the study draft; a new window continues with the workspace's file, as `whole_draft` does."""
    shared = not access().demo
    stamp = study_drafts.stamp(place()) if shared else (0, 0)
    if STUDY not in st.session_state or (shared and stamp != st.session_state.get(STUDY_STAMP, stamp)):
        before = st.session_state.get(STUDY)
        try:
            st.session_state[STUDY] = study_drafts.load_study_draft(place()) if shared else StudyDraft()
        except SpecError as error:
            st.session_state[STUDY] = StudyDraft()
            st.session_state[PROBLEM] = str(error)
        if before is not None and before != st.session_state[STUDY]:
            st.session_state[STUDY_READ] = st.session_state.get(STUDY_READ, 0) + 1
            st.toast("The study draft was changed in another window.", icon=":material/sync:", duration="long")
    st.session_state[STUDY_STAMP] = stamp
    return st.session_state[STUDY]


def study() -> StudySpec:
    """Return the study draft as Start would run it."""
    return whole_study().on(draft())


def replace_study(new: StudyDraft) -> bool:
    """Make this the study draft, here and in the workspace's file; see `replace_draft`."""
    before = study()
    try:
        for group in groups_of(new.on(draft())):
            access().check_spec(spec_of(new.on(draft()), group, new.study.seeds[0]), before.base)
        if new.study.wrong_task and new.study.wrong_task != before.wrong_task:
            access().check_source(new.study.wrong_task, "wrong_task")
        st.session_state[STUDY] = new
        if not access().demo:
            study_drafts.save_study_draft(place(), new)
    except ParaknowError as error:
        st.session_state[PROBLEM] = str(error)
        if st.session_state[STUDY] is not new:
            return False
    st.session_state[STUDY_STAMP] = study_drafts.stamp(place()) if not access().demo else (0, 0)
    return True


def change_study(**changes: Any) -> bool:
    """Replace parts of the study draft; a refused value leaves it as it was and is told on the next draw."""
    try:
        changed = parse_study({**study().model_dump(mode="json"), **changes}, "study draft")
    except SpecError as error:
        st.session_state[PROBLEM] = str(error)
        return False
    return replace_study(whole_study().model_copy(update={"study": changed}))


def changed_settings() -> list[str]:
    """Return the dotted keys in which the draft differs from the defaults."""
    return drafts.differing(RunSpec(), draft())


def value_of(dotted: str) -> Any:
    """Return one value of the draft as plain data."""
    node: Any = draft().model_dump(mode="json")
    for key in dotted.split("."):
        node = node[key]
    return node


def own(*ids: str) -> None:
    """Note that this window has started these runs."""
    st.session_state[OWN] = {*st.session_state.get(OWN, ()), *ids}


def is_own(run_id: str) -> bool:
    """Tell whether this window has started a run."""
    return run_id in st.session_state.get(OWN, ())


def run_in_link() -> tuple[RunFolder | None, str]:
    """Return the run that `?run=` of the address names, and a sentence if it names none."""
    name = st.query_params.get("run", "")
    if not name:
        return None, ""
    try:
        return run_named(place(), name), ""
    except RunError as error:
        return None, str(error)


def take_problem() -> str | None:
    """Return what was refused since the last draw, once."""
    return st.session_state.pop(PROBLEM, None)
