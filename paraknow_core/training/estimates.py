"""Before a run: the memory, disk and time that injection, fine-tuning and evaluation will take.

Pure arithmetic on an anatomy, token lengths and a few measured rates; needs no torch. What a sensitivity takes is
estimated in `sensitivity.plan`.
"""

import math
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Protocol

from paraknow_core.catalogue import METHODS
from paraknow_core.models.anatomy import Anatomy
from paraknow_core.models.modules import stored_shapes
from paraknow_core.sensitivity.plan import Need, Rates, plan_sensitivity, sizes_of
from paraknow_core.spec import RunSpec
from paraknow_core.tasks.generation import CACHE_BYTES
from paraknow_core.tasks.glance import GUESSED_TOKENS, Glance
from paraknow_core.training.amounts import micro_batch_size

F32 = 4
LEFT_FREE = 0.1  # of the memory that is free, where runs are put beside each other
# Measured by `benchmarks.forecasts`, which says how far off they are.
PROCESS = 0.48e9  # resident bytes of a process that has loaded torch, transformers and peft: measured on Linux
_HELD_BACK = 1.15  # what the C library has not given back yet, as a factor
_LOGIT_COPIES = 5  # the logits, their logarithms, and gradients
_OPTIMISER = 16  # bytes an adapter's parameter takes: itself, its gradient, two moments
_CHECKPOINT = 3 * F32  # bytes it takes in a checkpoint
_TOUCHED = 20  # how often each number of a layer's states is written or read, forward and back, with adapters
_THIN = 0.9  # how long the matrix products of a run take, beside those that tell what a core does (`past_runs`)
_CALL_SECONDS = 0.0025  # one pass through one layer with its adapters, forward and back, however small
_STEP_SECONDS = 0.006  # optimiser, logging, making the batch
_TOKEN_SECONDS = 0.002  # one new token of a batch through one layer, however small
_ANSWER_SECONDS = 0.001  # to decode, score and write down one answer
_CHECK_FLOPS = 3_500  # for each of a student's weights: adapters are checked on some examples when they are made
_STAGE_SECONDS = 0.1  # of injection and of export, besides
PREPARE_SECONDS = 0.2  # to read models and task
# What a process takes longer for the first run that it executes: it loads libraries.
COLD_SECONDS = {"prepare": 1.9, "injection": 1.0, "evaluation": 0.2}
_SEARCH_BYTES = 60  # read and written for each teacher weight: S, its sums in float64, the window search
_SVD_PASSES = 14  # multiplications of the matrix by the sketch in a randomised SVD
_OVERSAMPLING = 16
_BATCH = 32  # test examples at once, at least
_GATHERED = 3  # layers that lie whole in a process at the same time: in use, the next one, and what brings it
_TRAVEL_SECONDS = 1.2e-9  # until two processes have a byte of weights whole, over gloo and loopback: processor time
_START_SECONDS = 8.0  # until other processes have loaded their libraries
_RECORDS = 150_000  # bytes of a run folder besides weights and answers
_ANSWER = 800  # bytes of the record of a test example


@dataclass(frozen=True)
class Training:
    """The amount of training.

    Attributes:
        steps: optimiser steps.
        passes: forward and backward passes of one step.
        tokens: of one pass, padding included.
        validations: how often the validation split is read.
        validation_tokens: of one such reading, padding included.
        supervised: which share of the tokens goes through the output layer.
    """

    steps: int
    passes: int
    tokens: int
    validations: int
    validation_tokens: int
    supervised: float = 1.0


@dataclass(frozen=True)
class Answering:
    """The amount of evaluation.

    Attributes:
        models: how many models are scored: the trained student, and untrained ones beside it.
        batches: of test examples, for each model.
        batch: examples in one batch.
        prompt_tokens: of all test examples together.
        longest: tokens of the longest prompt.
        new_tokens: the most that are written for one example; 0 where likelihoods are compared.
    """

    models: int
    batches: int
    batch: int
    prompt_tokens: int
    longest: int
    new_tokens: int


