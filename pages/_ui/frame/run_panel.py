"""One run wherever it is looked at: its headline, its progress and what can be done with it, its name, note and log."""

from collections.abc import Callable
from contextlib import suppress
from html import escape

import streamlit as st

from pages._ui.frame import state
from pages._ui.frame.execution import full
from pages._ui.frame.layout import chip, info, plain, say, warn
from pages._ui.frame.submit import resume
from paraknow_core.display import duration
from paraknow_core.engines import Standing, queue
from paraknow_core.engines.local import is_shared
from paraknow_core.engines.workers import in_pack
from paraknow_core.errors import ParaknowError
from paraknow_core.files.remember import one_look
from paraknow_core.runs import lifecycle
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.labels import MOST_NAME, MOST_NOTE, set_label
from paraknow_core.runs.status import Status
from paraknow_core.workbench import errands, reading, waiting
from paraknow_core.workbench import standing as standings
from paraknow_core.workbench.reading import Facts

STEPS = ("prepare", "sensitivity", "injection", "fine-tuning", "export", "evaluation")


def headline(run: RunFolder, facts: Facts, status: Status) -> None:
    """Draw a run in one line: state, name, pair, task, seed, how long it has been going; its note below."""
    end = status.ended or (status.heartbeat if status.state == "lost" else 0)
    spent = duration((end or max(status.heartbeat, status.started)) - status.started) if status.started else ""
    if status.state == "stopped" and status.message == lifecycle.CANCELLED:
        spent = "taken out of the queue"
    elif spent and status.attempt > 1:
        spent += " in this attempt"
    name = reading.titles(state.place()).get(run.id, run.id)
    quiet = "".join(
        f'<span class="pk-quiet">{escape(words)}</span>'
        for words in (facts.task, seed_beside(facts, name), spent)
        if words
    )
    note = f'<div class="pk-note">{escape(facts.label.note)}</div>' if facts.label.note else ""
    st.html(
        f'<div class="pk-line" data-testid="headline">{chip(status.state)}'
        f'<span class="pk-name">{escape(name)}</span><span>{escape(facts.pair)}</span>{quiet}'
        f"<code>{escape(run.id)}</code></div>{note}"
    )


def seed_beside(facts: Facts, name: str) -> str:
    """Return a run's seed where its name does not say it; measuring has none."""
    seed = "" if facts.spec is None or facts.spec.until == "sensitivity" else f"seed {facts.spec.seed}"
    return "" if seed in name.split(" · ")[0].split(", ") or seed in name.split(" · ") else seed


def progress_bar(status: Status, until: str = "evaluation") -> None:
    """Draw which stage a run is in and how far that stage is."""
    steps = STEPS[: {"sensitivity": 2, "extraction": 3, "training": 4}.get(until, len(STEPS))]
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
    status, facts = run.status(), reading.facts(run)
    until = facts.spec.until if facts.spec else "evaluation"
    headline(run, facts, status)
    standing = _standing(run)
    if status.state in ("running", "stopping"):
        progress_bar(status, until)
        if where := "; ".join(filter(None, (standings.words(standing), standing.message))):
            st.caption(f":material/dns: {plain(where[:1].upper() + where[1:])}")
    full()
    _explain(run, until, status, standing)
    if words := errands.word(run):
        words = f"{words[:1].upper()}{words[1:]}."
        info(plain(words), "dns") if errands.is_going(run) else warn(words, "dns")
    with st.container(horizontal=True):
        buttons(run, status, standing)
        more()


def _standing(run: RunFolder) -> Standing:
    """Return where a run stands with its engine, as far as that has more to say than the folder."""
    if not standings.has_more_to_say(run):
        return Standing("over")
    return standings.standings(state.place(), [run])[run.id]


def _explain(run: RunFolder, until: str, status: Status, standing: Standing) -> None:
    """Say what a state means and what comes next."""
    if status.state == "queued":
        info(plain(_queued_words(run, standing)), "hourglass_empty")
    elif status.state == "stopping":
        st.caption(
            "Asked to stop: it saves at the next step, then ends. A step of a large model, or answers that are "
            f"being written, can take a while; {_what_end_now_does(run, status)}"
        )
    elif status.state == "failed":
        say(status.message or "The run failed without a message; the end of its log says more.")
        duplicate = "duplicate the run and change it"  # only Train can
        change = duplicate if until == "evaluation" else "change it in the draft and start anew"
        st.caption(
            f"If the sentence names a setting, {change}: a run's own settings are frozen. Otherwise mend what "
            "it names and resume."
        )
    elif status.state == "lost" and standing.state == "waiting":
        info(plain(f"Moves: {standing.message}. It goes on by itself, from its last save."), "sync")
    elif status.state == "lost":
        message = f"{status.message[:1].upper()}{status.message[1:]}."
        if not run.note().get("gone"):  # else the engine that held it says why
            message += " It was killed, memory ran out, or the machine was restarted; the end of its log may say more."
        warn(message, "link_off")
    elif status.state == "stopped" and _is_held(run, status, standing):
        said = standing.message or "its engine still has it"
        warn(f"Asked to stop; nothing is heard of it, but {said}. End now does not wait for its save.", "link_off")
    elif status.state == "stopped" and run.note().get("gone") and status.message != lifecycle.CANCELLED:
        warn(f"{status.message[:1].upper()}{status.message[1:]}.", "pause_circle")
    elif status.state == "stopped":
        if status.message == lifecycle.CANCELLED:
            words = f"{lifecycle.CANCELLED.capitalize()}."
        elif status.message.startswith(lifecycle.CUT_OFF):
            words = f"{lifecycle.CUT_OFF.capitalize()}; {run.way_on(status.stage)}."
        else:
            words = "Stopped; what was computed is saved. Resume goes on from there."
        info(plain(words), "pause_circle")


