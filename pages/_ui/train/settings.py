"""What Start will run: the recipe, the arms beside it, how many seeds, and what that is likely to take."""

from collections.abc import Callable
from typing import Any

import streamlit as st

from pages._ui.frame import asking, execution, state, submit
from pages._ui.frame.fields import choice, mirror, model_field, number, origin_pills, task_field
from pages._ui.frame.layout import plain, say
from paraknow_core.catalogue import MANUAL, METHODS, MODES, STRATEGIES, STRUCTURES, offered
from paraknow_core.display import counted, duration, memory, source_label
from paraknow_core.spec import RunSpec
from paraknow_core.workbench import past_runs
from paraknow_core.workbench.access import DEMO_LIMITS
from paraknow_core.workbench.reading import Runs
from paraknow_core.workbench.starting import Plan
from paraknow_core.workbench.uploads import task_label

METHOD_HELP = "seeking: block of the teacher at the most sensitive window, W − s·B₀A₀ + s·BA. The others are controls."
RECIPE = ("finetuning", "factorisation")  # the parts of the spec that "the paper's recipe" means
ROW = 4


def settings() -> None:
    """Draw everything about the training that can be set; the rest of the draft is a folded summary."""
    with st.expander(f"**What is transferred**  {plain(summary())}", key="train.transfer", type="compact"):
        _transfer()
    _row(
        lambda box: choice("Method", "method", METHODS, METHOD_HELP, lambda name: METHODS[name].label, box),
        "factorisation.rank",
        "finetuning.learning_rate",
        "finetuning.epochs",
    )
    _row("finetuning.batch_size", "seed", _seeds, _back_to_the_recipe)
    with st.expander("More settings", type="compact"):
        st.caption("Optimiser")
        tip = "How η goes on after the warm-up: to 0 in a line, to 0 as a cosine, or as it is. The paper: linear."
        _row(
            lambda box: choice("Schedule", "finetuning.schedule", ("linear", "cosine", "constant"), tip, box=box),
            "finetuning.warmup_ratio",
            "finetuning.weight_decay",
            "finetuning.max_grad_norm",
        )
        st.caption("Adapter and steps")
        steps = ("max_steps", "micro_batch_size", "validations")
        _row("factorisation.lora_alpha", *(f"finetuning.{name}" for name in steps))
        st.caption("Examples")
        _row(
            lambda box: number("task.sizes.train", box, label="Training examples"),
            "task.sizes.validation",
            "task.sizes.test",
            lambda box: number("task.max_length", box, label="Longest example"),
        )


def summary() -> str:
    """Return the draft in one line, for a folded box."""
    draft = state.draft()
    teacher, student = (source_label(model.source, 24) for model in (draft.teacher, draft.student))
    parts = [
        f"{draft.mapping.strategy} mapping",
        draft.extraction.structure.replace("_", " "),
        "all modules" if draft.extraction.origin == ("all",) else " and ".join(draft.extraction.origin),
        draft.injection.mode,
    ]
    return f"{teacher} → {student} on {task_label(draft.task.source, 24)}; {', '.join(parts)}"


def _transfer() -> None:
    with st.container(horizontal=True):
        st.page_link("pages/models.py", label="Look at them on Models & task", icon=":material/hub:")
        st.page_link(
            "pages/mapping.py", label="See the blocks on Mapping & extraction", icon=":material/conversion_path:"
        )
    modes = "; ".join(f"{mode}: {row.text}" for mode, row in MODES.items())
    _row(
        lambda box: model_field("Teacher", "teacher.source", "The larger model that gives.", box),
        lambda box: model_field("Student", "student.source", "The smaller model that receives.", box),
        task_field,
        lambda box: choice("Injection mode", "injection.mode", MODES, modes, box=box),
    )
    strategies = [name for name in STRATEGIES if name != MANUAL]
    mapped = "Which teacher layer serves student layer i. sensitivity: the layers with the largest Σ S, in their order."
    picked = "How the block is picked. submatrix: the window of the student's shape with the largest Σ S."
    _row(
        lambda box: choice("Layer mapping", "mapping.strategy", strategies, mapped, box=box),
        lambda box: choice("Structure", "extraction.structure", offered(STRUCTURES), picked, box=box),
        "sensitivity.samples",
    )
    origin_pills(asking.student_roles(state.draft()))


def _row(*cells: str | Callable[[Any], object]) -> None:
    """Draw a row of fields: dotted keys of numbers, or what draws into the box that it is given."""
    for box, cell in zip(st.columns(ROW, vertical_alignment="bottom"), cells, strict=False):
        if isinstance(cell, str):
            number(cell, box)
        else:
            cell(box)


