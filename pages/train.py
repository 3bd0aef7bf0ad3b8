"""Train: start a transfer and its controls, watch it, stop and resume it, and read what came out."""

import streamlit as st

from pages._ui import layout, outcome, reading, state, widgets
from pages._ui.layout import plain
from pages._ui.reading import Facts
from paraknow_core.display import arm_of
from paraknow_core.runs import RunFolder
from paraknow_core.spec import GROUPS, ROLES, STRATEGIES, STRUCTURES

CONTROLS = {
    "default_lora": "A random, B zero: what everybody starts from.",
    "pissa": "Starts from the student's own largest singular directions: B A = U S Vᵀ of W.",
    "olora": "Starts from a QR factorisation of the student's own weight.",
    "random_offset": "Like the method, but the block's place in the teacher is random: is it the sensitive block?",
}
METHOD_HELP = "seeking: block of the teacher at the most sensitive window, W − s·B₀A₀ + s·BA. The others are controls."
MODES = {
    "residual": "W − s·B₀A₀ is the new base: the student's outputs are unchanged at step 0 (as published)",
    "additive": "W + s·BA: the block is added",
    "difference": "B A approximates block − W",
}


def settings() -> None:
    """Draw the draft's main settings."""
    a, b, c, d = st.columns(4)
    with a:
        widgets.model_field("Teacher", "teacher.source", "The larger model that gives.")
    with b:
        widgets.model_field("Student", "student.source", "The smaller model that receives.")
    with c:
        widgets.task_field()
    with d:
        _choice("Method", "method", ["seeking", *CONTROLS], METHOD_HELP, lambda name: arm_of(name).label)
    a, b, c, d = st.columns(4)
    with a:
        _choice("Layer mapping", "mapping.strategy", [s for s in STRATEGIES if s != "manual"],
                "Which teacher layer serves student layer i. sensitivity: the layers with the largest Σ S, "
                "in their order.")  # fmt: skip
    with b:
        _choice("Structure", "extraction.structure", list(STRUCTURES),
                "How the block is picked. submatrix: the window of the student's shape with the largest "
                "Σ S.")  # fmt: skip
    with c:
        state.field(
            st.multiselect, "Origin", "extraction.origin", options=["all", *GROUPS, *ROLES],
            to_draft=lambda chosen: chosen or ["all"], help="Which modules give a block: groups or single roles.",
        )  # fmt: skip
    with d:
        _choice("Injection mode", "injection.mode", list(MODES),
                "; ".join(f"{mode}: {text}" for mode, text in MODES.items()))  # fmt: skip
    a, b, c, d = st.columns(4)
    with a:
        _number("Rank r", "factorisation.rank", 1, 65_536, 1, "A is (r, in), B is (out, r); the update is "
                "s·B A with scaling s = lora_alpha / r.")  # fmt: skip
    with b:
        _number("Learning rate", "finetuning.learning_rate", 0.0, 10.0, 1e-4, "AdamW; linear schedule with "
                "3 % warm-up. The paper: 3e-4.", "%.1e")  # fmt: skip
    with c:
        _number("Epochs", "finetuning.epochs", 0.0, 10_000.0, 1.0, "Passes over the training examples; 0 evaluates "
                "the injected student without training.", "%g")  # fmt: skip
    with d:
        _number("Seed", "seed", 0, 2**32 - 1, 1, "Of adapter initialisation and data order. "
                "Use at least three before calling anything better.")  # fmt: skip
    with st.expander("More settings"):
        _more()


def _more() -> None:
    a, b, c, d = st.columns(4)
    with a:
        _number("lora_alpha", "factorisation.lora_alpha", 0.001, 1e6, 1.0, "scaling s = lora_alpha / r", "%g")
    with b:
        _number("Batch size", "finetuning.batch_size", 1, 65_536, 8, "Examples per optimiser step.")
    with c:
        _number("Training examples", "task.sizes.train", 1, 10_000_000, 100, "At most so many; the paper: 1,000.")
    with d:
        _number("Test examples", "task.sizes.test", 1, 10_000_000, 100, "More examples make narrower intervals: the "
                "standard error of a share p is √(p (1 − p) / n).")  # fmt: skip


