"""Stage sensitivity: measure the teacher on seed samples, keep a store, reuse it while nothing upstream changed."""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paraknow_core.context import Context, Model, Reporter
from paraknow_core.display import memory
from paraknow_core.errors import DataError, RunError
from paraknow_core.memory import PeakMemory, anonymous_bytes, available_bytes, release
from paraknow_core.sensitivity.plan import (
    RELEASE_BEYOND,
    Rates,
    SensitivityPlan,
    batch_tokens,
    plan_sensitivity,
    sizes_of,
)
from paraknow_core.sensitivity.store import PARTS, TOTALS, SensitivityStore
from paraknow_core.sensitivity.work_folder import PROGRESS, disk_errors, own_folder
from paraknow_core.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from paraknow_core.sensitivity.build import Request, StoreBuilder
    from paraknow_core.tasks.templates import Encoded

VERSION = 1  # raise when the numbers a store holds would change
_DISK_RATE = 1.5e9  # bytes a second, assumed: most of a teacher is in the page cache, or on a fast disk


def sensitivity(context: Context, requests: "Sequence[Request]" = ()) -> SensitivityStore:
    """Return the teacher's sensitivity for the spec's seed samples, from the cache if it was measured before.

    Args:
        context: teacher, task and seed samples.
        requests: what to keep of a sensitivity that is not kept whole (see `methods.wanted`).
    """
    from paraknow_core.tasks.fitting import date_of

    spec, teacher, settings = context.spec, context.teacher, context.settings
    encoded, key = seed_key(context)
    keys = sorted({f"{request.role} {request.key}" for request in requests})
    store = _saved(context, key, keys)
    if store:
        return store
    plan = plan_for(teacher, settings, encoded, full=True if context.part else None)
    full = settings.keep == "full" or bool(context.part) or (settings.keep == "auto" and plan.way == "resident")
    name = key if full else f"{key}-{hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:8]}"
    with own_folder(context.place.sensitivity / name, context.report) as work:
        store = _saved(context, key, keys)  # somebody else may have measured it meanwhile
        if store:
            return store
        goes_on = plan.way == "streamed" and (work / PROGRESS).exists()
        context.report.event("plan", message=_sentence(plan, goes_on), plan=plan.to_dict())
        facts = {
            "version": VERSION,
            "key": key,
            "teacher": teacher.source.label,
            "task": context.seed_task.name,
            "template": spec.task.template,
            "fingerprint": teacher.fingerprint,
            "dtype": teacher.dtype,
            **({"left_out": context.left_out} if spec.task.too_long == "leave_out" else {}),
        }
        date = date_of([teacher.reader], context.seed_task)
        facts |= {"date": date} if date else {}
        with disk_errors(teacher.source.label):
            if (work / "store" / TOTALS).exists():  # a kill came between its last file and its place
                shutil.rmtree(work / "store" / PARTS, ignore_errors=True)
            else:
                _refuse_full_disk(plan, work, full)
                kept = {"full": full, "requests": () if full else requests}
                measure(teacher, encoded, work, context.report, facts, plan=plan, **kept)
        teacher.refuse_replaced()
        final = context.place.sensitivity / name
        shutil.rmtree(final, ignore_errors=True)
        (work / "store").rename(final)
    return SensitivityStore(final)


def seed_key(context: Context) -> "tuple[list[Encoded], str]":
    """Return the tokenised seed samples of a context (of its part of them), and the key of their sensitivity.

    Raises:
        DataError: the part holds no sample.
    """
    teacher = context.teacher
    encoded = list(context.encode(context.seed_samples, teacher, context.seed_task))
    if context.part:
        number, of = context.part
        if len(encoded) < of:
            raise DataError(
                f"part {number}/{of}: there are {len(encoded)} seed samples; make fewer parts, or give more"
            )
        encoded = encoded[number - 1 :: of]
    if not encoded:
        raise DataError(f"{context.seed_task.name}: no seed sample has a token to predict; give longer examples")
    # All that the numbers depend on, and nothing else.
    samples = [[list(sample.input_ids), list(sample.labels)] for sample in encoded]
    upstream = [VERSION, teacher.fingerprint, teacher.dtype, samples]
    return encoded, hashlib.sha256(json.dumps(upstream).encode()).hexdigest()[:32]


