"""What Start will run: the recipe, the arms beside it, how many seeds, and what that is likely to take."""

from collections.abc import Callable
from typing import Any

import streamlit as st

from pages._ui.frame import asking, launching, origin, state
from pages._ui.frame import run_panel as widgets
from pages._ui.frame.layout import plain
from pages._ui.frame.reading import Facts
from pages._ui.train import estimate as train_estimate
from paraknow_core.catalogue import MANUAL, METHODS, MODES, STRATEGIES, STRUCTURES, offered
from paraknow_core.display import arm_of, counted, duration, memory, source_label
from paraknow_core.runs.folder import RunFolder
from paraknow_core.spec import RunSpec
from paraknow_core.workbench.access import DEMO_LIMITS

METHOD_HELP = "seeking: block of the teacher at the most sensitive window, W − s·B₀A₀ + s·BA. The others are controls."
RECIPE = ("finetuning", "factorisation")  # the parts of the spec that "the paper's recipe" means
ROW = 4


def settings() -> None:
    """Draw everything about the training that can be set; the rest of the draft is a folded summary."""
    with st.expander(f"**What is transferred**  {plain(summary())}", key="train.transfer", type="compact"):
        _transfer()
    _row(
        lambda: _choice("Method", "method", list(METHODS), METHOD_HELP, lambda name: METHODS[name].label),
        lambda: _number(
            "Rank r",
            "factorisation.rank",
            1,
            65_536,
            1,
            "A is (r, in), B is (out, r); the update is s·B A with scaling s = lora_alpha / r.",
        ),
        lambda: _number(
            "Learning rate",
            "finetuning.learning_rate",
            0.0,
            10.0,
            1e-4,
            "η of AdamW at its highest, after the warm-up. The paper: 3e-4.",
            "%.1e",
        ),
        lambda: _number(
            "Epochs",
            "finetuning.epochs",
            0.0,
            10_000.0,
            1.0,
            "Passes over the training examples; 0 evaluates the injected student without training. The paper: 3.",
            "%g",
        ),
    )
    _row(
        lambda: _number(
            "Batch size", "finetuning.batch_size", 1, 65_536, 8, "Examples per optimiser step. The paper: 64."
        ),
        lambda: _number(
            "Seed",
            "seed",
            0,
            2**32 - 1,
            1,
            "Of adapter initialisation and data order; the first one if there are several.",
        ),
        _seeds,
        _back_to_the_recipe,
    )
    with st.expander("More settings", type="compact"):
        _more()


def summary() -> str:
    """Return the draft in one line, for a folded box."""
    draft = state.draft()
    names = [source_label(source, 24) for source in (draft.teacher.source, draft.student.source)]
    parts = [
        f"{draft.mapping.strategy} mapping",
        draft.extraction.structure.replace("_", " "),
        "all modules" if draft.extraction.origin == ("all",) else " and ".join(draft.extraction.origin),
        draft.injection.mode,
    ]
    return f"{names[0]} → {names[1]} on {state.task_label(draft.task.source, 24)}; {', '.join(parts)}"


def _transfer() -> None:
    with st.container(horizontal=True):
        st.page_link("pages/models.py", label="Look at them on Models & task", icon=":material/hub:")
        st.page_link(
            "pages/mapping.py", label="See the blocks on Mapping & extraction", icon=":material/conversion_path:"
        )
    _row(
        lambda: widgets.model_field("Teacher", "teacher.source", "The larger model that gives."),
        lambda: widgets.model_field("Student", "student.source", "The smaller model that receives."),
        widgets.task_field,
        lambda: _choice(
            "Injection mode",
            "injection.mode",
            list(MODES),
            "; ".join(f"{mode}: {row.text}" for mode, row in MODES.items()),
        ),
    )
    _row(
        lambda: _choice(
            "Layer mapping",
            "mapping.strategy",
            [s for s in STRATEGIES if s != MANUAL],
            "Which teacher layer serves student layer i. sensitivity: the layers with the largest Σ S, in their order.",
        ),
        lambda: _choice(
            "Structure",
            "extraction.structure",
            list(offered(STRUCTURES)),
            "How the block is picked. submatrix: the window of the student's shape with the largest Σ S.",
        ),
        lambda: _number(
            "Seed samples",
            "sensitivity.samples",
            1,
            100_000,
            8,
            "N training examples that S = Σ |θ · ∂L/∂θ| is summed over; the paper: 32.",
        ),
        lambda: None,
    )
    origin.pills(asking.student_roles(state.draft()))


