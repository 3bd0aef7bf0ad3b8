"""Executing several runs of one student together: trained in one pass, all else in turn (see `training.packed`)."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from paraknow_core.context import Work
from paraknow_core.paths import Workspace
from paraknow_core.pipeline import STAGES, finished, opened, recorded, run_stages
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.status import Status
from paraknow_core.runs.writer import stopped_by_signals
from paraknow_core.settings import Settings

_NAMES = [stage.name for stage in STAGES]


def execute_packed(
    runs: Sequence[RunFolder],
    place: Workspace,
    settings: Settings,
    on_change: Callable[[RunFolder, Status], None] | None = None,
    *,
    only_if_faster: bool = True,
) -> "list[dict[str, Any] | Exception | None]":
    """Execute run folders to their ends, each as `pipeline.execute` would, up to rounding.

    Runs that cannot be trained together, or only more slowly, are trained in turn.

    Args:
        runs, place, settings, on_change: as given to `execute`.
        only_if_faster: train in turn where one pass of all takes longer.

    Returns:
        For each run what `execute` returns for it, or what it raises: one that fails does not end the others.
    """
    members = [_Member(run, place, settings, partial(on_change, run) if on_change else None) for run in runs]

    def stop() -> None:
        for member in members:
            member.stop()

    try:
        with stopped_by_signals(stop):
            for member in members:
                member.do(member.open)
                member.do(member.stages, "prepare", "extraction")
            _train([member for member in members if member.reaches("training")], only_if_faster)
            for member in members:
                member.do(member.stages, "export" if member.trained else "training", "evaluation")
                member.do(member.close)
    except BaseException as error:  # a second Ctrl-C
        for member in members:
            member.end(error)
        raise
    return [member.outcome for member in members]


def _train(members: "Sequence[_Member]", only_if_faster: bool) -> None:
    """Do the stage training of several runs in one pass, unless something is in the way."""
    from paraknow_core.training import packed

    if len(members) < 2:
        return
    why, student = packed.obstacle([member.work for member in members]), None
    if not why:
        try:
            student = members[0].work.context.student.load()
        except Exception as error:  # no memory for one more: each for itself may have enough
            why = str(error) or type(error).__name__
    if student is None:
        for member in members:
            member.work.context.report.event("packed", runs=1, message=f"trained alone: {why}")
        return
    for member in members:
        member.do(member.begin_training, len(members))
    members = [member for member in members if member.goes_on]
    if members:
        packed.finetune_packed(
            student,
            [member.training for member in members],
            lambda number, error: members[number].do(members[number].end_training, error),
            only_if_faster=only_if_faster,
        )


class _Member:
    """One of the runs that are executed together."""

    def __init__(
        self, run: RunFolder, place: Workspace, settings: Settings, on_change: Callable[[Status], None] | None
    ) -> None:
        self._opening = opened(run, place, settings, on_change)
        self._folder, self._stage = ExitStack(), ExitStack()
        self.work: Work | None = None
        self.training: Any = None
        self.trained = self._asked = False
        self.outcome: dict[str, Any] | Exception | None = None
        self.goes_on = True

    def do(self, what: Callable[..., object], *arguments: object) -> None:
        """Do something for the run if it still goes on; an error ends it, as it would alone."""
        if self.goes_on:
            try:
                what(*arguments)
            except Exception as error:
                self.end(error)

    def open(self) -> None:
        """Take hold of the folder."""
        self.work = self._folder.enter_context(self._opening)
        self._folder.enter_context(self._stage)
        if self._asked:
            self.stop()

    def reaches(self, stage: str) -> bool:
        """Tell whether the run still goes on and is to do a stage."""
        return self.goes_on and _NAMES.index(stage) <= _NAMES.index(self.work.spec.until)

    def stages(self, first: str, last: str) -> None:
        """Do the stages between two, both with them, as far as the run is to go."""
        if self.reaches(first):
            run_stages(self.work, first, min(last, self.work.spec.until, key=_NAMES.index), recorded)

    def begin_training(self, together: int) -> None:
        """Enter the stage training, of whose time the run counts its share."""
        from paraknow_core.training.finetuning import begin

        self._stage.enter_context(recorded(self.work, "fine-tuning", together))
        self.training = begin(self.work)

    def end_training(self, error: Exception | None) -> None:
        """Note how the training ended, which may be the run's end."""
        from paraknow_core.training.finetuning import conclude

        conclude(self.work, self.training, error)
        self.trained = True
        self._stage.close()

    def stop(self) -> None:
        """Ask the run to save and stop; one that has not begun stops as soon as it begins."""
        self._asked = True
        if self.work is not None:
            self.work.context.report.signal_stop()

    def close(self) -> None:
        """Write the result, and end the run as done."""
        self.outcome = finished(self.work)
        self.end(None)

    def end(self, error: BaseException | None) -> None:
        """End the run, if it still goes on: done, stopped where it was asked for, or failed."""
        if not self.goes_on:
            return
        self.goes_on = False
        self.work = self.training = None  # with them, the student: others may need the memory
        try:
            stopped = self._folder.__exit__(type(error) if error else None, error, error and error.__traceback__)
        except Exception as told:  # as a sentence
            self.outcome = told
            return
        if error is not None and not stopped:
            self.outcome = error
