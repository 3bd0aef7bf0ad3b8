"""The queue as everybody sees it: what is going on, what waits, in which order; moved and cancelled by anyone."""

from collections.abc import Callable
from contextlib import suppress
from html import escape

import streamlit as st

from pages._ui.frame import state
from pages._ui.frame.layout import chip, plain
from pages._ui.frame.run_panel import act, seed_beside
from paraknow_core.engines import Standing, queue
from paraknow_core.engines.service import Service
from paraknow_core.files.remember import one_look
from paraknow_core.runs.folder import RunFolder, list_runs
from paraknow_core.workbench import errands, reading
from paraknow_core.workbench import standing as standings
from paraknow_core.workbench import waiting as waiting_for
from paraknow_core.workbench.reading import Facts
from paraknow_core.workbench.waiting import place_in_line

MOST_ROWS = 8


def draw(shown: RunFolder | None) -> None:
    """Draw the queue, and go on drawing it.

    Args:
        shown: the run that the page is about; its row is marked.
    """
    st.fragment(lambda: _panel(shown), run_every=2.0 if _rows()[0] else 6.0)()


def _rows() -> tuple[list[RunFolder], list[RunFolder]]:
    """Return the runs that are going on (from the command line, too), and those that wait."""
    place = state.place()
    order = queue.read(place)
    waiting = [queue.run_of(place, name) for name in order.waiting]
    in_line = set(order.waiting)
    others = (run for run in list_runs(place)[:200] if run.id not in in_line)
    states = ((run, reading.status(run)) for run in others)
    working = [run for run, status in states if status.active and (run.claimed or status.state != "queued")]
    return working[::-1], waiting


@one_look()
def _panel(shown: RunFolder | None) -> None:
    working, waiting = _rows()
    if waiting:
        with suppress(OSError):  # a full disk: what waits goes on waiting
            queue.ensure(state.place())
    said = standings.standings(state.place(), [run for run in working if standings.holder_name(run)])
    held = [run for run in working if run.id in said and said[run.id].state == "waiting"]
    left = waiting_for.left_of_all(state.place(), working, said)
    counts = f"{len(working) - len(held)} going on, {len(waiting) + len(held)} waiting"
    words = ", ".join(filter(None, (counts, left))) if working or waiting else "empty"
    working = sorted(working, key=lambda run: run in held)
    questions = {_about(reading.facts(run)) for run in [*working, *waiting]}
    shared = f", all {questions.pop()}" if len(questions) == 1 and len(working) + len(waiting) > 1 else ""
    st.markdown(f"**Queue** :gray[{plain(words + shared)}]")
    if not working and not waiting:
        return
    titles = reading.titles(state.place())
    with st.container(key="queue", gap=None):
        for run in working[:MOST_ROWS]:
            _row(run, titles.get(run.id, run.id), 0, 0, shown, not shared, said.get(run.id))
        for number, run in enumerate(waiting[:MOST_ROWS], 1):
            _row(run, titles.get(run.id, run.id), number, len(waiting), shown, not shared)
    if len(working) > MOST_ROWS:
        st.caption(f"and {len(working) - MOST_ROWS} more that go on, or wait at a cluster")
    if len(waiting) > MOST_ROWS:
        st.caption(f"and {len(waiting) - MOST_ROWS} more after them")
    if waiting and not working and not Service(state.place(), "queue").alive():
        st.caption("The process that starts runs is being started.")


def _about(facts: Facts) -> str:
    return f"{facts.pair}, {facts.task}"


def _row(
    run: RunFolder,
    called: str,
    number: int,
    last: int,
    shown: RunFolder | None,
    about: bool,
    standing: Standing | None = None,
) -> None:
    """Draw one run; `number` is its place in the line, 0 for one that is going on; `about` names pair and task, too.

    `standing` is what a cluster says of it.
    """
    status, facts = run.status(), reading.facts(run)
    name, amount, tools = st.columns([5.2, 2.5, 1.9], vertical_alignment="center", wrap=False)
    mark = shown is not None and run.id == shown.id
    title = f'<span class="pk-title" style="font-weight:{700 if mark else 500}">{escape(called)}</span>'
    pair = f'<span class="pk-quiet pk-pair">{escape(_about(facts))}</span>' if about else ""
    seed = f'<span class="pk-quiet">{words}</span>' if (words := seed_beside(facts, called)) else ""
    message = errands.word(run) or (standing.message if standing else "")
    said = f'<div class="pk-said">{escape(message)}</div>' if message else ""
    name.html(f'<div class="pk-line" data-testid="queue-row">{chip(status.state)}{title}{seed}{pair}</div>{said}')
    percent = round(100 * status.fraction)
    words = f"{status.stage or 'starting'} {percent} %" if not number else place_in_line(number)
    at_cluster = "" if standing is None else standings.words(standing)
    if standing is not None and standing.state == "waiting":
        words = at_cluster
    elif at_cluster:
        words += f", {at_cluster}"
    has_bar = not number and status.state != "queued"
    bar = f'<span class="pk-bar"><i style="width:{percent}%"></i></span>' if has_bar else ""
    amount.html(f'<div class="pk-amount">{bar}<span class="pk-quiet">{escape(words)}</span></div>')
    place = state.place()
    with tools.container(horizontal=True, gap="small", horizontal_alignment="right"):
        if number:
            _tool(run, "up", "arrow_upward", "Run it earlier", lambda: queue.move(place, run, -1), number == 1)
            _tool(run, "down", "arrow_downward", "Run it later", lambda: queue.move(place, run, 1), number == last)
        _tool(run, "show", "visibility", "Show it below", lambda: st.query_params.update(run=run.id), mark)
        tip = "Take it out of the queue" if number else "Stop and save"
        busy = status.state == "stopping" or errands.is_going(run)
        _tool(run, "cancel", "close", tip, lambda: errands.stop(place, run), busy)


def _tool(run: RunFolder, what: str, icon: str, tip: str, do: Callable[[], object], disabled: bool) -> None:
    key, icon = f"queue:{what}:{run.id}", f":material/{icon}:"
    if st.button("", key=key, icon=icon, help=plain(tip), disabled=disabled, type="tertiary"):
        act(do)