def _what_end_now_does(run: RunFolder, status: Status) -> str:
    if not is_shared(run, vars(status)):
        return "End now does not wait, and what was computed since the last save is lost."
    words = "its process computes other runs as well, so that End now only asks, too"
    return f"{words}, until it was clicked for all that go on there." if in_pack(run) else f"{words}."


def _is_held(run: RunFolder, status: Status, standing: Standing) -> bool:
    """Tell whether an engine still has a run of which nothing is heard."""
    return status.state in ("stopped", "lost") and standing.state != "over" and not run.is_over


def _queued_words(run: RunFolder, standing: Standing) -> str:
    wait = waiting.wait_of(state.place(), run)
    if wait is not None:
        words = f"Waiting: {waiting.words(wait)}. It begins by itself, whether this page is open or not."
        return words + waiting.unknown(wait)
    holder = standings.holder_name(run)
    if holder and standing.state == "waiting":
        place = standings.words(standing) if standing.ahead is not None else ""
        said = ", ".join(filter(None, (place, standing.message)))
        words = f"Waiting at {standings.PLACES[holder].label}{f': {said}' if said else ''}."
        return f"{words} It begins by itself, whether this page is open or not."
    if holder:
        words = "; ".join(filter(None, (standings.words(standing), standing.message)))
        return f"Its process is starting{f': {words}' if words else ''}."
    if run.claimed:
        return "Its process is starting."
    if errands.is_going(run):
        return "Not started yet."
    return "Not started yet: it is not in the queue. Start puts it there."


def buttons(run: RunFolder, status: Status, standing: Standing) -> None:
    """Draw what can be done with a run in this state: take it out of the queue, stop, end, start, resume it.

    Args:
        run, status: the run and its state.
        standing: where it is; its engine may have it on its way to another node, or on one that is silent.
    """
    place, busy = state.place(), errands.is_going(run)
    in_line = status.state == "queued" and run.id in queue.read(place).waiting
    idle = status.state == "queued" and not in_line and not run.claimed
    if in_line and st.button(
        "Take out of the queue",
        key=f"cancel:{run.id}",
        icon=":material/close:",
        help="The run stays in the list as stopped; Resume puts it back.",
    ):
        act(lambda: errands.stop(place, run))
    working = status.active and not in_line and not idle
    if working and st.button(
        "Stop and save",
        key=f"stop:{run.id}",
        icon=":material/stop_circle:",
        disabled=busy or status.state == "stopping",
        help="Saves at the next step, then ends. Resume continues from there.",
    ):
        act(lambda: errands.stop(place, run))
    if (status.state == "stopping" or _is_held(run, status, standing)) and st.button(
        "End now",
        key=f"end:{run.id}",
        icon=":material/dangerous:",
        disabled=busy,
        help="Ends the process after a few seconds even if it could not save, unless other runs go on in it. Resume "
        "continues from its last save, if there is one.",
    ):
        act(lambda: errands.end(place, run))
    moves = standing.state == "waiting"
    if (idle or (status.state in ("stopped", "failed", "lost") and not moves)) and st.button(
        "Start" if idle else "Resume",
        key=f"resume:{run.id}",
        icon=":material/play_arrow:",
        type="primary",
        disabled=busy,
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

    @one_look()
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


def edit_label(run: RunFolder, facts: Facts) -> None:
    """Draw the star and the box for name and note; nothing where this visitor may not change them."""
    if state.access().demo and not state.is_own(run.id):
        return
    starred = facts.label.starred
    if st.button(
        "Unstar" if starred else "Star",
        key=f"star:{run.id}",
        icon=":material/star:",
        help=plain("Takes the star away." if starred else "Marks the run with ★ in every list."),
    ):
        act(lambda: keep_label(run, starred=not starred))
    with st.popover("Label", icon=":material/edit_note:", help="A name of your own, and what there is to remember."):
        _label_form(run, facts)


def _label_form(run: RunFolder, facts: Facts) -> None:
    with st.form(f"label:{run.id}", border=False):
        name = st.text_input(
            "Name",
            facts.label.name,
            max_chars=MOST_NAME,
            placeholder=reading.names(state.place()).get(run.id, run.id),
            key=f"label.name:{run.id}",
            help="Leave it empty to name the run by the settings in which it differs from others.",
        )
        note = st.text_area("Note", facts.label.note, max_chars=MOST_NOTE, height=120, key=f"label.note:{run.id}")
        pressed = st.form_submit_button("Save", icon=":material/check:", type="primary")
    st.caption("Kept beside the run; what it computes stays as it is.")
    if pressed:
        act(lambda: keep_label(run, name=name, note=note))


def keep_label(run: RunFolder, **changes: str | bool) -> None:
    """Write name, note or star of a run.

    Raises:
        ParaknowError: this visitor may not.
    """
    state.access().check_label(state.is_own(run.id))  # here, whatever was drawn: the page may be older than the rule
    set_label(run.path, **changes)
