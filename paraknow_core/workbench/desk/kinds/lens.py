"""Questions about a finished run: where it moved its student's weights, and where the student's sensitivity lies."""

from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

from paraknow_core.errors import DataError, RunError
from paraknow_core.paths import Workspace, contained
from paraknow_core.runs.folder import RunFolder
from paraknow_core.settings import Settings
from paraknow_core.spec import ModelSpec
from paraknow_core.workbench.desk import requests
from paraknow_core.workbench.desk.kinds.known import kept

if TYPE_CHECKING:
    from paraknow_core.context import Context

MOST_SAMPLES = 16
BYTES_A_WEIGHT = 12  # value, gradient, sum


def adapter_change(place: Workspace, settings: Settings, question: requests.AdapterChange) -> dict[str, Any]:
    """Return where a run moved its student's weights, and how much of that lies where its adapter began.

    Returns:
        modules: name, role, layer, shape, weight (Frobenius norm of the untouched weight), change and trained (norms of
        the whole change and of what fine-tuning alone did), and of the latter in_share, out_share (captured by the
        initial adapter's inputs and outputs), in_chance, out_chance (of a random subspace of that size), in_cosine,
        out_cosine (mean cosine of the principal angles between first and last factors).
    """
    from paraknow_core.adapters.saved import saved_changes

    run, context = _run(place, settings, question.run)
    changes = list(saved_changes(run.path, context.student.anatomy))
    norms = _weight_norms(context.spec.student, settings, place)
    return {"modules": [_record(change, norms[change.module.name]) for change in changes]}


def _run(place: Workspace, settings: Settings, name: str) -> "tuple[RunFolder, Context]":
    from paraknow_core.context import Context

    run = RunFolder(contained(place.runs, name))
    if not run.file("spec.yaml").exists():
        raise RunError(f"run {run.id}: is not there any more; choose another one")
    return run, Context(run.spec(), settings, place)


def _record(change: Any, weight: float) -> dict[str, Any]:
    from paraknow_core.ops.low_rank import captured_share, column_basis, mean_cosine, product_norm

    (b0, a0), (b1, a1) = change.first, change.last
    outputs, inputs = column_basis(b0), column_basis(a0.T)
    return {
        "module": change.module.name,
        "role": change.module.role,
        "layer": change.module.layer,
        "shape": list(change.module.shape),
        "weight": weight,
        "change": product_norm(*change.total),
        "trained": product_norm(*change.trained),
        "in_share": captured_share(*change.trained, inputs, "in"),
        "out_share": captured_share(*change.trained, outputs, "out"),
        "in_chance": inputs.shape[1] / inputs.shape[0],
        "out_chance": outputs.shape[1] / outputs.shape[0],
        "in_cosine": mean_cosine(a1.T, a0.T),
        "out_cosine": mean_cosine(b1, b0),
    }


@kept(4)
def _weight_norms(student: ModelSpec, settings: Settings, place: Workspace) -> dict[str, float]:
    """Return the Frobenius norm of every module of a student; read once, whatever the number of runs."""
    from paraknow_core.context import Model
    from paraknow_core.models.modules import logical_weight
    from paraknow_core.ops.metrics import sum_of_squares

    model = Model(student, settings, place)
    weights = model.weights()
    return {m.name: sum_of_squares(logical_weight(weights[m.parameter], m)) ** 0.5 for m in model.anatomy.modules}


def sensitivity_change(place: Workspace, settings: Settings, question: requests.SensitivityChange) -> dict[str, Any]:
    """Measure a student's sensitivity on the same few examples without and with a run's adapter.

    Returns:
        samples; loss_before, loss_after (mean, nats per token); modules: name, role, layer, before, after (S summed
        over the module's weights).
    """
    run, context = _run(place, settings, question.run)
    context.student.require_memory(BYTES_A_WEIGHT, "measuring")
    number = max(1, min(MOST_SAMPLES, question.samples))
    encoded = list(context.encode(context.seed_samples[:number], context.student, context.seed_task))[:number]
    if not encoded:
        raise DataError(f"{context.seed_task.name}: no seed sample has a token to predict; give longer examples")
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


def causal_check(place: Workspace, settings: Settings, question: requests.CausalCheck) -> dict[str, Any]:
    """Return what each edit of a run's change costs: see `training.causal.causal_check`."""
    from paraknow_core.training import causal

    run, context = _run(place, settings, question.run)
    return causal.causal_check(context, run, by=question.by, examples=question.examples)


def _measure(context: "Context", encoded: list, run: RunFolder | None) -> tuple[dict[str, float], list[float]]:
    """Return S by module and the losses, of the untouched student or with a run's change in its weights."""

    from paraknow_core.models.load import parameters_of
    from paraknow_core.models.modules import logical_weight
    from paraknow_core.ops.metrics import total
    from paraknow_core.ops.sensitivity import accumulate_sensitivity
    from paraknow_core.sensitivity.measure import sample_loss

    model, anatomy = context.student.load(), context.student.anatomy
    if run is not None:
        _apply(run, parameters_of(model, anatomy), anatomy)

    parameters = dict(model.named_parameters())
    sums, losses = accumulate_sensitivity(parameters, encoded, partial(sample_loss, model), lambda *_: None, model)
    totals = {m.name: total(logical_weight(sums[m.parameter], m)) for m in anatomy.modules if m.parameter in sums}
    return totals, [float(loss) for loss in losses]


def _apply(run: RunFolder, parameters: dict[str, Any], anatomy: Any) -> None:
    """Add a run's whole change to the student's weights, as its adapter would when merged."""
    from paraknow_core.adapters.saved import saved_changes
    from paraknow_core.models.modules import add_product_

    for change in saved_changes(run.path, anatomy):
        b, a = change.total
        if change.module.role == "embed":
            b, a = a.T, b.T
        add_product_(parameters[change.module.parameter], change.module, b, a)