def training_of(spec: RunSpec, seen: Glance, device: str) -> Training:
    """Return how much a run trains.

    Args:
        spec: of the run.
        seen: what its task is like.
        device: where it will train.
    """
    recipe, examples, held_out = spec.finetuning, seen.sizes["train"], seen.sizes["validation"]
    micro, steps = micro_batch_size(recipe, seen.tokens[-1], device), recipe.steps(examples)
    size, validations = min(micro, examples), recipe.validations + 1 if held_out and recipe.validations and steps else 0
    read = size * _filled(seen.tokens, size), held_out * _filled(seen.tokens, micro)
    return Training(steps, recipe.batch_size // micro, read[0], validations, read[1], seen.supervised)


def answering_of(model: Anatomy, seen: Glance, models: int = 1) -> Answering:
    """Return how much is evaluated.

    Args:
        model: that answers.
        seen: what the task is like.
        models: how many of them are scored.
    """
    rows, new = seen.sizes["test"] * seen.rows, min(seen.answer, seen.limit) if seen.writes else 0
    held = 2 * F32 * model.num_hidden_layers * model.num_key_value_heads * model.head_dim * round(seen.prompt + new)
    batch = max(1, min(rows, max(_BATCH, CACHE_BYTES // max(1, held)) if seen.writes else _BATCH))
    return Answering(models, math.ceil(rows / batch), batch, round(seen.prompt * rows), round(seen.prompt), new)


def _filled(ordered: Sequence[int], together: int) -> int:
    """Return the tokens an example takes in a batch: about as many as the longest of those beside it."""
    return ordered[min(len(ordered) - 1, math.floor(len(ordered) * together / (together + 1)))]


def adapter_parameters(student: Anatomy, roles: Collection[str], rank: int) -> int:
    """Return how many parameters LoRA of this rank has on the modules with these roles: r (in + out) for each."""
    return sum(rank * sum(module.shape) for module in student.modules if module.role in roles)


def trained_parameters(student: Anatomy, spec: RunSpec) -> int:
    """Return how many parameters a run trains: those of its adapter, or the weights themselves."""
    roles = spec.extraction.roles
    if not METHODS[spec.method].whole:
        return adapter_parameters(student, roles, spec.factorisation.rank)
    return sum(rows * columns for rows, columns in _whole(student, roles).values())


def fixed_factors(student: Anatomy, spec: RunSpec) -> int:
    """Return how many numbers stand beside the trained ones in a run's adapter: of whole weights, an identity each."""
    if not METHODS[spec.method].whole:
        return 0
    return sum(min(shape) ** 2 for shape in _whole(student, spec.extraction.roles).values())


def _whole(student: Anatomy, roles: Collection[str]) -> dict[str, tuple[int, int]]:
    """Return the shapes of the weights that hold modules of these roles, all rows of a fused one."""
    held = {module.parameter for module in student.modules if module.role in roles}
    return {name: shape for name, shape in stored_shapes(student.modules).items() if name in held}


def run_bytes(student: Anatomy, spec: RunSpec, tested: int | None = None) -> int:
    """Return the bytes that a run's folder takes at most, answers among them; what runs share in the cache is not.

    Args:
        student: its anatomy.
        spec: of the run.
        tested: examples of its test split, where that is known.

    The export of a run that takes its initial product off the weights holds both factors, which is counted for all
    but whole weights. A run that ends after training keeps no save.
    """
    trained, fixed, whole = trained_parameters(student, spec), fixed_factors(student, spec), METHODS[spec.method].whole
    initial = 0 if whole else F32 * trained
    export = F32 * ((trained + fixed) if whole else 2 * trained) + F32 * whole_head(student, spec.extraction.roles)
    save, tested = _CHECKPOINT * trained + F32 * fixed, tested or unseen(spec).sizes["test"]
    kept = {"sensitivity": 0, "extraction": initial, "training": initial}
    return round(_RECORDS + kept.get(spec.until, initial + export + save + _ANSWER * tested))


class Takes(Protocol):
    """What a run takes by itself: seconds, and those of them that a process spends on its first run alone."""

    seconds: float
    start: float


def in_a_row(runs: Sequence[Takes]) -> tuple[float, float]:
    """Return what runs take one after the other in a process that has started, and what its start takes, in seconds."""
    return sum(one.seconds - one.start for one in runs), max((one.start for one in runs), default=0.0)


@dataclass(frozen=True)
class Guess:
    """What a run takes by its models' shapes.

    Attributes:
        stages: by what each is called in a result's timings, in a process that has executed runs before.
        disk: bytes of its folder at most.
        references: seconds to score the untrained models that the spec wants beside the run; shared between runs.
    """

    stages: dict[str, Need]
    disk: int
    references: float

    @property
    def memory(self) -> int:
        """Bytes that the run's own process takes at the highest."""
        return max(need.memory for need in self.stages.values())


def guess_run(
    teacher: Anatomy,
    student: Anatomy,
    spec: RunSpec,
    rates: Rates,
    device: str = "cpu",
    shared: "Shared | None" = None,
    seen: Glance | None = None,
) -> Guess:
    """Estimate a whole run, stage by stage, before anything of it is loaded.

    Args:
        teacher, student: of the pair.
        spec: of the run.
        rates: what this machine does in a second.
        device: where it will train.
        shared: what its training takes where several processes share it (see `guess_shared`).
        seen: what its task is like; by default `Glance` as it is assumed.
    """
    seen, method, roles = seen or unseen(spec), METHODS[spec.method], spec.extraction.roles
    order = ("sensitivity", "extraction", "training", "evaluation").index(spec.until)
    stages, references = {"prepare": Need(round(PROCESS), 0, PREPARE_SECONDS)}, 0.0
    if method.needs_teacher or not order:
        stages["sensitivity"] = _guess_sensitivity(teacher, spec, rates, seen)
    if order >= 1:
        injection = estimate_injection(teacher, student, roles, spec.factorisation.rank, rates)
        plain = Need(round(PROCESS + F32 * student.parameters), 0, _stage_seconds(student, rates))
        stages["injection"] = injection if method.needs_teacher else plain
    if order >= 2:  # noqa: PLR2004 - a stage's place
        training, fixed = training_of(spec, seen, device), fixed_factors(student, spec)
        alone = estimate_finetuning(student, trained_parameters(student, spec), training, rates, fixed=fixed)
        stages["fine-tuning"] = Need(round(shared.first), alone.disk, shared.seconds) if shared else alone
    if order >= 3:  # noqa: PLR2004
        stages["export"] = Need(round(PROCESS + F32 * student.parameters), 0, _stage_seconds(student, rates))
        for model, name in ((student, "student"), (teacher, "teacher")):
            asked = answering_of(model, seen)
            if name == "student":
                stages["evaluation"] = estimate_evaluation(student, asked, rates)
            if name in spec.references:
                references += _stage_seconds(model, rates) + estimate_evaluation(model, asked, rates).seconds
    return Guess(stages, run_bytes(student, spec, seen.sizes["test"]), references)


def unseen(spec: RunSpec) -> Glance:
    """Return what is assumed of a task that nobody has looked at; the spec says at most how large its splits are."""
    sizes = {name: Glance().sizes[name] if size is None else size for name, size in spec.task.sizes}
    return Glance(sizes, limit=spec.task.max_new_tokens or Glance.limit)


def _stage_seconds(student: Anatomy, rates: Rates) -> float:
    """Return what it takes to load a student and check its adapter."""
    return _STAGE_SECONDS + student.parameters * (_CHECK_FLOPS / rates.flops + 2 * F32 / rates.disk)


def _guess_sensitivity(teacher: Anatomy, spec: RunSpec, rates: Rates, seen: Glance) -> Need:
    """Estimate what measuring the whole teacher in memory takes."""
    lengths = [round(fmean(seen.tokens))] * spec.sensitivity.samples
    thin = replace(rates, flops=rates.flops / _THIN)
    options = {"device": "cpu", "dtype": "float32", "budget": sys.maxsize, "base": round(PROCESS), "way": "resident"}
    return plan_sensitivity(teacher, lengths, round(seen.supervised * sum(lengths)), **options, rates=thin).need


def whole_head(student: Anatomy, roles: Collection[str]) -> int:
    """Return how many numbers of a tied output layer the exported adapter has to hold whole; 0 where there is none."""
    embed = student.find("embed", None)
    return embed.shape[0] * embed.shape[1] if student.tied and embed and "embed" in roles else 0


def estimate_injection(teacher: Anatomy, student: Anatomy, roles: Collection[str], rank: int, rates: Rates) -> Need:
    """Estimate what the window search, the truncated SVDs and the building of the adapter take.

    Args:
        teacher, student: of the pair.
        roles: of the modules that receive something.
        rank: of the adapter.
        rates: what this machine does in a second.
    """
    chosen = [module.shape for module in student.modules if module.role in roles]
    sketch = min(rank + _OVERSAMPLING, student.hidden_size)
    flops = sum(2 * rows * columns * sketch * _SVD_PASSES for rows, columns in chosen)
    largest = max((rows * columns for rows, columns in (m.shape for m in teacher.modules)), default=0)
    adapters = adapter_parameters(student, roles, rank)
    memory = PROCESS + F32 * student.parameters + 20 * largest + _OPTIMISER * adapters
    seconds = _STAGE_SECONDS + teacher.parameters * _SEARCH_BYTES / rates.bytes + flops / rates.flops
    return Need(round(memory), F32 * adapters, _stage_seconds(student, rates) + seconds)


def estimate_finetuning(
    student: Anatomy, adapters: int, training: Training, rates: Rates, count: int = F32, head: int = 0, fixed: int = 0
) -> Need:
    """Estimate what training the adapter takes; the student's own weights are frozen.

    Args:
        student: its anatomy.
        adapters: trainable parameters.
        training: how much is trained.
        rates: what this machine does in a second.
        count: bytes of a number that is computed with.
        head: numbers of an output layer that the exported adapter brings whole (see `whole_head`).
        fixed: numbers that stand beside the trained ones (see `fixed_factors`).
    """
    size, tokens = sizes_of(student), training.tokens
    # Forward and to the inputs; no gradient of frozen weights. The adapter's own products are forward and two back.
    flops = 4 * (size.layers + training.supervised * size.vocabulary) + 6 * adapters
    moved = count * (_TOUCHED * _states(student) + 2 * _LOGIT_COPIES * student.vocab_size)
    token_seconds = _THIN * flops / rates.flops + moved / rates.bytes
    calls = _CALL_SECONDS * student.num_hidden_layers
    training_seconds = training.steps * (training.passes * (tokens * token_seconds + calls) + _STEP_SECONDS)
    validation_seconds = training.validations * (training.validation_tokens * token_seconds / 2 + calls)
    kept = count * tokens * _states(student) + _LOGIT_COPIES * F32 * tokens * student.vocab_size
    memory = PROCESS + count * student.parameters + _HELD_BACK * (kept + _OPTIMISER * adapters) + F32 * fixed
    # The initial adapter, the exported one of rank 2 r, and the newest checkpoint with its optimiser.
    disk = (F32 + 2 * F32 + _CHECKPOINT) * adapters + count * head + 2 * F32 * fixed
    return Need(round(memory), disk, training_seconds + validation_seconds)


def _states(student: Anatomy) -> int:
    """Return how many numbers autograd keeps for one token: hidden and intermediate states, adapters' among them."""
    return student.num_hidden_layers * (16 * student.hidden_size + 8 * student.intermediate_size)


def estimate_evaluation(student: Anatomy, answering: Answering, rates: Rates, count: int = F32) -> Need:
    """Estimate the scoring of the test split, if every answer is as long as it may be.

    Args:
        student: its anatomy.
        answering: how much is evaluated.
        rates: what this machine does in a second.
        count: bytes of a number that is computed with.
    """
    size, batch = sizes_of(student), answering.batch
    tokens = answering.prompt_tokens + answering.batches * batch * answering.new_tokens
    flops = 2 * (size.layers + size.vocabulary) * tokens * _THIN
    steps = answering.batches * (1 + answering.new_tokens)
    # Every new token of a batch reads all weights once.
    step_seconds = _TOKEN_SECONDS * student.num_hidden_layers + count * (size.layers + size.vocabulary) / rates.bytes
    seconds = flops / rates.flops + steps * step_seconds + _ANSWER_SECONDS * answering.batches * batch
    cache = 2 * student.num_hidden_layers * student.num_key_value_heads * student.head_dim
    length = answering.longest + answering.new_tokens
    states = answering.longest * (10 * student.hidden_size + 5 * student.intermediate_size)
    kept = batch * (count * (length * cache + states) + 2 * F32 * student.vocab_size)
    memory = PROCESS + count * student.parameters + _HELD_BACK * kept
    return Need(round(memory), 0, answering.models * seconds + (answering.models - 1) * _stage_seconds(student, rates))


@dataclass(frozen=True)
class Shared:
    """What the training of one run takes that several processes share (FSDP2, see `training.sharded`).

    Attributes:
        first: bytes of the run's own process, which has the optimiser, and the whole student before and afterwards.
        other: bytes of each of the others.
        seconds: by the clock.
    """

    first: float
    other: float
    seconds: float


def estimate_shared(
    student: Anatomy, adapters: int, training: Training, rates: Rates, processes: int, count: int = F32, fixed: int = 0
) -> Shared:
    """Estimate a training that several processes share.

    Each holds its part of the frozen weights and gathers those of a layer when it reads its share of the examples, all
    of them twice a pass. The adapter is whole in every process, and travels there and back with every step.

    Args:
        student, adapters, training, count, fixed: as given to `estimate_finetuning`, of the whole training.
        rates: what each process does in a second while all of them compute.
        processes: how many there are.
    """
    size, each = sizes_of(student), 1 / processes
    rounds = math.ceil(training.passes * each)
    # Of a step, each process reads as many passes as there are rounds; of validation, its share of every pass.
    own = replace(
        training,
        passes=rounds,
        tokens=math.ceil(training.passes * training.tokens * each / rounds),
        validation_tokens=math.ceil(training.validation_tokens * each),
    )
    alone = estimate_finetuning(student, adapters, own, rates, count, fixed=fixed)
    weights, read = count * student.parameters, math.ceil(training.validation_tokens / max(1, training.tokens))
    gathers = 2 * training.steps * rounds + training.validations * read + 2  # given out at first, and back at the end
    moved = gathers * weights + 2 * training.steps * F32 * adapters
    seconds = alone.seconds + _START_SECONDS + _TRAVEL_SECONDS * moved
    # The output layer and the embedding stay whole from forward to backward.
    held = weights * each + count * (_GATHERED * size.largest_layer + size.vocabulary * (1 if student.tied else 2))
    states = alone.memory - PROCESS - weights  # what autograd keeps, and the adapter with its optimiser
    return Shared(
        PROCESS + max(weights, held) + states + 2 * F32 * adapters,
        PROCESS + held + states + (2 * F32 - _HELD_BACK * (_OPTIMISER - 2 * F32)) * adapters,
        seconds,
    )


def guess_shared(
    student: Anatomy,
    spec: RunSpec,
    rates: Rates,
    processes: int,
    device: str = "cpu",
    count: int = F32,
    seen: Glance | None = None,
) -> Shared:
    """Estimate the same by a glance at the task (see `guess_run`); one process has nothing to share."""
    trained, fixed = trained_parameters(student, spec), fixed_factors(student, spec)
    training = training_of(spec, seen or unseen(spec), device)
    if processes == 1:
        alone = estimate_finetuning(student, trained, training, rates, count, fixed=fixed)
        return Shared(alone.memory, 0.0, alone.seconds)
    return estimate_shared(student, trained, training, rates, processes, count, fixed)


@dataclass(frozen=True)
class PackShare:
    """What a run brings to a pack of runs that are trained in one pass (see `training.packed`), in bytes.

    Attributes:
        weights: the student's; a run keeps its own copy, which the start of its method may have changed.
        adapter: with gradients, two moments, and the factors that were taken off the weights.
        states: what autograd keeps of one pass of the run, the logits of its labels among them.
    """

    weights: float = 0.0
    adapter: float = 0.0
    states: float = 0.0


def pack_share(student: Anatomy, spec: RunSpec, tokens: int, labels: int, count: int = F32) -> PackShare:
    """Estimate what a run brings to a pack.

    Args:
        student: its anatomy.
        spec: of the run.
        tokens, labels: of its largest pass: tokens, padding included, and those that count in the loss.
        count: bytes of a number that the student computes with.
    """
    trained = trained_parameters(student, spec)
    states = count * tokens * _states(student) + _LOGIT_COPIES * F32 * labels * student.vocab_size
    adapter = (_OPTIMISER + F32) * trained + F32 * fixed_factors(student, spec)
    return PackShare(count * student.parameters, adapter, states)


def guess_pack_share(student: Anatomy, spec: RunSpec, device: str = "cpu", count: int = F32) -> PackShare:
    """Estimate the same without a look at the task, whose examples are taken to have `GUESSED_TOKENS` tokens."""
    rows = micro_batch_size(spec.finetuning, GUESSED_TOKENS, device)
    return pack_share(student, spec, rows * GUESSED_TOKENS, rows * GUESSED_TOKENS // 2, count)


def pack_bytes(runs: Sequence[PackShare], process: float = PROCESS) -> float:
    """Return the bytes that runs take at most which are trained in one pass.

    They share the process and one more copy of the student, through which the pass goes. What a run lacks to the
    longest pass is filled up, so that each takes as much for its states as the one with most.

    Args:
        runs: of the pack.
        process: resident bytes of a process that has loaded its libraries; 0 for what lies on a GPU.
    """
    own = sum(run.weights + run.adapter for run in runs)
    most = max((run.states for run in runs), default=0.0)
    return process + max((run.weights for run in runs), default=0.0) + own + _HELD_BACK * len(runs) * most


def packs_within(
    runs: Sequence[PackShare], room: float, process: float = PROCESS, most: int | None = None
) -> list[list[int]]:
    """Split runs, in their order, into packs that take no more memory than there is; returns their places.

    Args:
        runs: that would all be trained in one pass.
        room: bytes that the process may take. A run that takes more alone is alone: it may be lucky.
        process: see `pack_bytes`.
        most: runs of one pack.
    """
    packs: list[list[int]] = []
    for place, run in enumerate(runs):
        pack = packs[-1] if packs else []
        larger = [*(runs[other] for other in pack), run]
        if pack and len(larger) <= (most or len(larger)) and pack_bytes(larger, process) <= room:
            pack.append(place)
        else:
            packs.append([place])
    return packs
