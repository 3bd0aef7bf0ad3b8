"""Widgets that several pages use: choosing models and tasks, submitting, and the live panel of a run."""

from html import escape
from pathlib import Path

import streamlit as st

from pages._ui import state
from pages._ui.layout import chip, plain, say
from pages._ui.reading import Facts, facts
from paraknow_core.demo.tasks import TASKS
from paraknow_core.display import arm_of, count, duration, source_label
from paraknow_core.engines import local
from paraknow_core.errors import ParaknowError, RunError
from paraknow_core.paths import PROJECT_ROOT, read_json
from paraknow_core.runs import ACTIVE, RunFolder, Status, create_run, list_runs
from paraknow_core.spec import RunSpec

MODELS = PROJECT_ROOT / "paraknow_core" / "demo" / "models"
STEPS = ("prepare", "sensitivity", "injection", "fine-tuning", "export", "evaluation")
TYPED = "Choose a bundled one, or type a folder or a hub id (owner/name)"


def bundled_models() -> dict[str, str]:
    """Return source -> label of the bundled models, teacher first."""
    known = (read_json(MODELS / "manifest.json", {}) or {}).get("models") or {}
    names = sorted((f.name for f in MODELS.iterdir() if (f / "config.json").exists()), key=lambda n: n != "teacher")
    sizes = {name: known.get(name, {}).get("parameters") for name in names}
    return {f"bundled:{n}": f"{n} ({count(sizes[n])} parameters)" if sizes[n] else n for n in names}


def model_field(label: str, dotted: str, help_text: str) -> None:
    """Draw the choice of a model; anything typed is taken as a folder or hub id."""
    labels = bundled_models() if MODELS.is_dir() else {}
    current = state.value_of(dotted)
    options = [*labels, *([] if current in labels else [current])]
    state.field(
        st.selectbox, label, dotted, options=options, format_func=lambda s: labels.get(s) or source_label(s, 60),
        accept_new_options=True, to_draft=str.strip, help=f"{help_text} {TYPED}.",
    )  # fmt: skip


def task_field() -> None:
    """Draw the choice of a task; anything typed is taken as a data file, a folder, or hub:ID."""
    labels = {f"bundled:{name}": f"{info.title} (like {info.mirrors})" for name, info in TASKS.items()}
    current = state.value_of("task.source")
    options = [*labels, *([] if current in labels else [current])]
    state.field(
        st.selectbox, "Task", "task.source", options=options, accept_new_options=True, to_draft=str.strip,
        format_func=lambda s: labels.get(s) or source_label(s, 60),
        help="Choose a bundled task, or type the path of a data file (.jsonl, .csv, .txt), a folder of split files, "
        "or hub:ID.",
    )  # fmt: skip


def start(*specs: RunSpec) -> RunFolder | None:
    """Create a run for each spec, hand them to the local engine in this order, and return the first."""
    place = state.place()
    try:
        for spec in specs:
            state.access().check_spec(spec)
        state.access().check_amount(sum(run.status().active for run in list_runs(place)[:200]), len(specs))
        runs = [create_run(place, spec) for spec in specs]
        local.submit(place, *runs)
    except ParaknowError as error:
        say(error)
        return None
    except OSError as error:
        say(f"workspace: {Path(error.filename or place.root).name} cannot be written ({error.strerror}); "
            "free some space or choose another folder with --workspace")  # fmt: skip
        return None
    return runs[0]


def headline(run: RunFolder, one: Facts, status: Status) -> None:
    """Draw a run in one line: state, name, pair, task, how long it has been going."""
    end = status.ended or (status.heartbeat if status.state == "lost" else 0)
    spent = duration((end or max(status.heartbeat, status.started)) - status.started) if status.started else ""
    name = (one.spec.name or arm_of(one.spec.method).label) if one.spec else run.id
    st.html(
        f'<div class="pk-line" data-testid="headline">{chip(status.state)}<span class="pk-name">{escape(name)}</span>'
        f'<span>{escape(one.pair)}</span><span class="pk-quiet">{escape(one.task)}</span>'
        f'<span class="pk-quiet">{escape(spent)}</span><code>{escape(run.id)}</code></div>'
    )


def progress_bar(status: Status, until: str = "evaluation") -> None:
    """Draw which stage a run is in and how far that stage is."""
    steps = STEPS[:2] if until == "sensitivity" else STEPS[:3] if until == "extraction" else STEPS
    if status.state == "queued":
        st.progress(0.0, text="Waiting for its turn")
        return
    number = f"Stage {steps.index(status.stage) + 1} of {len(steps)}: " if status.stage in steps else ""
    amount = f" – {status.done:g} of {status.total:g}" if status.total else ""
    words = f" {status.message}" if status.message else ""
    st.progress(status.fraction, text=plain(f"{number}{status.stage or 'starting'}{amount}{words}"))


def panel(run: RunFolder) -> None:
    """Draw a run that is not done: progress while it is active, otherwise what happened and the way on."""
    status, one = run.status(), facts(run)
    headline(run, one, status)
    if _never_started(run, status):
        st.info("Not started yet: no process was given this run.", icon=":material/hourglass_empty:")
    elif status.active:
        progress_bar(status, one.spec.until if one.spec else "evaluation")
    elif status.state == "failed":
        say(status.message or "The run failed without a message; the end of its log says more.")
    elif status.state == "lost":
        message = f"{status.message[:1].upper()}{status.message[1:]}."
        st.warning(plain(message), icon=":material/link_off:")
    elif status.state == "stopped":
        st.info("Stopped; what was computed is saved. Resume goes on from there.", icon=":material/pause_circle:")
    buttons(run, status)


def buttons(run: RunFolder, status: Status) -> None:
    """Draw what can be done with a run in this state: stop it, resume it, start it."""
    with st.container(horizontal=True):
        never_started = _never_started(run, status)
        if status.active and not never_started and st.button(
            "Stop and save", key=f"stop:{run.id}", icon=":material/stop_circle:", disabled=status.state == "stopping",
            help="Saves at the next step, then ends. Resume continues from there.",
        ):  # fmt: skip
            _act(lambda: local.stop(run))
        resumable = status.state in ("stopped", "failed", "lost")
        word = "Start" if never_started else "Resume"
        if (resumable or never_started) and st.button(
            word, key=f"resume:{run.id}", icon=":material/play_arrow:", type="primary",
            help="Continues after the last thing that was saved.",
        ):  # fmt: skip
            _act(lambda: local.submit(state.place(), run))


def _never_started(run: RunFolder, status: Status) -> bool:
    return status.state == "queued" and not run.file("process.json").exists()


def _act(what) -> None:  # noqa: ANN001 - a callable without arguments
    try:
        what()
    except (ParaknowError, OSError) as error:
        say(error if isinstance(error, RunError) else f"run: {error}; reload the page and try again")
        return
    st.rerun()


def follow(run: RunFolder, draw) -> None:  # noqa: ANN001 - a callable that takes the run
    """Draw a run again and again while it is active; when it ends, draw the whole page once.

    Args:
        run: what is followed.
        draw: called with the run each time; reads only small files.
    """
    was_active = run.status().active

    def tick() -> None:
        draw(run)
        if was_active and run.status().state not in ACTIVE:
            st.rerun()

    st.fragment(tick, run_every=1.0 if was_active else None)()


def log_tail(run: RunFolder) -> None:
    """Draw the end of the run's own output, folded."""
    text = run.log_tail(40)
    with st.expander("Log", icon=":material/notes:"):
        if text:
            st.code(text, language=None, wrap_lines=True, height=260)
        else:
            st.caption("What the process prints will appear here.")
