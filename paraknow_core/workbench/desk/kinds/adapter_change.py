"""Where a run moved its student's weights, and how much of that lies where its adapter began."""

from functools import lru_cache
from typing import Any

from paraknow_core.errors import RunError
from paraknow_core.paths import Workspace, contained
from paraknow_core.runs.folder import RunFolder
from paraknow_core.settings import Settings
from paraknow_core.spec import ModelSpec


def answer(place: Workspace, settings: Settings, request: dict[str, Any]) -> dict[str, Any]:
    """Return one record a module.

    Args:
        place: the workspace.
        settings: of this machine.
        request: run (its id); stamp (anything that changes with the run's adapter).

    Returns:
        modules: name, role, layer, shape, weight (Frobenius norm of the untouched weight), change and trained (norms of
        the whole change and of what fine-tuning alone did), and of the latter in_share, out_share (captured by the
        initial adapter's inputs and outputs), in_chance, out_chance (of a random subspace of that size), in_cosine,
        out_cosine (mean cosine of the principal angles between first and last factors).
    """
    from paraknow_core.adapters.saved import saved_changes
    from paraknow_core.context import Context

    run = RunFolder(contained(place.runs, request["run"]))
    if not run.file("spec.yaml").exists():
        raise RunError(f"run {run.id}: is not there any more; choose another one")
    student = Context(run.spec(), settings, place).student
    changes = list(saved_changes(run.path, student.anatomy))
    norms = _weight_norms(str(place.root), run.spec().student, settings, student.fingerprint)
    return {"modules": [_record(change, norms[change.module.name]) for change in changes]}


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


@lru_cache(maxsize=4)
def _weight_norms(root: str, spec: ModelSpec, settings: Settings, fingerprint: str) -> dict[str, float]:
    """Return the Frobenius norm of every module of a student; read once, whatever the number of runs."""
    from pathlib import Path

    from paraknow_core.context import Model
    from paraknow_core.models.modules import logical_weight
    from paraknow_core.ops.metrics import sum_of_squares

    del fingerprint  # only part of the key under which the answer is kept
    model = Model(spec, settings, Workspace(Path(root)))
    weights = model.weights()
    return {m.name: sum_of_squares(logical_weight(weights[m.parameter], m)) ** 0.5 for m in model.anatomy.modules}