def _seeds(box: Any) -> None:
    most = int(DEMO_LIMITS["seeds"]) if state.access().demo else 100
    mirror(
        box.number_input,
        "Number of seeds",
        "train.seeds",
        min(most, state.whole_draft().seeds),
        lambda seeds: state.change_beside(seeds=int(seeds)),
        min_value=1,
        max_value=most,
        step=1,
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


def _back_to_the_recipe(box: Any) -> None:
    changes = recipe_changes(state.draft())
    words = "; ".join(f"{key.split('.')[1]} {value} (paper: {paper})" for key, (value, paper) in changes.items())
    if box.button(
        "Back to the paper's recipe",
        icon=":material/restart_alt:",
        disabled=not changes,
        width="stretch",
        help=plain(words) if words else "Optimiser, schedule, rank and scaling are as in the paper.",
    ):
        state.change({key: paper for key, (_, paper) in changes.items()})
        st.rerun()


def launch(trained: Runs) -> None:
    """Draw the arms to run alongside, what that makes together, and the button that starts everything.

    Args:
        trained: earlier runs, newest first, for the estimate.
    """
    st.markdown("**Also run**, with everything else equal")
    with st.container(horizontal=True, gap="medium"):
        for name in METHODS:
            if name != state.draft().method:
                _arm(name)
    words, button = st.columns([4, 1.25], vertical_alignment="center")
    plan, problem = submit.plan(), submit.draft_problem()
    with words:
        if problem:
            say(problem)
        else:
            st.markdown(f"{_plan_words(plan)} {_cost(plan, trained)}")
        execution.before_start([] if problem else plan.todo)
        if plan.known:
            st.checkbox(
                "Run it again" if len(plan.known) == 1 else "Run them again",
                key=submit.AGAIN,
                help="Another run of the same settings gives the same numbers, unless the machine's own "
                "settings or the code have changed.",
            )
    if button.container(key="guarded-start").button(
        "Start transfer",
        type="primary",
        icon=":material/play_arrow:",
        width="stretch",
        key="train.start",
        disabled=bool(problem) or not plan.todo,
    ):
        run = submit.start_draft(plan)
        if run is not None:
            st.query_params["run"] = run.id
            st.rerun()


def _arm(name: str) -> None:
    def store(ticked: bool) -> None:
        arms = {*state.whole_draft().arms}  # as they are now: another one may have been ticked since this was drawn
        chosen = arms | {name} if ticked else arms - {name}
        state.change_beside(arms=tuple(arm for arm in METHODS if arm in chosen))

    row, ticked = METHODS[name], name in state.whole_draft().arms
    mirror(st.checkbox, row.label, f"train.arm.{name}", ticked, store, help=row.text)


def _plan_words(plan: Plan) -> str:
    """Say how many runs Start makes, of which arms and seeds, and which are there already."""
    draft, count = state.whole_draft(), len(plan.specs)
    seeds, first = draft.seeds, draft.spec.seed
    shown = f"{seeds} seeds ({first} to {first + seeds - 1})" if seeds > 1 else f"seed {first}"
    what = f"{counted(count // seeds, 'arm')}, {shown}" if count > 1 else shown
    if not plan.known or plan.again:
        return f"**{counted(count, 'run')}**{':' if count > 1 else ','} {what}."
    if not plan.todo:
        return f"**Nothing to start.** {plain(plan.already())}"
    return f"**{len(plan.todo)} of {counted(count, 'run')}** to start: {what}. {plain(plan.already())}"


def _cost(plan: Plan, trained: Runs) -> str:
    if not plan.todo:
        return ""
    estimate = past_runs.of_specs(plan.todo, trained, past_runs.processes_now(state.place()))
    if estimate is None:
        found = execution.choice(plan.todo)
        guessed = found is not None and found.alternative_seconds is not None
        what = "The time is a guess by the models' sizes" if guessed else "No estimate"
        return f":gray[{what}: no run of this pair and task has finished on this machine.]"
    of_all = " of computing" if len(plan.todo) > 1 else ""
    size = f" and {memory(estimate.disk)} of disk" if estimate.disk else ""
    most = memory(estimate.in_all or estimate.memory)
    return plain(
        f"About {duration(estimate.seconds)}{of_all}{size}, at most {most} of memory, judging by "
        f"{counted(estimate.runs, 'earlier run')} of this pair and task."
    )
