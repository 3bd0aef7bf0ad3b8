"""Starting and resuming runs and studies: what this visitor may compute, what nobody could, and the way there."""

import time
from contextlib import suppress

import streamlit as st

from pages._ui.frame import asking, state
from pages._ui.frame.layout import say, unwritable
from paraknow_core.display import counted
from paraknow_core.engines import queue
from paraknow_core.errors import DataError, ParaknowError
from paraknow_core.runs import lifecycle
from paraknow_core.runs.folder import RunFolder, list_runs
from paraknow_core.spec import RunSpec
from paraknow_core.studies import conduct
from paraknow_core.studies.folder import StudyFolder
from paraknow_core.studies.study import StudySpec, groups_of, spec_of
from paraknow_core.workbench import errands, starting

AGAIN = "launching.again"  # whether runs that are there already are wanted once more


def start(*specs: RunSpec, first: bool = False) -> RunFolder | None:
    """Create a run for each spec, put them into the queue in this order, and return the first; see `start_all`."""
    return next(iter(start_all(*specs, first=first)), None)


def start_all(*specs: RunSpec, first: bool = False) -> list[RunFolder]:
    """Create a run for each spec and put them into the queue in this order; none where that was refused.

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
        errands.submit(place, *runs, first=first)
    except (ParaknowError, OSError) as error:
        for run in runs:  # nobody would ever start them
            with suppress(ParaknowError, OSError):
                lifecycle.delete(run)
        say(unwritable(error) if isinstance(error, OSError) else error)
        return []
    state.own(*(run.id for run in runs))
    return runs


def resume(run: RunFolder) -> None:
    """Put a run that is there back into the queue.

    Raises:
        ParaknowError: this visitor may not, or the run cannot go on.
        OSError: the workspace cannot be written.
    """
    _check(run.spec())
    errands.submit(state.place(), run)


def _check(*specs: RunSpec, seeds: int = 0, runs: int = 0) -> None:
    """Refuse what this visitor may not compute here, or nobody could; checked before every start, also of an old run.

    Args:
        specs: of what is started.
        seeds, runs: how many there are, where the specs are only one of each kind.

    Raises:
        DataError: one sentence.
    """
    place, access = state.place(), state.access()
    access.check_limit("seeds", seeds or len({spec.seed for spec in specs}))
    for spec in specs:
        access.check_spec(spec)
    asked = {repr((s.method, s.task, s.sensitivity, s.teacher, s.student, s.until, s.references)): s for s in specs}
    until = time.monotonic() + asking.BEFORE_START_S
    for spec in asked.values():
        problem = asking.seeds_problem(spec, until - time.monotonic())
        problem = problem or asking.fit_problem(spec, until - time.monotonic())
        if problem:
            raise DataError(problem)
    order = queue.read(place)
    access.check_amount(sum(queue.is_active(run, order) for run in list_runs(place)[:200]), runs or len(specs))


def plan() -> starting.Plan:
    """Work out what Start would do with the draft as it is."""
    return starting.plan(state.place(), state.whole_draft(), bool(st.session_state.get(AGAIN)))


def draft_problem(patience_s: float = 0.0) -> str:
    """Return why nothing of the draft could run, as far as that is known; else nothing.

    Args:
        patience_s: how long an answer is waited for.
    """
    draft = state.whole_draft()
    tight = asking.rank_problem(draft.spec, patience_s)
    specs = [draft.spec.with_changes({"method": method}) for method in (draft.spec.method, *draft.arms)]
    return tight or next(filter(None, (asking.seeds_problem(spec) or asking.fit_problem(spec) for spec in specs)), "")


def start_draft(planned: starting.Plan) -> RunFolder | None:
    """Put what is to be run into the queue and return the first run; where that is refused it is said."""
    unseen = state.changed_unseen()
    if unseen:
        say(unseen)
        return None
    with st.spinner(f"Putting {counted(len(planned.todo), 'run')} into the queue …", show_time=False):
        run = start(*planned.todo)
    if run is not None:
        st.session_state.pop(AGAIN, None)
    return run


def study_problem(study: StudySpec, patience_s: float = 0.0) -> str:
    """Return why no run of a group of a study could begin, as far as that is known; else nothing.

    Args:
        study: the study.
        patience_s: how long an answer is waited for.
    """
    specs = [spec_of(study, group, study.seeds[0]) for group in groups_of(study)]
    kinds = {repr((spec.student, spec.factorisation.rank, spec.extraction.origin)): spec for spec in specs}
    return next(filter(None, (asking.rank_problem(spec, patience_s) for spec in kinds.values())), "")


def start_study(study: StudySpec) -> StudyFolder | str:
    """Make a study's folder and start its process; a sentence where that was refused."""
    problem = state.changed_unseen(study=True) or study_problem(study, asking.BEFORE_START_S)
    if problem:
        return problem
    try:
        _check_study(study)
        folder = StudyFolder.create(state.place(), study)
        conduct.launch(folder)
    except (ParaknowError, OSError) as error:
        return str(unwritable(error) if isinstance(error, OSError) else error)
    state.own(folder.id)
    return folder


def resume_study(folder: StudyFolder) -> None:
    """Start a process for a study that is there.

    Raises:
        ParaknowError: this visitor may not, or the study is going on.
        OSError: the workspace cannot be written.
    """
    _check_study(folder.spec())
    conduct.launch(folder)


def _check_study(study: StudySpec) -> None:
    """Check a study as each of its runs would be checked."""
    specs = [spec_of(study, group, study.seeds[0]) for group in groups_of(study)]
    _check(*specs, seeds=len(study.seeds), runs=len(specs) * len(study.seeds))