def _more() -> None:
    st.caption("Optimiser")
    _row(
        lambda: _choice(
            "Schedule",
            "finetuning.schedule",
            ["linear", "cosine", "constant"],
            "How η goes on after the warm-up: to 0 in a line, to 0 as a cosine, or as it is. The paper: linear.",
        ),
        lambda: _number(
            "Warm-up",
            "finetuning.warmup_ratio",
            0.0,
            1.0,
            0.01,
            "Share of the steps in which η grows from 0. The paper: 0.03.",
            "%g",
        ),
        lambda: _number(
            "Weight decay",
            "finetuning.weight_decay",
            0.0,
            10.0,
            0.01,
            "AdamW: θ ← θ − η·λ·θ beside the gradient's step.",
            "%g",
        ),
        lambda: _number(
            "Gradient clipping",
            "finetuning.max_grad_norm",
            0.001,
            1e9,
            0.1,
            "A gradient g with a norm above this is scaled to it: g ← g · c / ‖g‖.",
            "%g",
        ),
    )
    st.caption("Adapter and steps")
    _row(
        lambda: _number("lora_alpha", "factorisation.lora_alpha", 0.001, 1e6, 1.0, "scaling s = lora_alpha / r", "%g"),
        lambda: _number(
            "At most steps",
            "finetuning.max_steps",
            0,
            10_000_000,
            10,
            "Optimiser steps in place of epochs; 0 means by epochs.",
            empty=0,
        ),
        lambda: _number(
            "Examples at once",
            "finetuning.micro_batch_size",
            0,
            65_536,
            1,
            "Of a batch, in one forward "
            "pass; it must divide the batch size. 0: chosen to fit. Results do not depend on it.",
            empty=0,
        ),
        lambda: _number(
            "Validations",
            "finetuning.validations",
            0,
            1000,
            1,
            "How often the validation loss is measured during training; 0: never.",
        ),
    )
    st.caption("Examples")
    _row(
        lambda: _number(
            "Training examples", "task.sizes.train", 1, 10_000_000, 100, "At most so many; the paper: 1,000."
        ),
        lambda: _number(
            "Validation examples",
            "task.sizes.validation",
            0,
            10_000_000,
            50,
            "At most so many, kept out of training; their loss shows overfitting.",
        ),
        lambda: _number(
            "Test examples",
            "task.sizes.test",
            1,
            10_000_000,
            100,
            "More examples make narrower intervals: the standard error of a share p is √(p (1 − p) / n).",
        ),
        lambda: _number(
            "Longest example", "task.max_length", 2, 1_048_576, 256, "Tokens; longer ones are cut at the end."
        ),
    )


def _row(*cells: Callable[[], object]) -> None:
    for box, cell in zip(st.columns(ROW, vertical_alignment="bottom"), cells, strict=True):
        with box:
            cell()


def _number(
    label: str,
    dotted: str,
    low: float,
    high: float,
    step: float,
    tip: str,
    shape: str | None = None,
    empty: float | None = None,
) -> None:
    """Draw a number of the draft; `empty` is how the widget shows that the draft has none."""
    shown = low if empty is None else empty
    state.field(
        st.number_input,
        label,
        dotted,
        min_value=low,
        max_value=high,
        step=step,
        help=tip,
        format=shape,
        to_widget=lambda value: shown if value is None else type(low)(value),
        to_draft=lambda value: None if empty is not None and value == empty else value,
    )


def _choice(
    label: str,
    dotted: str,
    options: list[str],
    tip: str,
    shown: Callable[[str], str] = lambda name: name.replace("_", " "),
) -> None:
    current = state.value_of(dotted)
    options = options if current in options else [*options, current]
    state.field(st.selectbox, label, dotted, options=options, help=tip, format_func=shown)


def _seeds() -> None:
    most = int(DEMO_LIMITS["seeds"]) if state.access().demo else 100
    st.session_state["train.seeds"] = min(most, state.whole_draft().seeds)
    st.number_input(
        "Number of seeds",
        1,
        most,
        step=1,
        key="train.seeds",
        on_change=lambda: state.change_beside(seeds=int(st.session_state["train.seeds"])),
        help="Every arm runs once with each of the seeds s, s + 1, … One seed is one throw of the dice: use at least "
        "three before calling anything better.",
    )


