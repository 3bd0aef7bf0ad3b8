"""From full sensitivities to a store: each layer's S is reduced, asked for what a method wants of it, and freed."""

import math
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from paraknow_core.errors import NumericError
from paraknow_core.files.atomic import usual_rights
from paraknow_core.files.json_file import read_json, write_json
from paraknow_core.files.tensor_file import TensorFile
from paraknow_core.models.anatomy import Anatomy
from paraknow_core.models.modules import LogicalModule, logical_weight, stored_shapes
from paraknow_core.ops.metrics import profile, total
from paraknow_core.sensitivity.plan import MAP_SIZE
from paraknow_core.sensitivity.store import CHOICES, FULL, PARTS, REDUCTIONS, TOTALS
from paraknow_core.spec import GROUPS, ROLES


@dataclass(frozen=True)
class Request:
    """Something to take from every teacher module of a role while its sensitivity is in memory, and to keep.

    Attributes:
        role: of the modules.
        key: names it in the store; holds all it depends on beside a module's sensitivity.
        take: (module, its (rows, cols) sensitivity) -> small tensors and plain JSON values; `SensitivityStore.choice`
            reads them back.
    """

    role: str
    key: str
    take: Callable[[LogicalModule, Tensor], tuple[dict[str, Tensor], dict[str, Any]]]


class StoreBuilder:
    """Writes a store part by part; a part that is there already, from before a kill, is written again unharmed."""

    def __init__(self, folder: Path, anatomy: Anatomy, *, full: bool, requests: Sequence[Request] = ()) -> None:
        """Args: the store's folder; the teacher's anatomy; keep S whole; what to keep of it besides.

        Raises:
            RunError: the disk has no room for the whole S.
        """
        self.folder, self.anatomy, self.requests = folder, anatomy, requests
        self._parts = folder / PARTS
        self._parts.mkdir(parents=True, exist_ok=True)
        self._full = TensorFile(folder / FULL, full_layout(anatomy)) if full else None
        self._written: list[Path] = []  # since the last `sync`

    def add(self, name: str, sums: Mapping[str, Tensor]) -> None:
        """Take S of some parameters (name -> S in stored shape); all logical modules of a parameter come with it.

        Raises:
            NumericError: S is not finite.
        """
        reductions: dict[str, Tensor] = {}
        arrays: dict[str, Tensor] = {}
        modules, choices = {}, {}
        of_parameter: dict[str, float] = defaultdict(float)
        for module in self.anatomy.modules:
            if module.parameter not in sums:
                continue
            score = logical_weight(sums[module.parameter], module)
            profiles = dict(zip(("rows", "cols", "map"), profile(score, MAP_SIZE), strict=True))
            of_module = _finite(profiles["rows"].sum().item(), module.parameter)
            modules[module.name] = {"sum": of_module, "mean": of_module / score.numel()}
            of_parameter[module.parameter] += of_module
            reductions |= {f"{module.name}|{key}": tensor.float().cpu() for key, tensor in profiles.items()}
            for request in self.requests:
                if request.role != module.role:
                    continue
                tensors, record = request.take(module, score)
                names = {kind: f"{module.name}|{request.key}|{kind}" for kind in tensors}
                arrays |= {names[kind]: tensor.contiguous() for kind, tensor in tensors.items()}
                record |= {"file": f"{name}.safetensors", "arrays": names}
                choices.setdefault(module.name, {})[request.key] = record
        if self._full is not None:
            for parameter, tensor in sums.items():
                self._full[parameter].copy_(tensor)
        self._save(reductions, self._parts / f"{name}.safetensors")
        if arrays:
            (self.folder / CHOICES).mkdir(exist_ok=True)
            self._save(arrays, self.folder / CHOICES / f"{name}.safetensors")
        # Logical modules share a fused parameter without overlap or rest, so that theirs add up to its total.
        for parameter in [name for name in sums if name not in of_parameter]:
            of_parameter[parameter] = _finite(total(sums[parameter]), parameter)
        parameters = {p: {"sum": of_parameter[p], "shape": list(tensor.shape)} for p, tensor in sums.items()}
        facts = {"parameters": parameters, "modules": modules, "choices": choices}
        write_json(self._parts / f"{name}.json", facts, durable=False)
        self._written.append(self._parts / f"{name}.json")

    def sync(self) -> None:
        """Return when the disk has every part so far; a kill of the process loses none in any case."""
        if self._full is not None:
            self._full.flush()
        for path in self._written:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        self._written.clear()

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Put the parts together: reductions.safetensors, and last sensitivity.json with these facts and all totals."""
        self._written = [path for path in self._written if path.parent != self._parts]  # those are gone in a moment
        self.sync()
        tensors = {k: v for path in sorted(self._parts.glob("*.safetensors")) for k, v in load_file(path).items()}
        save_file(tensors, self.folder / REDUCTIONS)
        usual_rights(self.folder / REDUCTIONS)
        merged: dict[str, dict] = {"parameters": {}, "modules": {}, "choices": {}}
        for path in sorted(self._parts.glob("*.json")):
            part = read_json(path)
            for key, values in merged.items():
                values |= part[key]
        parameters = {name: merged["parameters"][name] for name in full_layout(self.anatomy)}
        totals = _totals(self.anatomy, parameters, merged["modules"])
        choices = {"choices": merged["choices"]} if merged["choices"] else {}
        write_json(self.folder / TOTALS, {**facts, **totals, **choices})
        shutil.rmtree(self._parts)

    def _save(self, tensors: dict[str, Tensor], path: Path) -> None:
        save_file(tensors, path)
        usual_rights(path)
        self._written.append(path)


def _finite(value: float, parameter: str) -> float:
    if not math.isfinite(value):
        raise NumericError(f"sensitivity of {parameter}: not finite; compute in float32 or check the weights")
    return value


def full_layout(anatomy: Anatomy) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Describe the file that holds S of every parameter."""
    shapes = {**stored_shapes(anatomy.modules), **{other.name: other.shape for other in anatomy.other}}
    return {name: (torch.float32, tuple(shape)) for name, shape in shapes.items()}


