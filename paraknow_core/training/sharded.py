"""Training shared by several processes of one machine: each holds a part of the frozen student (FSDP2).

The run's own process, number 0, stays the one that knows the run: it has the optimiser, the schedule, the checkpoints
and the run folder, and what it writes is what it writes alone. It starts the others, which know a student and what
they are ordered, line by line on their standard input, and which end when that ends. Of every step, each process

    gets the adapter's weights from process 0                                             (broadcast)
    reads its share of the examples, for which it gathers each layer's frozen weights     (all-gather, twice a pass)
    gives its loss and its gradients of the adapter to process 0                          (reduce)

and process 0 goes on as in `loop.Training.take`. The adapter, 1 % of a student, is whole in every process, so that
clipping, AdamW, saves and tied factors are the same code as alone; its optimiser is in process 0 only.
"""

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from paraknow_core.context import Context
from paraknow_core.errors import RunError
from paraknow_core.files.atomic import temporary_folder
from paraknow_core.memory import map_blocks_from, release
from paraknow_core.models.load import pick_device
from paraknow_core.ops.chance import seed_of
from paraknow_core.paths import PROJECT_ROOT, Workspace
from paraknow_core.settings import usable_cores
from paraknow_core.training import parts
from paraknow_core.training.loop import Training
from paraknow_core.training.parts import Part, Row, Share

if TYPE_CHECKING:
    from peft import PeftModel

    from paraknow_core.training.loop import Step

MEETING = "paraknow-parts-"  # how the names of the folders begin in which processes find each other
START_S = 300.0  # a process has so long to load its libraries
END_S = 5.0  # it has so long to end by itself


def refuse_unfit(context: Context, *, adds_term: bool) -> None:
    """Refuse what several processes cannot train together.

    Args:
        context: its settings say how many.
        adds_term: whether the method adds a term to the loss.

    Raises:
        RunError: 4 bits, such a method, or a device that they cannot share.
    """
    processes, device = context.settings.processes, pick_device(context.settings.device)
    if processes == 1:
        return
    given, alone = f"processes: {processes} given", "set processes: 1"
    if context.settings.student_bits:
        raise RunError(f"{given} with student_bits: 4, and 4-bit weights cannot be sharded; {alone}, or use 16 bits")
    if adds_term:
        raise RunError(f"{given}, and {context.spec.method} adds a term to the loss, which needs all of it; {alone}")
    if device not in ("cpu", "cuda") or not torch.distributed.is_available():
        raise RunError(f"{given}, and they can share a student on CPU and CUDA only, not on {device}; {alone}")
    if device == "cuda" and processes > torch.cuda.device_count():
        raise RunError(f"{given}, and this machine has {torch.cuda.device_count()} GPUs, one for each; set fewer")


def notes(context: Context) -> Iterator[str]:
    """Yield what a reader of the results should know of training in several processes."""
    from paraknow_core.models.library import has_dropout, library_config

    processes, cores = context.settings.processes, usable_cores()
    if has_dropout(library_config(context.student.described)):
        yield (
            f"processes: the student has dropout, and each of {processes} processes draws masks of its own, so its "
            "losses are not those of one process"
        )
    if processes > cores and pick_device(context.settings.device) == "cpu":
        yield f"processes: {processes} share {cores} cores in training, so they only take turns"


def finetune_sharded(training: Training) -> None:
    """Train an adapter in place, in `settings.processes` processes: see `finetuning.finetune`.

    Losses and gradients are those of one process, up to rounding; of a student with dropout, up to its masks.

    Raises:
        StopRequested: asked to stop; a checkpoint was saved.
        DivergedError: a loss is not finite.
        RunError: one of the processes is gone, or the loss of a part is no part of the loss.
    """
    if not training.losses.usual:
        raise RunError(
            f"processes: {training.settings.processes} given, and the student computes its loss in its own way, of all "
            "it reads at once; set processes: 1"
        )
    with training, Sharded(training.context, training.model) as sharded:
        training.validation_losses = sharded
        for step in training.steps():
            training.take(step, sharded.backward(step))


