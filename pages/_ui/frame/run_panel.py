"""Widgets that several pages use: choosing models and tasks, submitting, and the live panel of a run."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from html import escape

import streamlit as st

from pages._ui.frame import asking, reading, state, waiting
from pages._ui.frame.layout import chip, plain, say, unwritable
from pages._ui.frame.reading import Facts, facts
from paraknow_core.demo.tasks import TASKS
from paraknow_core.display import count, duration, source_label
from paraknow_core.engines import engine_of, queue
from paraknow_core.errors import DataError, ParaknowError
from paraknow_core.files.json_file import read_json
from paraknow_core.paths import PROJECT_ROOT
from paraknow_core.runs import lifecycle
from paraknow_core.runs.folder import RunFolder, list_runs
from paraknow_core.runs.status import Status
from paraknow_core.spec import RunSpec

MODELS = PROJECT_ROOT / "paraknow_core" / "demo" / "models"
STEPS = ("prepare", "sensitivity", "injection", "fine-tuning", "export", "evaluation")
FROM_HUB = ("hub", "cache")  # origins that ask a hub, or list what was fetched from one
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
        st.selectbox,
        label,
        dotted,
        options=options,
        format_func=lambda s: labels.get(s) or source_label(s, 60),
        accept_new_options=True,
        to_draft=str.strip,
        help=f"{help_text} {TYPED}.",
    )


def task_field() -> None:
    """Draw the choice of a task; anything typed is taken as a data file, a folder, or hub:ID."""
    labels = {f"bundled:{name}": f"{info.title} (like {info.mirrors})" for name, info in TASKS.items()}
    current = state.value_of("task.source")
    options = [*labels, *([] if current in labels else [current])]
    state.field(
        st.selectbox,
        "Task",
        "task.source",
        options=options,
        accept_new_options=True,
        to_draft=str.strip,
        format_func=lambda s: labels.get(s) or state.task_label(s, 60),
        help="Choose a bundled task, or type the path of a data file (.jsonl, .csv, .txt), a folder of split files, "
        "or hub:ID.",
    )


def origin_switch(
    remembered: str, source: str, of_source: str, origins: Mapping[str, str], what: str, tip: str | None = None
) -> str:
    """Draw where a source is taken from; what was switched to counts until the draft names another source.

    Args:
        remembered: where the session keeps the switch.
        source, of_source: the draft's source, and where that one is from.
        origins: what can be chosen, with its label.
        what: `models` or `tasks`, for the sentence of the demo mode.
        tip: the switch's help.
    """
    if state.access().demo:
        st.caption(f"Demo mode: bundled {what} only.")
        return "bundled"
    chosen, for_source = st.session_state.get(remembered, ("", None))
    origin = chosen if for_source == source else of_source
    # Where visitors may not name hub ids, only a draft that has one already shows it.
    offered = [each for each in origins if state.access().hub_allowed or each not in FROM_HUB or each == origin]
    key = f"{remembered}.widget"
    st.session_state[key] = origin
    st.segmented_control(
        "From",
        offered,
        format_func=origins.get,
        key=key,
        required=True,
        help=tip,
        on_change=lambda: st.session_state.update({remembered: (st.session_state[key], source)}),
    )
    return origin


def start(*specs: RunSpec, first: bool = False) -> RunFolder | None:
    """Create a run for each spec, put them into the queue in this order, and return the first; see `start_all`."""
    return next(iter(start_all(*specs, first=first)), None)


def start_all(*specs: RunSpec, first: bool = False) -> list[RunFolder]:
    """Create a run for each spec, put them into the queue in this order; none where that was refused.

    Args:
        specs: of the new runs.
        first: put them before runs that wait without hurry, in place of the end of the queue.
    """
    place = state.place()
    runs: list[RunFolder] = []
    try:
        _check(*specs)
        for spec in specs:
            runs.append(lifecycle.create_run(place, spec))
        engine_of(place).submit(*runs, first=first)
    except (ParaknowError, OSError) as error:
        _take_back(runs)
        say(unwritable(error) if isinstance(error, OSError) else error)
        return []
    state.own(*(run.id for run in runs))
    return runs


def _check(*specs: RunSpec) -> None:
    """Refuse what this visitor may not compute here, or nobody could: asked before every submit, also of old runs.

    Raises:
        DataError: one sentence.
    """
    place, access = state.place(), state.access()
    access.check_limit("seeds", len({spec.seed for spec in specs}))
    for spec in specs:
        access.check_spec(spec)
    order = queue.read(place)
    asked = {repr((s.method, s.task, s.sensitivity, s.teacher, s.student, s.until, s.references)): s for s in specs}
    until = time.monotonic() + asking.BEFORE_START_S
    for spec in asked.values():
        problem = asking.seeds_problem(spec, until - time.monotonic())
        problem = problem or asking.fit_problem(spec, until - time.monotonic())
        if problem:
            raise DataError(problem)
    access.check_amount(sum(queue.is_active(run, order) for run in list_runs(place)[:200]), len(specs))


def resume(run: RunFolder) -> None:
    """Put a run that is there back into the queue.

    Raises:
        ParaknowError: this visitor may not, or the run cannot go on.
        OSError: the workspace cannot be written.
    """
    _check(run.spec())
    engine_of(state.place()).submit(run)


def _take_back(runs: list[RunFolder]) -> None:
    """Remove new runs that could not be put into the queue: nobody would ever start them."""
    for run in runs:
        with suppress(ParaknowError, OSError):
            lifecycle.delete(run)


def headline(run: RunFolder, one: Facts, status: Status) -> None:
    """Draw a run in one line: state, name, pair, task, seed, how long it has been going; its note below."""
    end = status.ended or (status.heartbeat if status.state == "lost" else 0)
    spent = duration((end or max(status.heartbeat, status.started)) - status.started) if status.started else ""
    if status.state == "stopped" and status.message == lifecycle.CANCELLED:
        spent = "taken out of the queue"
    elif spent and status.attempt > 1:
        spent += " in this attempt"
    name = reading.titles(state.place()).get(run.id, run.id)
    quiet = "".join(
        f'<span class="pk-quiet">{escape(words)}</span>' for words in (one.task, seed_beside(one, name), spent) if words
    )
    note = f'<div class="pk-note">{escape(one.label.note)}</div>' if one.label.note else ""
    st.html(
        f'<div class="pk-line" data-testid="headline">{chip(status.state)}'
        f'<span class="pk-name">{escape(name)}</span><span>{escape(one.pair)}</span>{quiet}'
        f"<code>{escape(run.id)}</code></div>{note}"
    )


def seed_beside(one: Facts, name: str) -> str:
    """Return a run's seed where its name does not say it; measuring has none."""
    seed = "" if one.spec is None or one.spec.until == "sensitivity" else f"seed {one.spec.seed}"
    return "" if seed in name.split(" · ")[0].split(", ") or seed in name.split(" · ") else seed