def _number(label: str, dotted: str, low: float, high: float, step: float, tip: str, shape: str | None = None) -> None:
    state.field(
        st.number_input, label, dotted, min_value=low, max_value=high, step=step, help=tip, format=shape,
        to_widget=lambda value: low if value is None else type(low)(value),
    )  # fmt: skip


def _choice(label: str, dotted: str, options: list[str], tip: str, shown=lambda name: name.replace("_", " ")) -> None:  # noqa: ANN001
    current = state.value_of(dotted)
    options = options if current in options else [*options, current]
    state.field(st.selectbox, label, dotted, options=options, help=tip, format_func=shown)


def launch() -> None:
    """Draw the controls to run alongside, and the button that starts everything."""
    boxes, button = st.columns([4, 1.2], vertical_alignment="bottom")
    method = state.draft().method
    with boxes:
        st.markdown("**Also run**, with everything else equal")
        with st.container(horizontal=True, gap="medium"):
            wanted = [
                name for name, tip in CONTROLS.items()
                if name != method and _remembered_box(arm_of(name).label, f"train.also.{name}", tip)
            ]  # fmt: skip
    if button.button("Start transfer", type="primary", icon=":material/play_arrow:", width="stretch"):
        draft = state.draft().with_changes({"until": "evaluation"})
        specs = [draft, *(draft.with_changes({"method": name}) for name in wanted)]
        run = widgets.start(*specs)
        if run is not None:
            st.query_params["run"] = run.id
            st.rerun()


def _remembered_box(label: str, key: str, tip: str) -> bool:
    st.session_state[f"{key}.widget"] = st.session_state.get(key, False)
    st.session_state[key] = st.checkbox(
        label, key=f"{key}.widget", help=tip,
        on_change=lambda: st.session_state.update({key: st.session_state[f"{key}.widget"]}),
    )  # fmt: skip
    return st.session_state[key]


def chosen_run() -> RunFolder | None:
    """Return the run to show: the address's, else the newest one that trains; draws the list to choose from."""
    place = state.place()
    run, problem = reading.run_in_link(place)
    if problem:
        layout.say(problem)
    trainings = [(r, one) for r, one in reading.all_facts(place) if not one.spec or one.spec.until != "sensitivity"]
    if run is None and trainings:
        active = (r for r, _ in reversed(trainings[:20]) if r.status().active)
        run = next(active, trainings[0][0])
    if run is None:
        return None
    labels = {r.id: _label(r, one) for r, one in trainings}
    ids = list(labels) if run.id in labels else [run.id, *labels]
    st.session_state["train.run"] = run.id
    st.selectbox(
        "Run", ids, key="train.run", format_func=lambda i: labels.get(i, i), label_visibility="collapsed",
        on_change=lambda: st.query_params.update(run=st.session_state["train.run"]),
    )  # fmt: skip
    return run


def _label(run: RunFolder, one: Facts) -> str:
    arm = arm_of(one.spec.method).label if one.spec else "unreadable"
    name = f"{one.spec.name} · " if one.spec and one.spec.name else ""
    return f"{name}{arm} · {one.pair} · {one.task} · {run.id}"


def body(run: RunFolder | None) -> None:
    """Draw the run's live view or outcome, or say what will be here."""
    if run is None:
        st.info(
            "The run's loss, log and scores will appear here. Choose the settings above and press **Start transfer**.",
            icon=":material/show_chart:",
        )
        return
    one = reading.facts(run)
    if one.problem:
        layout.say(one.problem)
        return
    if one.spec.until == "sensitivity":
        st.info("This run only measures sensitivity.", icon=":material/grid_on:")
        st.page_link("pages/sensitivity.py", label="Look at it on Sensitivity", query_params={"run": run.id})
        return
    if run.status().state == "done":
        widgets.headline(run, one, run.status())
        outcome.scores(run, one)
        outcome.training(run, one)
        outcome.checks(one)
    else:
        widgets.follow(run, _live)
    widgets.log_tail(run)


def _live(run: RunFolder) -> None:
    widgets.panel(run)
    outcome.training(run, reading.facts(run))


with layout.page("Train"):
    with st.container(border=True, key="stack-fields"):
        settings()
        launch()
    st.subheader("Run", anchor=False)
    st.caption(plain("What is shown is read from the run's folder: reload, close, come back; the run goes on."))
    body(chosen_run())
