"""What the study draft would compute and take, the draft as a file, and the button that starts it."""

import streamlit as st

from pages._ui.frame import execution, state, submit
from pages._ui.frame.layout import download, plain, say
from paraknow_core.errors import ParaknowError
from paraknow_core.studies.study import StudySpec
from paraknow_core.workbench.study_draft import StudyDraft
from paraknow_core.workbench.views import study_draft as view

IMPORTED = "ablations.imported"  # what came of the last import
WORKED_OUT = "ablations.worked_out"  # the large study whose cost was asked for
REFUSED = "ablations.refused"  # the study that was refused at the last click, and why


def draw(study: StudySpec) -> None:
    """Draw grid and cost, the file, and Start."""
    with st.container(border=True):
        st.markdown(f"**{plain(view.grid_words(study))}**")
        problem = submit.study_problem(study)
        if problem:
            say(problem)
        else:
            _cost(study)
        with st.container(horizontal=True, vertical_alignment="center"):
            with st.container(key="guarded-study", width="content"):
                _start(study, problem)
            _file(study)
            _clear()


def _cost(study: StudySpec) -> None:
    """Say what the study takes and what it will be able to see."""
    key = study.model_dump_json()
    if study.runs > view.LARGE and st.session_state.get(WORKED_OUT) != key:
        st.markdown(f"Up to {study.runs:,} runs.")
        if st.button("Work out time and disk", icon=":material/timer:", type="tertiary"):
            st.session_state[WORKED_OUT] = key
            st.rerun()
        execution.before_start([], study=True)
        return
    found = view.cost(state.place(), study)
    st.markdown(plain(view.cost_words(found)))
    st.markdown(plain(view.detectable_words(found, study)))
    if found.shared:
        st.caption(plain(f"Shared: {'; '.join(found.shared)}."))
    for words in found.warnings:
        st.caption(f":material/warning: {plain(words)}")
    execution.before_start(view.todo(state.place(), study), study=True)


def _start(study: StudySpec, problem: str) -> None:
    if st.button(
        "Start study",
        type="primary",
        icon=":material/play_arrow:",
        key="ablations.start",
        disabled=bool(problem),
        help="Starts a process of its own: close the browser, and it goes on. The study's spec is frozen from then on.",
    ):
        st.session_state.pop(REFUSED, None)
        started = submit.start_study(study)
        if not isinstance(started, str):
            st.query_params["study"] = started.id
            st.rerun()
        st.session_state[REFUSED] = (study.model_dump_json(), started)
    words = st.session_state.get(REFUSED, ("", ""))
    if words[0] == study.model_dump_json():  # a page that draws itself anew, by its clocks, still says it
        say(words[1])


def _file(study: StudySpec) -> None:
    with st.popover("Study as a file", icon=":material/description:"):
        yaml = study.to_yaml()
        st.caption("What runs is exactly this; copy it with the button in its corner.")
        st.code(yaml, language="yaml", height=300)
        st.caption("Save it as `study.yaml`; this computes the same:")
        st.code("python -m paraknow_core study run study.yaml", language="bash")
        download("Download study.yaml", yaml, "study.yaml", width="stretch")
        with st.form("ablations.import", border=False, enter_to_submit=False):
            st.text_area("Import YAML", key="ablations.import.text", height=90, max_chars=200_000)
            words, good = st.session_state.get(IMPORTED, ("", True))
            if words:
                st.success(plain(words), icon=":material/check:") if good else say(words)
            st.form_submit_button("Import", icon=":material/upload:", width="stretch", on_click=_import)


def _import() -> None:
    """Make the pasted study the draft; a bad one is named and changes nothing."""
    try:
        study, own_base = view.imported(st.session_state.get("ablations.import.text", ""))
    except ParaknowError as error:
        st.session_state[IMPORTED] = (str(error), False)
        return
    done = state.replace_study(StudyDraft(study=study, own_base=own_base))
    problem = state.take_problem()
    if done and not problem:
        st.session_state["ablations.import.text"] = ""
    words = problem or ("Imported: it is the study draft now." if done else "imported study: it was refused")
    st.session_state[IMPORTED] = (words, done and not problem)


def _clear() -> None:
    st.button(
        "Back to the defaults",
        icon=":material/restart_alt:",
        type="tertiary",
        disabled=state.whole_study() == StudyDraft(),
        on_click=lambda: state.replace_study(StudyDraft()),
    )