def progress_bar(status: Status, until: str = "evaluation") -> None:
    """Draw which stage a run is in and how far that stage is."""
    steps = STEPS[:2] if until == "sensitivity" else STEPS[:3] if until == "extraction" else STEPS
    number = f"Stage {steps.index(status.stage) + 1} of {len(steps)}: " if status.stage in steps else ""
    amount = f" – {status.done:g} of {status.total:g}" if status.total else ""
    words = f" {status.message}" if status.message else ""
    st.progress(status.fraction, text=plain(f"{number}{status.stage or 'starting'}{amount}{words}"))


def panel(run: RunFolder, more: Callable[[], None] = lambda: None) -> None:
    """Draw a run that is not done: progress while it is active, otherwise what happened and the way on.

    Args:
        run: the run.
        more: draws what else can be done with it, in the row of the buttons.
    """
    status, one = run.status(), facts(run)
    headline(run, one, status)
    if status.state in ("running", "stopping"):
        progress_bar(status, one.spec.until if one.spec else "evaluation")
    _explain(run, one, status)
    with st.container(horizontal=True):
        buttons(run, status)
        more()


def _explain(run: RunFolder, one: Facts, status: Status) -> None:
    """Say what a state means and what comes next."""
    if status.state == "queued":
        st.info(plain(_queued_words(run)), icon=":material/hourglass_empty:")
    elif status.state == "stopping":
        st.caption(
            "Asked to stop: it saves at the next step, then ends. A step of a large model, or answers that are "
            "being written, can take a while; End now does not wait, and what was computed since the last save "
            "is lost."
        )
    elif status.state == "failed":
        say(status.message or "The run failed without a message; the end of its log says more.")
        whole = one.spec is None or one.spec.until == "evaluation"  # only Train duplicates a run
        change = "duplicate the run and change it" if whole else "change it in the draft and start anew"
        st.caption(
            f"If the sentence names a setting, {change}: a run's own settings are frozen. Otherwise mend what "
            "it names and resume."
        )
    elif status.state == "lost":
        message = f"{status.message[:1].upper()}{status.message[1:]}."
        st.warning(
            plain(
                f"{message} It was killed, memory ran out, or the machine was restarted; the end of its log may say "
                "more."
            ),
            icon=":material/link_off:",
        )
    elif status.state == "stopped":
        if status.message == lifecycle.CANCELLED:
            words = f"{lifecycle.CANCELLED.capitalize()}."
        elif status.message.startswith(lifecycle.CUT_OFF):
            words = f"{lifecycle.CUT_OFF.capitalize()}; {run.way_on(status.stage)}."
        else:
            words = "Stopped; what was computed is saved. Resume goes on from there."
        st.info(plain(words), icon=":material/pause_circle:")


