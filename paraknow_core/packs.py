"""Executing several runs of one student together: trained in one pass, all else in turn (see `training.packed`)."""

import gc
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from paraknow_core.context import Context, Work
from paraknow_core.display import counted, memory
from paraknow_core.errors import ParaknowError, without_panic
from paraknow_core.memory import anonymous_bytes, available_bytes, release
from paraknow_core.paths import Workspace
from paraknow_core.pipeline import STAGES, finished, new_work, opened, recorded, run_stages
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.status import Status
from paraknow_core.runs.writer import stopped_by_signals
from paraknow_core.settings import Settings
from paraknow_core.training.amounts import micro_batch_size
from paraknow_core.training.estimates import F32, LEFT_FREE, PROCESS, PackShare, pack_bytes, pack_share, packs_within
from paraknow_core.training.inputs import pinned

_NAMES = [stage.name for stage in STAGES]


def execute_packed(
    runs: Sequence[RunFolder],
    place: Workspace,
    settings: Settings,
    on_change: Callable[[RunFolder, Status], None] | None = None,
    *,
    only_if_faster: bool = True,
    say: Callable[[str], object] = lambda _sentence: None,
) -> "list[dict[str, Any] | Exception | None]":
    """Execute run folders to their ends, each as `pipeline.execute` would, up to rounding.

    Runs that cannot be trained together, or only more slowly, are trained in turn. Those for which there is no memory
    together are split into packs, one after the other; one that has found none beside others goes on alone after them.

    Args:
        runs, place, settings, on_change: as given to `execute`.
        only_if_faster: train in turn where one pass of all takes longer.
        say: is told, before the first run begins, how much memory they take, and whether they are split for that.

    Returns:
        For each run what `execute` returns for it, or what it raises: one that fails does not end the others.
    """
    members = [_Member(run, place, settings, partial(on_change, run) if on_change else None) for run in runs]

    def stop() -> None:
        for member in members:
            member.stop()

    try:
        with stopped_by_signals(stop):
            found = split(runs, place, settings)
            say(found.sentence)
            for pack in found.packs:
                why = found.sentence if len(found.packs) > 1 else ""
                _execute([members[number] for number in pack], only_if_faster, why)
                _free()  # for the next one, or whoever uses this process next
    except BaseException as error:  # a second Ctrl-C
        for member in members:
            member.end(error)
        raise
    return [member.outcome for member in members]


@dataclass(frozen=True)
class Split:
    """The packs in which runs are executed, by their place; the bytes that the largest takes; both in a sentence."""

    packs: list[list[int]]
    bytes: float
    sentence: str


def split(runs: Sequence[RunFolder], place: Workspace, settings: Settings) -> Split:
    """Split runs, in their order, into packs for which there is memory where they compute.

    Args:
        runs, place, settings: as given to `execute_packed`. Of each run, its student's headers and its task are read.
    """
    shares = [_share(run, place, settings) for run in runs]
    room, process = _room(settings)
    packs = packs_within(shares, room, process)
    most = max((pack_bytes([shares[number] for number in pack], process) for pack in packs), default=0.0)
    takes = f"at most {memory(most)} of {'memory' if process else 'the GPU'}"
    if len(packs) < 2:  # noqa: PLR2004
        return Split(packs, most, f"{counted(len(runs), 'run')} together: {takes}")
    whole, largest = memory(pack_bytes(shares, process)), max(map(len, packs))
    why = f"all at once would take {whole}, and there is room for {memory(room)}"
    return Split(packs, most, f"{counted(len(runs), 'run')} in {len(packs)} packs of at most {largest}, {takes}: {why}")


