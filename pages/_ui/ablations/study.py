"""Studies that were started: the list of all, and one with its live grid and what can be done with it."""

from functools import partial
from html import escape

import streamlit as st

from pages._ui.ablations import results
from pages._ui.frame import execution, layout, run_panel, state, submit
from pages._ui.frame.layout import chip, info, plain, say, sentences, warn
from paraknow_core.display import duration
from paraknow_core.engines import Standing
from paraknow_core.errors import ParaknowError
from paraknow_core.figures import ablations as charts
from paraknow_core.runs import lifecycle
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.status import Status
from paraknow_core.studies.folder import StudyFolder
from paraknow_core.workbench import standing as standings
from paraknow_core.workbench.study_draft import StudyDraft
from paraknow_core.workbench.views import ablations as view
from paraknow_core.workbench.views.study_draft import grid_words, rules_words

PARAMETER = "study"
FIRST = 5  # studies that are listed before the rest is folded
MOST_FAILED = 5  # runs that failed and are named
MOST_GOING = 6  # runs that go on or wait, and are named
MOST_TROUBLES = 3
CLICKED = "ablations.clicked"  # id of the run that was clicked in the grid


def open_study(name: str | None) -> None:
    """Put a study into the address, or none."""
    if name is None:
        st.query_params.pop(PARAMETER, None)
    else:
        st.query_params[PARAMETER] = name


def listed() -> None:
    """Draw the list of studies; nothing where there is none."""
    lines = view.lines(state.place())
    if not lines:
        info(
            "Studies will be listed here: runs by the grid, tuned and paired by seed, with a verdict on each arm. Set "
            "up a preset, or tick factors below, then press **Start study**.",
            "science",
        )
        return
    st.subheader("Studies", anchor=False)

    def draw() -> None:
        now = view.lines(state.place())
        with st.container(key="rows", gap=None):
            for line in now[:FIRST]:
                _line(line)
        if len(now) > FIRST:
            with st.expander(f"{len(now) - FIRST} more", icon=":material/list:"):
                for line in now[FIRST:]:
                    _line(line)

    st.fragment(draw, run_every=2.0 if any(line.status.active for line in lines) else None)()


def _line(line: view.Line) -> None:
    left, middle, right = st.columns([4, 3, 1], vertical_alignment="center")
    left.html(
        f'<div class="pk-line" data-testid="study-row">{chip(line.status.state)}'
        f'<span class="pk-name">{escape(line.name)}</span></div>'
    )
    middle.caption(plain(line.words()))
    if right.button("Open", key=f"ablations.open.{line.folder.id}", icon=":material/arrow_forward:", width="stretch"):
        open_study(line.folder.id)
        st.rerun()


def draw(folder: StudyFolder) -> None:
    """Draw one study."""
    st.button("All studies", icon=":material/science:", type="tertiary", on_click=open_study, args=(None,))
    line = view.line_of(folder)
    if line.study is None:
        say(line.problem)
        _tools(folder, line)
        return
    st.header(plain(line.name), anchor=False)
    if line.study.question:
        st.markdown(f"**{plain(line.study.question)}**")
    st.caption(plain(f"{grid_words(line.study)}; {rules_words(line.study)}"))
    try:
        progress = view.progress(folder)
    except ParaknowError as error:
        say(error)
        _tools(folder, line)
        return
    _follow(folder, progress)
    results.draw(folder, progress)
    run_panel.log_tail(folder)


def _follow(folder: StudyFolder, progress: view.Progress) -> None:
    """Draw how far it is, again and again while it is going on; when that ends, draw the whole page once."""
    was_active, known = folder.status().active, [progress]  # reading all runs is dear: the first draw has what is known

    def tick() -> None:
        if folder.status().active != was_active:
            st.rerun()
        line = view.line_of(folder)
        _state(folder, line)
        with sentences():
            progress = known.pop() if known else view.progress(folder)
            if was_active:
                _going(progress, line.status)
            _troubles(progress)
            _grid(progress, was_active)

    st.fragment(tick, run_every=1.5 if was_active else None)()


def _state(folder: StudyFolder, line: view.Line) -> None:
    status = line.status
    spent = duration((status.ended or status.heartbeat) - status.started) if status.started else ""
    stage = escape(status.stage) if status.active else ""
    st.html(
        f'<div class="pk-line" data-testid="headline">{chip(status.state)}<span>{stage}</span>'
        f'<span class="pk-quiet">{escape(spent)}</span><code>{escape(folder.id)}</code></div>'
    )
    if status.state == "failed":
        say(status.message or "The study failed without a message; the end of its log says more.")
    elif status.state == "lost":
        warn(
            f"{status.message[:1].upper()}{status.message[1:]}. It was killed, memory ran out, or the machine was "
            "restarted; the end of its log may say more.",
            "link_off",
        )
    elif status.state == "stopped":
        info("Stopped. What is done is kept, and Resume goes on with the rest.", "pause_circle")
    elif status.message and status.active:
        st.caption(plain(status.message))
    _tools(folder, line)