def sample_digest(sample: "Encoded") -> str:
    """Name a seed sample by its tokens and labels: ids do not, windows of one text share theirs."""
    return hashlib.sha256(json.dumps([list(sample.input_ids), list(sample.labels)]).encode()).hexdigest()[:16]


def measure(
    teacher: Model,
    encoded: "Sequence[Encoded]",
    work: Path,
    report: Reporter,
    facts: dict[str, Any],
    *,
    plan: SensitivityPlan,
    full: bool,
    requests: "Sequence[Request]" = (),
) -> None:
    """Measure the sensitivity of every teacher parameter and leave a store in `work`/store.

    Args:
        teacher: its weights are read here, whole or layer by layer, and let go of again.
        encoded: the seed samples, tokenised with the teacher's tokenizer.
        work: an existing folder; an interrupted streamed measurement in it is continued.
        report: told of the progress; may stop the work.
        facts: copied into sensitivity.json.
        plan: which way, and what it should take.
        full: keep S of every parameter.
        requests: what to keep of it besides.

    Raises:
        NumericError: a loss or sum is not finite. RunError: no room on the disk.
    """
    from paraknow_core.sensitivity.build import StoreBuilder

    if plan.way == "resident" or not (work / PROGRESS).exists():  # nobody goes on with what an earlier attempt left
        (work / PROGRESS).unlink(missing_ok=True)
        shutil.rmtree(work / "store", ignore_errors=True)
    began = time.monotonic()
    with PeakMemory(plan.device) as peak, _memory_errors(teacher, plan):
        builder = StoreBuilder(work / "store", teacher.anatomy, full=full, requests=requests)
        way = _streamed if plan.way == "streamed" else _resident
        losses = way(teacher, encoded, work, report, builder, plan)
    took = {"memory": peak.bytes, "seconds": round(time.monotonic() - began, 3)}
    builder.finish(
        {
            **facts,
            "samples": len(encoded),
            "sample_ids": [sample.id for sample in encoded],
            "sample_digests": [sample_digest(sample) for sample in encoded],
            "supervised_tokens": sum(label != -100 for sample in encoded for label in sample.labels),
            "losses": losses,
            "plan": plan.to_dict(),
            "measured": took,
        }
    )
    message = f"sensitivity: took {memory(took['memory'])} of memory and {took['seconds']:.0f} s"
    report.event("measured", message=message, **took)


def _streamed(
    teacher: Model,
    encoded: "Sequence[Encoded]",
    work: Path,
    report: Reporter,
    builder: "StoreBuilder",
    plan: SensitivityPlan,
) -> list[float]:
    import torch

    from paraknow_core.models.shards import Shards
    from paraknow_core.models.skeleton import Skeleton
    from paraknow_core.sensitivity.streaming import Stream

    shards = Shards(teacher.source, getattr(torch, teacher.dtype), plan.device)
    skeleton = Skeleton(teacher.source, teacher.anatomy, shards)
    return Stream(skeleton, encoded, work, builder, report, anonymous_bytes() + RELEASE_BEYOND).run()


def sample_loss(model: "PreTrainedModel", sample: "Encoded") -> "Tensor":
    """Return a model's loss on one sample: a scalar with a gradient, in nats per supervised token."""
    import torch

    ids = torch.tensor([sample.input_ids], device=model.device)
    labels = torch.tensor([sample.labels], device=model.device)
    return model(input_ids=ids, labels=labels, use_cache=False).loss


def _resident(
    teacher: Model,
    encoded: "Sequence[Encoded]",
    _work: Path,
    report: Reporter,
    builder: "StoreBuilder",
    plan: SensitivityPlan,
) -> list[float]:

    from paraknow_core.models.load import load_model
    from paraknow_core.ops.sensitivity import accumulate_sensitivity
    from paraknow_core.sensitivity.build import steps_of

    report.progress(0, len(encoded), "loading the teacher")
    model = load_model(teacher.source, device=plan.device, dtype=teacher.dtype)
    parameters = dict(model.named_parameters())  # norms and biases too: they count in a layer's score

    def on_sample(index: int, _loss: float) -> None:
        report.check_stop()
        report.progress(index + 1, len(encoded), "seed samples")

    sums, losses = accumulate_sensitivity(parameters, encoded, partial(sample_loss, model), on_sample, model)
    for name, part in steps_of(teacher.anatomy, list(sums)).items():
        builder.add(name, {parameter: sums.pop(parameter) for parameter in part})
    return losses


