"""Train: start a transfer and its controls, watch it, stop and resume it, and read what came out."""

from typing import Any

import streamlit as st

from pages._ui.frame import layout, run_panel, state
from pages._ui.frame.fields import mirror
from pages._ui.frame.layout import info, plain
from pages._ui.frame.page import page
from pages._ui.train import live as train_live
from pages._ui.train import outcome, queue_panel
from pages._ui.train import settings as train_settings
from paraknow_core.runs.folder import RunFolder
from paraknow_core.studies.arms import suggest
from paraknow_core.workbench import reading
from paraknow_core.workbench.reading import Facts, Runs

SIDE_BY_SIDE = 20  # runs that the link to Compare names


def chosen_run(trained: Runs) -> RunFolder | None:
    """Return the run to show: the address's, else the one that was shown, else one that is going on, or the newest.

    One that is going on comes into the address: whoever watches it stays with it when it ends or is stopped.
    """
    run, problem = state.run_in_link()
    if problem:
        layout.say(problem)
    if run is None:
        before = st.session_state.get("train.run")
        run = next((r for r, _ in trained if r.id == before), None)
    if run is None and trained:
        states = {r.status().state: r for r, _ in reversed(trained[:50])}  # the newest run in each state
        run = next((states[word] for word in ("running", "stopping", "queued") if word in states), trained[0][0])
    if run is not None and run.status().active:
        st.query_params["run"] = run.id
    return run


def choose(run: RunFolder, trained: Runs) -> None:
    """Draw the list of all runs that train."""
    labels = reading.options(state.place(), (r for r, _ in trained[: reading.MOST_LISTED]), about=True)
    if run.id not in labels:
        labels = reading.options(state.place(), [run], about=True) | labels
    ids = list(labels)
    shown = {"options": ids, "format_func": lambda run_id: labels.get(run_id, run_id), "label_visibility": "collapsed"}
    if len(trained) > reading.MOST_LISTED:
        st.caption(f"The newest {reading.MOST_LISTED} of {len(trained):,}; Compare finds older ones, and leads here.")
    mirror(st.selectbox, "Run", "train.run", run.id, lambda run_id: st.query_params.update(run=run_id), **shown)


def body(run: RunFolder, trained: Runs) -> None:
    """Draw the run's live view, or its outcome."""
    facts = reading.facts(run)
    if facts.problem:
        layout.say(facts.problem)
    if facts.spec is None:
        train_live.manage(run, facts)
        return
    if facts.spec.until == "sensitivity":
        info("This run only measures sensitivity.", "grid_on")
        st.page_link("pages/sensitivity.py", label="Look at it on Sensitivity", query_params={"run": run.id})
        return
    if run.status().state == "done":
        _outcome(run, facts, trained)
    else:
        train_live.follow(run, facts, trained)
    run_panel.log_tail(run)


def _outcome(run: RunFolder, facts: Facts, trained: Runs) -> None:
    run_panel.headline(run, facts, run.status())
    outcome.scores(run, facts)
    st.page_link(
        "pages/compare.py",
        label="Compare it with other runs, example by example",
        icon=":material/balance:",
        query_params={"run": ",".join(_comparable(run, facts, trained))},
    )
    train_live.ended(run, facts, trained)
    outcome.checks(run, facts, trained)
    train_live.manage(run, facts)


def _comparable(run: RunFolder, facts: Facts, trained: Runs) -> list[str]:
    """Return the ids of this run and of those that ask the same question with another method or seed.

    A control that is still going on is among them: Compare counts it in when it is done.
    """
    others = [(r, other.spec) for r, other in trained if r.id != run.id and other.spec]
    return [r.id for r in suggest([(run, facts.spec), *others])][:SIDE_BY_SIDE]


def _setup(run: RunFolder | None) -> Any:
    """Return the box of the settings: folded while somebody watches a run, open when there is something to prepare."""
    unfolded = st.session_state.get(train_live.UNFOLD)
    linked = st.query_params.get("run", "")
    shown = run is not None and (bool(linked) and run.id.startswith(linked) or run.status().active)
    watching = shown and run.id != unfolded
    label = f"**Set up a transfer**  {plain(train_settings.summary())}" if watching else "**Set up a transfer**"
    return st.expander(label, expanded=not watching, icon=":material/tune:", key=f"train.setup.{watching}.{unfolded}")


def main() -> None:
    """Draw the page: what to start, what is going on, and one run."""
    everything = reading.all_facts(state.place())
    trained = [(r, facts) for r, facts in everything if not facts.spec or facts.spec.until != "sensitivity"]
    run = chosen_run(trained)
    with _setup(run), st.container(key="stack-fields"):
        train_settings.settings()
        train_settings.launch(trained)
    queue_panel.draw(run)
    st.subheader("Run", anchor=False)
    if run is None:
        info(
            "The run's loss, log and scores will appear here. Choose the settings above and press **Start transfer**.",
            "show_chart",
        )
        return
    choose(run, trained)
    body(run, trained)
    st.caption(plain("What is shown is read from the run's folder: reload, close, come back; the run goes on."))


with page("Train"):
    main()
