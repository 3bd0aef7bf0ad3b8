"""What can be done with a choice: hold it beside another, extract it, train it."""

import streamlit as st

from pages._ui.frame import asking, run_panel, state, submit
from pages._ui.frame.layout import download, plain, say
from pages._ui.mapping import choice
from paraknow_core.display import counted, memory
from paraknow_core.errors import RunError
from paraknow_core.files.disk import file_stamp
from paraknow_core.files.packing import ADAPTER_FILES, adapter_zip, read_inside, refuse_links
from paraknow_core.runs.folder import RunFolder
from paraknow_core.workbench import reading
from paraknow_core.workbench.starting import arms_and_seeds

EXTRACTION = "mapping.extraction"  # id of the run that this page started


def actions() -> None:
    """Draw the row of buttons above everything else."""
    held = state.whole_draft().held is not None
    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
        tip = "Keeps these settings beside the draft, so that the next ones are compared with them."
        for label, icon, change, help_text, disabled in (
            ("Hold this choice", "bookmark", choice.hold, tip, False),
            ("Swap", "swap_horiz", choice.swap, "Edit the held choice, and hold this one.", not held),
            ("Drop", "bookmark_remove", choice.drop, "Forget the held choice.", not held),
        ):
            st.button(label, icon=f":material/{icon}:", on_click=change, help=help_text, disabled=disabled)
        st.space("stretch")
        tip = "Computes the blocks and the initial adapter, and does not train."
        if st.button("Extract only", icon=":material/content_cut:", help=tip):
            extract()
        _transfer()


def _transfer() -> None:
    """Draw the button that starts the draft as the one on Train does, and leads there."""
    plan = submit.plan()
    if plan.todo:
        arms, seeds = arms_and_seeds(plan.todo)
        tip = f"Puts {counted(len(plan.todo), 'run')} into the queue: {arms}, {seeds}. Train follows them, and sets "
        tip += f"controls and seeds. {plan.already()}"
    else:
        tip = f"{plan.already()} Train has a box to run them again."
    if st.button(
        "Start transfer",
        type="primary",
        icon=":material/play_arrow:",
        disabled=not plan.todo,
        help=plain(tip.strip()),
        key="mapping.start",
    ):
        problem = submit.draft_problem(asking.BEFORE_START_S)
        if problem:
            say(problem)
            return
        run = submit.start_draft(plan)
        if run is not None:
            st.switch_page("pages/train.py", query_params={"run": run.id})


def extract(name: str = "Extraction") -> None:
    """Start a run of the draft that does not train, and follow it here."""
    draft = state.draft()
    problem = state.changed_unseen() or asking.rank_problem(draft, asking.BEFORE_START_S)
    if problem:
        say(problem)
        return
    run = submit.start(draft.with_changes({"until": "extraction", "name": draft.name or name}))
    if run is not None:
        st.session_state[EXTRACTION] = run.id
        st.query_params["run"] = run.id
        st.rerun()


def extraction_outcome() -> None:
    """Draw the extraction that the address or this page names: its progress, then where the adapter lies."""
    name = st.query_params.get("run") or st.session_state.get(EXTRACTION)
    if not name:
        return
    try:
        run = reading.run_named(state.place(), name)
    except RunError as error:
        st.session_state.pop(EXTRACTION, None)
        if name == st.query_params.get("run"):
            say(error)
        return
    facts = reading.facts(run)
    if facts.spec is None or facts.spec.until != "extraction":
        return
    with st.container(border=True):
        if run.status().state == "done":
            run_panel.headline(run, facts, run.status())
            _products(run)
        else:
            run_panel.follow(run, run_panel.panel)


def _products(run: RunFolder) -> None:
    folder = f"{state.place().root.name}/runs/{run.id}"
    weights = run.file("init_adapter") / "adapter_model.safetensors"
    size = file_stamp(weights)[1]
    in_words = f" ({memory(size)})" if size else ""
    st.markdown(
        f"The initial adapter, in PEFT format, lies in `{plain_code(folder)}/init_adapter/`{in_words}; "
        f"`extraction.json` beside it says which block of which teacher module went where."
    )
    note = run.extraction().get("init_adapter")
    if isinstance(note, str):
        st.caption(plain(note))
    names = ["extraction.json", *(f"init_adapter/{name}" for name in ADAPTER_FILES)]
    try:
        refuse_links(run.path, names)
    except RunError as error:
        say(error)
        return
    with st.container(horizontal=True):
        if run.file("extraction.json").exists():
            download(
                "extraction.json",
                lambda: read_inside(run.path, "extraction.json"),
                f"extraction-{run.id}.json",
                key="mapping.record",
            )
        if size:
            download(
                "init_adapter.zip",
                lambda: adapter_zip(run.path, "init_adapter"),
                f"init_adapter-{run.id}.zip",
                key="mapping.adapter",
            )
        st.button("Close", icon=":material/close:", on_click=_close, help="The run itself stays in the list on Start.")


def _close() -> None:
    st.session_state.pop(EXTRACTION, None)
    st.query_params.pop("run", None)


def plain_code(text: str) -> str:
    """Return text that may stand between backticks."""
    return text.replace("`", "'").replace("\n", " ")