def recipe_changes(spec: RunSpec) -> dict[str, tuple[Any, Any]]:
    """Return dotted key -> (value, the paper's) of what differs from the paper's recipe."""
    own, paper = spec.model_dump(mode="json"), RunSpec().model_dump(mode="json")
    return {
        f"{part}.{key}": (own[part][key], value)
        for part in RECIPE
        for key, value in paper[part].items()
        if own[part][key] != value
    }


def _back_to_the_recipe() -> None:
    changes = recipe_changes(state.draft())
    told = "; ".join(f"{key.split('.')[1]} {value} (paper: {paper})" for key, (value, paper) in changes.items())
    if st.button(
        "Back to the paper's recipe",
        icon=":material/restart_alt:",
        disabled=not changes,
        width="stretch",
        help=plain(told) if told else "Optimiser, schedule, rank and scaling are as in the paper.",
    ):
        state.change({key: paper for key, (_, paper) in changes.items()})
        st.rerun()


def launch(trained: list[tuple[RunFolder, Facts]]) -> None:
    """Draw the arms to run alongside, what that makes together, and the button that starts everything.

    Args:
        trained: earlier runs, newest first, for the estimate.
    """
    draft = state.whole_draft()
    st.markdown("**Also run**, with everything else equal")
    with st.container(horizontal=True, gap="medium"):
        for name, method in METHODS.items():
            if name != draft.spec.method:
                _arm(name, method.text)
    words, button = st.columns([4, 1.25], vertical_alignment="center")
    made, problem = launching.plan(), launching.problem()
    if problem:
        words.error(plain(problem), icon=":material/error:")
    else:
        words.markdown(f"{_plan(made)} {_cost(made, trained)}")
    if made.known:
        words.checkbox(
            "Run it again" if len(made.known) == 1 else "Run them again",
            key=launching.AGAIN,
            help="Another run of the same settings gives the same numbers, unless the machine's own "
            "settings or the code have changed.",
        )
    if button.container(key="guarded-start").button(
        "Start transfer",
        type="primary",
        icon=":material/play_arrow:",
        width="stretch",
        key="train.start",
        disabled=bool(problem) or not made.todo,
    ):
        run = launching.start(made)
        if run is not None:
            st.query_params["run"] = run.id
            st.rerun()


def _arm(name: str, tip: str) -> None:
    key = f"train.arm.{name}"
    st.session_state[key] = name in state.whole_draft().arms

    def store() -> None:
        arms = [arm for arm in state.whole_draft().arms if arm != name]
        wanted = {*arms, name} if st.session_state[key] else set(arms)
        state.change_beside(arms=tuple(arm for arm in METHODS if arm in wanted))

    st.checkbox(arm_of(name).label, key=key, help=tip, on_change=store)


def _plan(made: launching.Plan) -> str:
    """Say how many runs Start makes, of which arms and seeds, and which are there already."""
    draft, count = state.whole_draft(), len(made.specs)
    arms, seeds = count // draft.seeds, draft.seeds
    first = draft.spec.seed
    shown = f"{seeds} seeds ({first} to {first + seeds - 1})" if seeds > 1 else f"seed {first}"
    what = f"{counted(arms, 'arm')}, {shown}, one after the other" if count > 1 else shown
    if not made.known or made.again:
        return f"**{counted(count, 'run')}**{':' if count > 1 else ','} {what}."
    if not made.todo:
        return f"**Nothing to start.** {plain(made.already())}"
    return f"**{len(made.todo)} of {counted(count, 'run')}** to start: {what}. {plain(made.already())}"


def _cost(made: launching.Plan, trained: list[tuple[RunFolder, Facts]]) -> str:
    if not made.todo:
        return ""
    found = train_estimate.of_specs(made.todo, trained)
    if found is None:
        return ":gray[No estimate: no run of this pair and task has finished on this machine.]"
    size = f" and {memory(found.disk)} of disk" if found.disk else ""
    return plain(
        f"About {duration(found.seconds)}{size}, at most {memory(found.memory)} of memory, judging by {found.runs} "
        f"earlier run{'s' if found.runs > 1 else ''} of this pair and task."
    )