def steps_of(anatomy: Anatomy, names: Sequence[str]) -> dict[str, list[str]]:
    """Group parameter names as a streamed measurement hands them over: by layer, and what is outside the layers."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        layer = anatomy.layer_of.get(name)
        groups["outside" if layer is None else f"layer-{layer}"].append(name)
    return dict(groups)


def _totals(anatomy: Anatomy, parameters: Mapping[str, dict], sums: Mapping[str, dict]) -> dict[str, Any]:
    """Return totals by parameter, module, layer (norms and biases included), role and group (`other`: no module's)."""
    everything = sum(parameter["sum"] for parameter in parameters.values())
    layers: dict[int | None, float] = defaultdict(float)  # None: outside of the layers
    for name, parameter in parameters.items():
        layers[anatomy.layer_of.get(name)] += parameter["sum"]
    modules = {}
    roles, groups = dict.fromkeys(ROLES, 0.0), dict.fromkeys(GROUPS, 0.0)
    for module in anatomy.modules:
        own = sums[module.name]
        modules[module.name] = {
            "role": module.role,
            "group": module.group,
            "layer": module.layer,
            "shape": list(module.shape),
            **own,
            "share": own["sum"] / everything if everything else 0.0,
        }
        roles[module.role] += own["sum"]
        groups[module.group] += own["sum"]
    groups["other"] = everything - sum(groups.values())
    return {
        "total": everything,
        "layers": [layers[i] for i in range(anatomy.num_hidden_layers)],
        "roles": {role: total for role, total in roles.items() if any(m.role == role for m in anatomy.modules)},
        "groups": groups,
        "parameters": parameters,
        "modules": modules,
    }