def _saved(context: Context, key: str, choices: Sequence[str]) -> SensitivityStore | None:
    """Return a saved store of these numbers: one that was kept whole, or one that holds these choices."""
    for folder in sorted(context.place.sensitivity.glob(f"{key}*")):
        store = SensitivityStore(folder)
        if not store.is_whole:
            message = f"the kept sensitivity {folder.name} is damaged; it is removed, and measured again where needed"
            context.report.event("warning", message=message)
            shutil.rmtree(folder, ignore_errors=True)
            continue
        modules, chosen = store.totals["modules"], store.totals.get("choices", {})
        held = {f"{modules[name]['role']} {key}" for name, of_module in chosen.items() for key in of_module}
        reduced = not context.part and context.settings.keep != "full"
        if store.has_full or (reduced and held.issuperset(choices)):
            return store
    return None


def plan_for(
    teacher: Model, settings: Settings, encoded: "Sequence[Encoded]", full: bool | None = None
) -> SensitivityPlan:
    """Measure this machine for half a second and plan the measurement of a teacher.

    Raises:
        RunError: the memory budget is too small even for streaming.
    """
    import torch

    from paraknow_core.models.load import import_architecture, pick_device
    from paraknow_core.ops.speed import measure_speed

    import_architecture(teacher.source)  # now, so that it counts as what is in memory already
    anatomy, device = teacher.anatomy, pick_device(settings.device)
    lengths = [len(sample.input_ids) for sample in encoded]
    typical, together = round(sum(lengths) / len(lengths)), batch_tokens(sizes_of(anatomy), lengths)
    dtype = getattr(torch, teacher.dtype)
    speed = measure_speed(dtype, device, together, anatomy.hidden_size, anatomy.intermediate_size, typical)
    release()
    on_gpu = device == "cuda"
    return plan_sensitivity(
        anatomy,
        lengths,
        sum(label != -100 for sample in encoded for label in sample.labels),
        device=device,
        dtype=teacher.dtype,
        budget=settings.memory_budget or (torch.cuda.mem_get_info()[0] if on_gpu else available_bytes()),
        base=0 if on_gpu else anonymous_bytes(),
        way={"auto": "auto", "always": "streamed", "never": "resident"}[settings.streaming],
        full=full if full is not None else {"full": True, "reductions": False, "auto": None}[settings.keep],
        rates=Rates(speed.flops, speed.bytes, _DISK_RATE, speed.fresh),
    )


def _sentence(plan: SensitivityPlan, goes_on: bool) -> str:
    need = plan.need
    duration = f", about {need.seconds:.0f} s" if need.seconds is not None else ""
    return (
        f"sensitivity: {plan.way} on {plan.device} ({plan.reason}); will take {memory(need.memory)} of memory and "
        f"{memory(need.disk)} of the workspace's disk{duration}{', of which a part is done' if goes_on else ''}"
    )


def _refuse_full_disk(plan: SensitivityPlan, work: Path, full: bool) -> None:
    written = sum(file.stat().st_size for file in work.rglob("*") if file.is_file())
    lacking = plan.need.disk - written - shutil.disk_usage(work).free
    if lacking > 0:
        raise RunError(
            f"disk: the sensitivity needs {memory(plan.need.disk)}, {memory(lacking)} more than the workspace has; "
            f"free some space{', keep only reductions,' if full else ''} or take fewer or shorter seed samples"
        )


@contextmanager
def _memory_errors(teacher: Model, plan: SensitivityPlan) -> Iterator[None]:
    """Turn memory that runs out, although it was planned for, into a sentence."""
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        remedy = "stream its layers (--streaming always)" if plan.way == "resident" else "give fewer or shorter samples"
        raise RunError(
            f"{teacher.source.label}: memory ran out on {plan.device} while its sensitivity was measured; {remedy}, or "
            "free some memory"
        ) from None