def _queued_words(run: RunFolder) -> str:
    wait = waiting.wait_of(run)
    if wait is not None:
        return (
            f"Waiting: {waiting.words(wait)}. It begins by itself, whether this page is open or not."
            f"{waiting.unknown(wait)}"
        )
    if run.claimed:
        return "Its process is starting."
    return "Not started yet: it is not in the queue. Start puts it there."


def buttons(run: RunFolder, status: Status) -> None:
    """Draw what can be done with a run in this state: take it out of the queue, stop, end, start, resume it."""
    place = state.place()
    waiting = status.state == "queued" and run.id in queue.read(place).waiting
    idle = status.state == "queued" and not waiting and not run.claimed
    if waiting and st.button(
        "Take out of the queue",
        key=f"cancel:{run.id}",
        icon=":material/close:",
        help="The run stays in the list as stopped; Resume puts it back.",
    ):
        act(lambda: engine_of(place).stop(run))
    if (
        status.active
        and not waiting
        and not idle
        and st.button(
            "Stop and save",
            key=f"stop:{run.id}",
            icon=":material/stop_circle:",
            disabled=status.state == "stopping",
            help="Saves at the next step, then ends. Resume continues from there.",
        )
    ):
        act(lambda: engine_of(place).stop(run))
    if status.state == "stopping" and st.button(
        "End now",
        key=f"end:{run.id}",
        icon=":material/dangerous:",
        help="Ends the process after a few seconds even if it could not save. Resume continues from its last save, if "
        "there is one.",
    ):
        act(lambda: queue.end(place, run))
    if (idle or status.state in ("stopped", "failed", "lost")) and st.button(
        "Start" if idle else "Resume",
        key=f"resume:{run.id}",
        icon=":material/play_arrow:",
        type="primary",
        help="Puts it at the end of the queue; it continues after the last thing that was saved.",
    ):
        act(lambda: resume(run))


def act(what: Callable[[], object]) -> None:
    """Do what a button says and draw the page again; a refusal is a sentence."""
    try:
        what()
    except ParaknowError as error:
        say(error)
        return
    except OSError as error:
        say(f"run: {error.strerror or error}; reload the page and try again")
        return
    st.rerun()


def follow(run: RunFolder, draw: Callable[[RunFolder], None]) -> None:
    """Draw a run again and again; when it ends, or goes on again, draw the whole page once.

    Args:
        run: what is followed.
        draw: called with the run each time; reads only small files.
    """
    was_active = run.status().active

    def tick() -> None:
        keep_going(run)
        draw(run)
        if run.status().active != was_active:  # it has ended, or another window has resumed it
            st.rerun()

    st.fragment(tick, run_every=1.0 if was_active else 4.0)()


def keep_going(run: RunFolder) -> None:
    """Where a run waits and the queue's process was killed, start it again."""
    if run.status().state in ("queued", "stopping"):
        with suppress(OSError):  # a full disk; the page goes on showing what there is
            queue.ensure(state.place())


def log_tail(run: RunFolder) -> None:
    """Draw the end of the run's own output, folded; it grows while the run is active."""

    def tail() -> None:
        text = run.log_tail(60)
        if text:
            st.code(text, language=None, wrap_lines=True, height=260)
        else:
            st.caption("What the process prints will appear here.")

    with st.expander("Log", icon=":material/notes:"):
        st.fragment(tail, run_every=2.0 if run.status().active else None)()
