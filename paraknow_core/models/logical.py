"""From stored parameters to logical weights and back: slices of fused parameters, transposed storage. Needs torch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from paraknow_core.errors import ModelError
from paraknow_core.models.anatomy import Anatomy
from paraknow_core.models.modules import LogicalModule, stored_shapes

if TYPE_CHECKING:
    from torch import Tensor, nn


def logical_weight(parameter: "Tensor", module: LogicalModule) -> "Tensor":
    """Return a module's own weight in logical orientation.

    Args:
        parameter: the stored parameter `module.parameter`.
        module: which part of it.

    Returns:
        (out_features, in_features); a view of the parameter, except for rows that are interleaved (a copy).
        Gradients flow to the parameter.
    """
    return _window(parameter, module).reshape(module.shape)


def add_product_(parameter: "Tensor", module: LogicalModule, b: "Tensor", a: "Tensor") -> None:
    """Add b @ a to a module's part of the stored parameter, in place, without recording gradients.

    The product is made in float64 a few rows at a time: whole, it would be four times a 16-bit weight.

    Args:
        parameter: the stored parameter `module.parameter`.
        module: which part of it.
        b: (out_features, r); a: (r, in_features); moved to the parameter's device.

    Raises:
        ModelError: the shapes differ.
    """
    import torch

    from paraknow_core.ops.chunks import row_slices

    _require_shape(module, (b.shape[0], a.shape[1]))
    b, a = (factor.detach().to(parameter.device, torch.float64) for factor in (b, a))
    with torch.no_grad():
        window = _window(parameter, module)
        parts = window if window.ndim == 3 else window[None]
        for part, factor in zip(parts, b.split(parts.shape[1]), strict=True):
            for rows in row_slices(*part.shape, part.device):
                part[rows].add_(factor[rows] @ a)


def parameters_of(model: "nn.Module", anatomy: Anatomy) -> "dict[str, nn.Parameter]":
    """Return the parameters that hold logical modules, by `LogicalModule.parameter`, checked against the anatomy.

    Raises:
        ModelError: a parameter is missing or has another shape; names it.
    """
    present = dict(model.named_parameters(remove_duplicate=False))
    found = {}
    for name, shape in stored_shapes(anatomy.modules).items():
        if name not in present:
            raise ModelError(f"{anatomy.label}: the loaded model has no parameter {name}; load the model unmodified")
        if tuple(present[name].shape) != shape:
            raise ModelError(
                f"{anatomy.label}: the loaded {name} has shape {tuple(present[name].shape)}, its file says {shape}; "
                "load the model unmodified"
            )
        found[name] = present[name]
    return found


def _require_shape(module: LogicalModule, shape: Sequence[int]) -> None:
    if tuple(shape) != module.shape:
        raise ModelError(f"{module.name}: an update of shape {tuple(shape)} does not fit {module.shape}; check it")


def _window(parameter: "Tensor", module: LogicalModule) -> "Tensor":
    """Return a view of the module's rows: (out, in), or (count, block, in) where blocks lie apart."""
    oriented = parameter.t() if module.transposed else parameter
    rows = module.rows
    if rows is None:
        return oriented
    if rows.count == 1:
        return oriented.narrow(0, rows.offset, rows.block)
    return oriented.unflatten(0, (rows.count, rows.stride)).narrow(1, rows.offset, rows.block)