class Sharded:
    """Process 0's side: starts the others with the first order, and gives the student its weights back at the end.

    A context manager. In between, the frozen weights of the model lie in all processes, and the model holds none.
    It is a `Losses` for whoever validates.
    """

    def __init__(self, context: Context, model: "PeftModel") -> None:
        """Args: context, of the run; model, the student with its adapter, whole, on this process's device."""
        self.context, self.model, self.processes = context, model, context.settings.processes
        self._helpers: list[tuple[subprocess.Popen, IO]] = []
        self._moved = False  # whether the adapter has changed since the others have got it
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        with self._exits:
            if self._helpers and kind is None:
                with self._watched():
                    self._order({"do": "gather"})
                    self._part.gather(self._weights)

    def backward(self, step: "Step") -> Tensor:
        """Compute a step's loss, nats per token, and leave its gradients in the adapter."""
        passes, each = [_rows(batch) for batch in step.passes], self.processes  # together they take as many at a time
        shares = [_dealt(sum(passes[k : k + each], []), each) for k in range(0, len(passes), each)]
        loss = self._compute("train", shares, int(step.supervised), step.number)
        self._moved = True
        return loss

    def nats(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the sum of the losses of a batch's supervised tokens, in nats: see `Losses.nats`."""
        return self._compute("validate", [_dealt(_rows(batch), self.processes)], 1, 0)

    def _compute(self, do: str, shares: list[list[Share]], tokens: int, number: int) -> Tensor:
        """Have every process read its share of each pass; return the sum of what they lose."""
        seed = seed_of(self.context.spec.data_seed, "step", number)
        # Validation is in inference mode, whose tensors no later backward pass could use.
        with torch.inference_mode(mode=False), self._watched():
            self._begin()
            order = {"do": do, "adapter": self._moved, "tokens": tokens, "seed": seed}
            for rank in range(1, self.processes):
                self._order(order | {"shares": [of_pass[rank] for of_pass in shares]}, rank)
            self._moved = False
            return self._part.compute(order | {"shares": [of_pass[0] for of_pass in shares]})

    def _order(self, order: Mapping[str, Any], rank: int | None = None) -> None:
        line = json.dumps(order, separators=(",", ":")) + "\n"
        for process, _ in self._helpers if rank is None else [self._helpers[rank - 1]]:
            process.stdin.write(line)
            process.stdin.flush()

    def _begin(self) -> None:
        """Start the other processes, and hand each its part of the student."""
        if self._helpers:
            return
        cores, threads = usable_cores(), torch.get_num_threads()
        each = max(1, min(threads, cores // self.processes))
        torch.set_num_threads(each)
        self._exits.callback(torch.set_num_threads, threads)
        self._exits.callback(map_blocks_from)
        meeting = self._exits.enter_context(temporary_folder(MEETING)) / "meeting"
        parameters = dict(self.model.named_parameters())
        adapter = {name: p for name, p in parameters.items() if parts.is_of_adapter(name)}
        # Tied factors are views of others, and follow them.
        owners = {p.data_ptr(): name for name, p in reversed(adapter.items())}.values()
        hello = {
            "spec": self.context.spec.model_dump(mode="json"),
            "settings": self.context.settings.model_dump(mode="json"),
            "workspace": str(self.context.place.root),
            "adapter": {n: [list(p.shape), str(p.dtype).rpartition(".")[2]] for n, p in adapter.items()},
            "owners": [name for name in adapter if name in owners],
            "trained": [name for name, p in adapter.items() if p.requires_grad],
            "pad_id": self.context.student.tokenizer.pad_token_id,
            "threads": each,
            "meeting": str(meeting),
        }
        self._exits.callback(self._end)
        for rank in range(1, self.processes):
            self._helpers.append(_started(self.context.place))
            self._order(hello | {"rank": rank}, rank)
        self._weights = {name: p for name, p in parameters.items() if name not in adapter}
        store = parts.meet(meeting, self.processes)
        self._part = Part(self.context, hello | {"rank": 0}, adapter)
        self._await(store)
        self._exits.enter_context(parts.on_loopback())
        self._exits.callback(parts.leave)
        self._part.join(store)
        self._part.scatter(self._weights)
        release()

    def _await(self, store: "torch.distributed.Store") -> None:
        """Wait until all others are there to be met."""
        deadline = time.monotonic() + START_S
        while not store.check([f"ready {rank}" for rank in range(1, self.processes)]):
            if time.monotonic() > deadline or self._ended():
                raise _SilentError
            time.sleep(0.02)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Turn what torch raises when another process is gone into a sentence.

        Raises:
            RunError: one has ended, or does not answer.
        """
        try:
            yield
        except (RuntimeError, BrokenPipeError, _SilentError) as error:
            way_on = "resume goes on from the last save; `processes: 1` trains in one"
            deadline = time.monotonic() + END_S
            while not (ended := self._ended()) and time.monotonic() < deadline:
                time.sleep(0.05)
            if ended:
                number = min(ended, key=ended.get)  # one that was killed takes the others with it
                raise RunError(
                    f"fine-tuning: process {number} of {self.processes} has ended, and with it its part of the student "
                    f"({_why(*self._helpers[number - 2])}); {way_on}"
                ) from error
            if isinstance(error, _SilentError | torch.distributed.DistError) or "timed out" in str(error).lower():
                waited = f"did not answer within {parts.ANSWER_S:g} s"
                raise RunError(f"fine-tuning: one of {self.processes} processes {waited}; {way_on}") from error
            raise

    def _ended(self) -> dict[int, int]:
        """Return the exit codes of those that have ended, by their numbers, from 2."""
        codes = {number: process.poll() for number, (process, _) in enumerate(self._helpers, 2)}
        return {number: code for number, code in codes.items() if code is not None}

    def _end(self) -> None:
        """End the others: they do when their input ends."""
        for process, _ in self._helpers:
            with suppress(BrokenPipeError):
                process.stdin.close()
        for process, log in self._helpers:
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            log.close()


class _SilentError(Exception):
    """A process is not there where it should be."""


def _rows(batch: Mapping[str, Tensor]) -> list[Row]:
    """Return the examples of a batch, without padding."""
    lengths = batch["attention_mask"].sum(1).tolist()
    columns = (batch["input_ids"].tolist(), batch["labels"].tolist())
    return [Row(ids[:length], labels[:length]) for ids, labels, length in zip(*columns, lengths, strict=True)]


def _dealt(rows: Sequence[Row], processes: int) -> list[Share]:
    """Deal rows, longest first, to the processes in turn; who gets none reads the first one for nothing."""
    return [Share(rows[rank::processes] or rows[:1], rank < len(rows)) for rank in range(processes)]


def _started(place: Workspace) -> tuple[subprocess.Popen, IO]:
    """Start a process that waits for orders; return it with the file that takes what it prints.

    It has a session of its own: a Ctrl-C or a signal to the run's group is for the run, which tells it.
    """
    log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - `_end` closes it
    process = subprocess.Popen(
        [sys.executable, "-m", "paraknow_core", "--workspace", str(place.root), "hold-part"],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=PROJECT_ROOT,
        text=True,
        start_new_session=True,
    )
    return process, log


def _why(process: subprocess.Popen, log: IO) -> str:
    """Say how a process ended; what it printed goes where this one prints."""
    log.seek(0)
    printed = log.read()
    sys.stderr.write(printed)
    if process.returncode < 0:
        short = "; the system does that where memory is short" if process.returncode == -signal.SIGKILL else ""
        return f"killed by signal {-process.returncode}{short}"
    last = printed.strip().rpartition("\n")[2]
    return f"exit code {process.returncode}: {last[:200]}" if last else f"exit code {process.returncode}"
