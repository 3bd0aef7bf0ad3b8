"""Stage sensitivity: measure the teacher on seed samples, keep a store, reuse it while nothing upstream changed."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paraknow_core.paths import build_folder, write_json
from paraknow_core.sensitivity_store import FULL, REDUCTIONS, TOTALS, SensitivityStore
from paraknow_core.spec import GROUPS, ROLES
from paraknow_core.stages.context import Context, Model, Reporter

if TYPE_CHECKING:
    from torch import Tensor

    from paraknow_core.models.anatomy import Anatomy
    from paraknow_core.tasks.templates import Encoded

VERSION = 1  # raise when the numbers a store holds would change


def sensitivity(context: Context) -> SensitivityStore:
    """Return the teacher's sensitivity for the spec's seed samples, from the cache if it was computed before."""
    spec, teacher = context.spec, context.teacher
    encoded = context.encode(context.task.seed_samples(spec.sensitivity), teacher)
    key = sensitivity_key(teacher.fingerprint, encoded, context.settings.dtype)
    folder = context.place.sensitivity / key
    if not (folder / TOTALS).exists():
        with build_folder(folder) as building:
            provenance = {"teacher": teacher.source.label, "task": context.task.name, "template": spec.task.template}
            measure(teacher, encoded, building, context.report, provenance | {"key": key})
    return SensitivityStore(folder)


def sensitivity_key(fingerprint: str, encoded: "Sequence[Encoded]", dtype: str) -> str:
    """Return the cache key: a hash of all that the numbers depend on, and of nothing else."""
    upstream = [VERSION, fingerprint, dtype, [[list(e.input_ids), list(e.labels)] for e in encoded]]
    return hashlib.sha256(json.dumps(upstream).encode()).hexdigest()[:32]


def measure(
    teacher: Model, encoded: "Sequence[Encoded]", folder: Path, report: Reporter, provenance: dict[str, Any]
) -> None:
    """Compute the sensitivity of every teacher parameter and write a store into an existing folder.

    Args:
        teacher: its weights are loaded here and freed at the end.
        encoded: the seed samples, tokenised with the teacher's tokenizer.
        folder: where sensitivity.json, reductions.safetensors and sensitivity.safetensors go.
        report: told after every sample; may stop the work between samples.
        provenance: facts copied into sensitivity.json.

    Raises:
        NumericError: a loss or sum is not finite.
    """
    import torch
    from safetensors.torch import save_file

    from paraknow_core.models.logical import parameters_of
    from paraknow_core.ops.sensitivity import accumulate_sensitivity

    report.progress(0, len(encoded), "loading the teacher")
    model = teacher.load()
    parameters_of(model, teacher.anatomy)  # refuses a model that is not what its files said
    parameters = dict(model.named_parameters())  # norms and biases too: they count in a layer's score

    def loss_of(sample: "Encoded") -> "Tensor":
        ids = torch.tensor([sample.input_ids], device=model.device)
        labels = torch.tensor([sample.labels], device=model.device)
        return model(input_ids=ids, labels=labels, use_cache=False).loss

    def on_sample(index: int, _loss: float) -> None:
        report.check_stop()
        report.progress(index + 1, len(encoded), "seed samples")

    sums, losses = accumulate_sensitivity(parameters, encoded, loss_of, on_sample)
    sums = {name: total.cpu() for name, total in sums.items()}
    reductions, totals = reduce_all(sums, teacher.anatomy)
    save_file(reductions, folder / REDUCTIONS)
    save_file(sums, folder / FULL)
    tokens = sum(label != -100 for e in encoded for label in e.labels)
    write_json(folder / TOTALS, {
        "version": VERSION, **provenance, "samples": len(encoded), "sample_ids": [e.id for e in encoded],
        "supervised_tokens": tokens, "losses": losses, "fingerprint": teacher.fingerprint, **totals,
    })  # fmt: skip


def reduce_all(sums: "dict[str, Tensor]", anatomy: "Anatomy") -> "tuple[dict[str, Tensor], dict[str, Any]]":
    """Reduce full sensitivities to what pages and mappings read.

    Args:
        sums: parameter name to S, in stored shape.
        anatomy: the teacher's.

    Returns:
        Tensors for reductions.safetensors and the totals for sensitivity.json: by parameter, module, layer (norms and
        biases included), role and group (`other`: what belongs to no module).
    """
    import torch

    from paraknow_core.models.logical import logical_weight
    from paraknow_core.ops.metrics import block_reduce

    by_parameter = {name: _total(total) for name, total in sums.items()}
    everything = sum(by_parameter.values())
    layers: dict[int, float] = defaultdict(float)
    layer_of = {m.parameter: m.layer for m in anatomy.modules} | {p.name: p.layer for p in anatomy.other}
    for name, total in by_parameter.items():
        if layer_of.get(name) is not None:
            layers[layer_of[name]] += total
    modules, reductions = {}, {}
    roles, groups = dict.fromkeys(ROLES, 0.0), dict.fromkeys(GROUPS, 0.0)
    for module in anatomy.modules:
        score = logical_weight(sums[module.parameter], module)
        total = _total(score)
        modules[module.name] = {
            "role": module.role, "group": module.group, "layer": module.layer, "shape": list(module.shape),
            "sum": total, "mean": total / score.numel(), "share": total / everything if everything else 0.0,
        }  # fmt: skip
        roles[module.role] += total
        groups[module.group] += total
        reductions[f"{module.name}|rows"] = score.sum(1, dtype=torch.float64).float()
        reductions[f"{module.name}|cols"] = score.sum(0, dtype=torch.float64).float()
        reductions[f"{module.name}|map"] = block_reduce(score, 256, 256).float().contiguous()
    groups["other"] = everything - sum(groups.values())
    return reductions, {
        "total": everything,
        "layers": [layers[i] for i in range(anatomy.num_hidden_layers)],
        "roles": {role: total for role, total in roles.items() if any(m.role == role for m in anatomy.modules)},
        "groups": groups,
        "parameters": {n: {"sum": t, "shape": list(sums[n].shape)} for n, t in by_parameter.items()},
        "modules": modules,
    }


def _total(tensor: "Tensor") -> float:
    import torch

    return tensor.sum(dtype=torch.float64).item()