def _share(run: RunFolder, place: Workspace, settings: Settings) -> PackShare:
    """Return what a run brings to a pack; nothing, where it will not come so far: the run itself will say why."""
    from paraknow_core.models.load import pick_device
    from paraknow_core.training.batches import supervised_of

    try:
        with without_panic():
            context = Context(pinned(run.spec(), run.result() or {}), settings, place)
            student, train = context.student, context.encode(context.task.split("train"), context.student)
            longest = max(len(entry.input_ids) for entry in train)
            micro = micro_batch_size(context.spec.finetuning, longest, pick_device(settings.device))
            # Passes take the longest first, which have most to learn.
            rows = sorted(train, key=lambda entry: -len(entry.input_ids))[:micro]
            count = F32 if student.dtype == "float32" else F32 // 2
            return pack_share(student.anatomy, context.spec, len(rows) * longest, sum(map(supervised_of, rows)), count)
    except Exception:
        return PackShare()


def _room(settings: Settings) -> tuple[float, float]:
    """Return the bytes that this process may take where it computes, and which of them its libraries take there."""
    import torch

    from paraknow_core.models.load import pick_device

    try:
        on_gpu = pick_device(settings.device) == "cuda"
    except ParaknowError:  # the runs will say that there is none
        on_gpu = False
    if on_gpu:
        try:
            free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        except Exception:  # full, or in exclusive use: the runs will say what is wrong with it
            free = math.inf
        return (1 - LEFT_FREE) * free, 0.0
    return (1 - LEFT_FREE) * available_bytes() + anonymous_bytes(), PROCESS


def _execute(members: "Sequence[_Member]", only_if_faster: bool, why_split: str) -> None:
    """Execute the runs of one pack to their ends."""
    for member in members:
        member.beside = len(members) > 1
        member.do(member.open)
        if why_split:
            member.do(member.note, len(members), why_split)
        member.do(member.stages, "prepare", "extraction")
    _train([member for member in members if member.reaches("training")], only_if_faster)
    for member in members:
        member.do(member.stages, "export" if member.trained else "training", "evaluation")
        member.do(member.close)
    for member in members:
        if member.put_off:
            _free()
            member.alone()


def _free() -> None:
    """Give back what ended runs have held."""
    import torch

    gc.collect()
    release()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _is_short_of_memory(error: BaseException | None) -> bool:
    """Tell whether an error says that there was no memory, or was raised because of one that does."""
    import torch

    if error is None:
        return False
    no_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
    return no_memory or _is_short_of_memory(error.__cause__ or error.__context__)


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
            member.do(member.note, 1, f"trained alone: {why}")
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
        self.goes_on, self._ended = True, False
        self.beside = self.put_off = False  # beside others; until they have ended, because there was no memory

    def do(self, what: Callable[..., object], *arguments: object) -> None:
        """Do something for the run if it still goes on; an error ends it, as it would alone.

        One that says that there is no memory beside the others puts the run off, once.
        """
        if not self.goes_on:
            return
        try:
            what(*arguments)
        except Exception as error:
            if self.beside and self.work is not None and _is_short_of_memory(error):
                self._put_off()
            else:
                self.end(error)

    def _put_off(self) -> None:
        work, self.work, self.training = self.work, None, None  # with them, what they hold
        self.goes_on, self.put_off, self._kept = False, True, (work.context, work.folder, work.result)
        try:
            self._stage.close()
        except Exception as error:  # a full disk
            self.end(error)

    def alone(self) -> None:
        """Go on with a run that was put off, from what it has saved, as `pipeline.execute` would."""
        self.goes_on, self.put_off, self.beside = True, False, False
        self.do(self._again)

    def _again(self) -> None:
        self.work = new_work(*self._kept)
        if self._asked:
            self.stop()
        self.note(1, "goes on alone: there was no memory for it beside the others")
        self.stages("prepare", "evaluation")
        self.close()

    def note(self, together: int, message: str) -> None:
        """Say how the run is trained, of how many."""
        self.work.context.report.event("packed", runs=together, message=message)

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
        if self._ended:
            return
        self._ended, self.goes_on, self.put_off = True, False, False
        self.work = self.training = None  # with them, the student: others may need the memory
        try:
            stopped = self._folder.__exit__(type(error) if error else None, error, error and error.__traceback__)
        except Exception as told:  # as a sentence
            self.outcome = told
            return
        if error is not None and not stopped:
            self.outcome = error