def _going(progress: view.Progress, status: Status) -> None:
    """Draw which runs go on and where, which wait for their turn, and how long everything will take."""
    runs = list(progress.going)
    said = standings.standings(state.place(), runs)
    waiting = [run for run in runs if said[run.id].state == "waiting"]
    to_come = progress.unbegun
    parts = [f"{len(runs) - len(waiting)} going on", f"{len(waiting)} waiting" if waiting else ""]
    parts += [f"{to_come} to come" if to_come else "", view.left(progress, status)]
    st.markdown(f"**Runs** :gray[{plain(', '.join(filter(None, parts)))}]")
    first = sorted(runs, key=lambda run: run in waiting)[:MOST_GOING]
    with st.container(key="queue", gap=None):
        for run in first:
            _run_line(run, progress.going[run], said[run.id])
    if len(runs) > len(first):
        st.caption(f"and {len(runs) - len(first)} more")


def _run_line(run: RunFolder, label: str, standing: Standing) -> None:
    status = run.status()
    name, amount = st.columns([5.2, 4.4], vertical_alignment="center", wrap=False)
    title = f'<span class="pk-title">{escape(label)}</span>'
    said = f'<div class="pk-said">{escape(standing.message)}</div>' if standing.message else ""
    name.html(f'<div class="pk-line" data-testid="study-run">{chip(status.state)}{title}</div>{said}')
    percent = round(100 * status.fraction)
    going = f"{status.stage or 'starting'} {percent} %" if standing.state == "working" else ""
    words = ", ".join(filter(None, (going, standings.words(standing))))
    bar = f'<span class="pk-bar"><i style="width:{percent}%"></i></span>' if status.state == "running" else ""
    amount.html(f'<div class="pk-amount">{bar}<span class="pk-quiet">{escape(words)}</span></div>')


def _troubles(progress: view.Progress) -> None:
    """Draw what was lost, refused or could not be written, each with its next step."""
    execution.full()
    found = view.troubles(progress)
    for words in found[:MOST_TROUBLES]:
        st.caption(f":material/warning: {plain(words)}")
    if len(found) > MOST_TROUBLES:
        st.caption(f"and {len(found) - MOST_TROUBLES} earlier ones; the log has all of them")


def _grid(progress: view.Progress, unfolded: bool) -> None:
    st.progress(progress.fraction, text=plain(progress.words()))
    wanted = st.session_state.pop(CLICKED, None)
    if wanted:
        st.switch_page("pages/train.py", query_params={"run": wanted})
    key = "ablations.grid"

    def clicked() -> None:
        st.session_state[CLICKED] = (layout.chosen_point(key) or [""])[-1]

    with st.expander("Runs, arm by seed: click one to open it", expanded=unfolded, icon=":material/grid_on:"):
        shown = (progress.folder.id, progress.states)
        make = partial(charts.progress_grid, progress.outcome, dark=layout.is_dark())
        figure = layout.kept_picture("ablations.grid", shown, make)
        chosen = {"selection_mode": "points", "on_select": clicked}
        layout.chart(figure, key, figure.layout.meta["alt"], without=layout.NO_SELECTION, **chosen)
        for run_id, words in list(progress.failed.items())[:MOST_FAILED]:
            st.page_link(
                "pages/train.py", label=plain(f"Failed: {words}"), icon=":material/error:", query_params={"run": run_id}
            )
        if len(progress.failed) > MOST_FAILED:
            st.caption(f"and {len(progress.failed) - MOST_FAILED} more that failed")


def _tools(folder: StudyFolder, line: view.Line) -> None:
    """Draw what can be done with a study in this state."""
    status = line.status
    with st.container(horizontal=True, vertical_alignment="center"):
        if status.active and st.button(
            "Stop and save",
            icon=":material/stop_circle:",
            key="ablations.stop",
            disabled=status.state == "stopping",
            help="The run that is going on saves and stops, and no other begins. Resume goes on from there.",
        ):
            run_panel.act(lambda: lifecycle.ask_to_stop(folder))
        if status.state in ("stopped", "failed", "lost") and st.button(
            "Resume", icon=":material/play_arrow:", key="ablations.resume", type="primary", help="What is done is kept."
        ):
            run_panel.act(lambda: submit.resume_study(folder))
        if line.study is not None and st.button(
            "Take as draft",
            icon=":material/content_copy:",
            key="ablations.copy",
            help="Makes this study the study draft, to change and start it as another one.",
        ):
            if state.replace_study(StudyDraft(study=line.study, own_base=True)):
                open_study(None)
            st.rerun()
        if not state.access().demo and not status.active:
            with st.popover("Delete", icon=":material/delete:", type="tertiary"):
                st.markdown("Removes the study's folder. Its runs stay on Train and Compare. This cannot be undone.")
                if st.button(
                    "Delete for good", key="ablations.delete", type="primary", icon=":material/delete_forever:"
                ):
                    run_panel.act(lambda: _delete_for_good(folder))


def _delete_for_good(folder: StudyFolder) -> None:
    state.access().check_delete()  # here, whatever was drawn: the page may be older than the rule
    lifecycle.delete(folder)
    open_study(None)
