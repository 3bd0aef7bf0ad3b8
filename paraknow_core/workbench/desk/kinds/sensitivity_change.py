"""Where a student's sensitivity lies before and after a run: the same few examples, without and with the adapter."""

from statistics import fmean
from typing import TYPE_CHECKING, Any

from paraknow_core.display import count, memory
from paraknow_core.errors import DataError, RunError
from paraknow_core.paths import Workspace, contained
from paraknow_core.runs.folder import RunFolder
from paraknow_core.settings import Settings

if TYPE_CHECKING:
    from paraknow_core.context import Context

MOST_SAMPLES = 16
_BYTES = 12  # a weight: value, gradient, sum


def answer(place: Workspace, settings: Settings, request: dict[str, Any]) -> dict[str, Any]:
    """Return S of every module of the student before and after.

    Args:
        place: the workspace.
        settings: of this machine.
        request: run (its id); samples (how many of the run's seed samples, at most 16); stamp (anything that changes
            with the run's adapter).

    Returns:
        samples; loss_before, loss_after (mean, nats per token); modules: name, role, layer, before, after (S summed
        over the module's weights).
    """
    from paraknow_core.context import Context

    run = RunFolder(contained(place.runs, request["run"]))
    if not run.file("spec.yaml").exists():
        raise RunError(f"run {run.id}: is not there any more; choose another one")
    context = Context(run.spec(), settings, place)
    _require_memory(context)
    wanted = max(1, min(MOST_SAMPLES, int(request["samples"])))
    seeds = context.seed_samples[:wanted]
    encoded = list(context.encode(seeds, context.student))[:wanted]
    if not encoded:
        raise DataError(f"{context.task.name}: no seed sample has a token to predict; give longer examples")
    before, losses_before = _measure(context, encoded, None)
    after, losses_after = _measure(context, encoded, run)
    modules = [
        {"module": m.name, "role": m.role, "layer": m.layer, "before": before[m.name], "after": after[m.name]}
        for m in context.student.anatomy.modules
        if m.name in before
    ]
    return {
        "samples": len(encoded),
        "loss_before": fmean(losses_before),
        "loss_after": fmean(losses_after),
        "modules": modules,
    }


def _require_memory(context: "Context") -> None:
    from paraknow_core.memory import available_bytes

    parameters = context.student.anatomy.parameters
    if _BYTES * parameters > available_bytes():
        raise RunError(
            f"{context.student.source.label}: measuring its {count(parameters)} weights here takes about "
            f"{memory(_BYTES * parameters)}, and {memory(available_bytes())} are free; use a machine with more memory"
        )


def _measure(context: "Context", encoded: list, run: RunFolder | None) -> tuple[dict[str, float], list[float]]:
    """Return S by module and the losses, of the untouched student or with a run's change in its weights."""
    import torch

    from paraknow_core.models.load import parameters_of
    from paraknow_core.models.modules import logical_weight
    from paraknow_core.ops.metrics import total
    from paraknow_core.ops.sensitivity import accumulate_sensitivity

    model, anatomy = context.student.load(), context.student.anatomy
    held = parameters_of(model, anatomy)
    if run is not None:
        _apply(run, held, anatomy)

    def loss_of(sample: Any) -> Any:
        ids = torch.tensor([sample.input_ids], device=model.device)
        labels = torch.tensor([sample.labels], device=model.device)
        return model(input_ids=ids, labels=labels, use_cache=False).loss

    parameters = dict(model.named_parameters())
    sums, losses = accumulate_sensitivity(parameters, encoded, loss_of, lambda *_: None, model)
    found = {m.name: total(logical_weight(sums[m.parameter], m)) for m in anatomy.modules if m.parameter in sums}
    return found, [float(loss) for loss in losses]


def _apply(run: RunFolder, held: dict[str, Any], anatomy: Any) -> None:
    """Add a run's whole change to the student's weights, as its adapter would when merged."""
    from paraknow_core.adapters.saved import saved_changes
    from paraknow_core.models.modules import add_product_

    for change in saved_changes(run.path, anatomy):
        b, a = change.total
        if change.module.role == "embed":
            b, a = a.T, b.T
        add_product_(held[change.module.parameter], change.module, b, a)
