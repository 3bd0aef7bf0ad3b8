"""The parameters of a model: its logical modules, each one weight with one role, and what it holds besides them.

A logical module is always thought of as (out_features, in_features). Where a family fuses several roles into one
stored parameter, each gets its own logical module that says which rows are its own; `logical_weight` and
`add_product_` lead from stored parameters to logical weights and back. Listing needs no torch.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paraknow_core.errors import ModelError
from paraknow_core.models.config import Dimensions
from paraknow_core.spec import GROUP_OF_ROLE, ROLES

if TYPE_CHECKING:
    from torch import Tensor

ATTENTION_ROLES = ("q", "k", "v", "o")


@dataclass(frozen=True)
class RowBlocks:
    """Rows of a stored parameter (along its out dimension): `count` blocks of `block` rows, `stride` rows apart."""

    offset: int
    block: int
    stride: int
    count: int

    @property
    def rows(self) -> int:
        return self.block * self.count


@dataclass(frozen=True)
class LogicalModule:
    """One weight with one role.

    Attributes:
        name: module path; for a part of a fused module its path and the role, e.g. `...self_attn.qkv_proj.q`.
        role, group: see the spec's ROLES and GROUPS.
        layer: index, or None for the embeddings.
        shape: (out_features, in_features); for embed and head (vocabulary, hidden).
        parameter: name of the parameter in memory.
        host: path of the module that holds it, the target module of an adapter.
        rows: the rows of a fused parameter that belong to this module; None: all.
        transposed: stored as (in_features, out_features).
        head_size, heads: for q, k, v, o: size and number of (key-value) heads along the head dimension.
    """

    name: str
    role: str
    group: str
    layer: int | None
    shape: tuple[int, int]
    parameter: str
    host: str
    rows: RowBlocks | None = None
    transposed: bool = False
    head_size: int | None = None
    heads: int | None = None


def logical_modules(size: Dimensions) -> tuple[LogicalModule, ...]:
    """List the modules a model of this size has: the embedding, the layers in order, the head (unless tied)."""
    vocabulary = (size.vocab_size, size.embedding_size)
    ends = [
        LogicalModule(path, role, GROUP_OF_ROLE[role], None, vocabulary, f"{path}.weight", path)
        for role, path in (("embed", size.family.embed), ("head", size.family.head))
    ]
    layers = [module for index in range(size.num_hidden_layers) for module in _layer_modules(size, index)]
    return (ends[0], *layers) if size.tied else (ends[0], *layers, ends[1])


def other_shapes(size: Dimensions, modules: Iterable[LogicalModule]) -> dict[str, tuple[int, ...]]:
    """Return name in memory -> shape of every parameter that is no module's weight: norms, biases, tables.

    With it the headers of a checkpoint tell what is missing or too much, without torch.

    Args:
        size: the config's numbers.
        modules: all logical modules of the model.
    """
    family, shapes = size.family, {}

    def norms(kind: str, paths: Iterable[str], width: int) -> None:
        if all((key.removeprefix("!") in size.flags) != key.startswith("!") for key in family.needs.get(kind, ())):
            parts = ("weight", "bias") if family.norm == "layer norm" else ("weight",)
            shapes.update({f"{path}.{part}": (width,) for path in paths for part in parts})

    layers = [f"{family.layers}.{index}" for index in range(size.num_hidden_layers)]
    norms("norms", [f"{layer}.{path}" for layer in layers for path in family.norms], size.hidden_size)
    norms("head_norms", [f"{layer}.{path}" for layer in layers for path in family.head_norms], size.head_dim)
    norms("last_norm", [f"{family.prefix}.{family.last_norm}"], size.hidden_size)
    rows: Counter = Counter()
    for module in modules:
        if module.layer is not None and family.biased.get(module.role) in size.flags:
            rows[f"{module.host}.bias"] += module.shape[0]
    shapes |= {name: (count,) for name, count in rows.items()}
    if family.head_bias:
        shapes[f"{family.head}.bias"] = (size.vocab_size,)
    if family.position_table:
        positions = size.max_position_embeddings + family.extra_positions
        shapes[f"{family.position_table}.weight"] = (positions, size.hidden_size)
    for path, ends in family.projections.items():
        shape = tuple(getattr(size, end) for end in ends)
        if shape[0] != shape[1]:
            shapes[f"{path}.weight"] = shape
    return shapes


def stored_shapes(modules: Iterable[LogicalModule]) -> dict[str, tuple[int, int]]:
    """Return parameter name -> the shape it must have in storage, fused parts summed, transposition applied."""
    rows: Counter = Counter()
    shapes = {}
    for module in modules:
        rows[module.parameter] += module.shape[0]
        shape = (rows[module.parameter], module.shape[1])
        shapes[module.parameter] = shape[::-1] if module.transposed else shape
    return shapes


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

    if (b.shape[0], a.shape[1]) != module.shape:
        shape = (b.shape[0], a.shape[1])
        raise ModelError(f"{module.name}: an update of shape {shape} does not fit {module.shape}; check it")
    b, a = (factor.detach().to(parameter.device, torch.float64) for factor in (b, a))
    with torch.no_grad():
        window = _window(parameter, module)
        parts = window if window.ndim == 3 else window[None]
        for part, factor in zip(parts, b.split(parts.shape[1]), strict=True):
            for rows in row_slices(*part.shape, part.device):
                part[rows].add_(factor[rows] @ a)


def _layer_modules(size: Dimensions, index: int) -> list[LogicalModule]:
    family, base = size.family, f"{size.family.layers}.{index}"
    modules = {role: _module(size, role, index, f"{base}.{path}", None) for role, path in family.separate.items()}
    for path, roles in family.fused.items():
        offset = 0
        for position, role in enumerate(roles):
            rows = _shape(role, size)[0]
            if family.interleaved:
                block = rows // size.num_attention_heads
                blocks = RowBlocks(position * block, block, len(roles) * block, size.num_attention_heads)
            else:
                blocks = RowBlocks(offset, rows, rows, 1)
            offset += rows
            modules[role] = _module(size, role, index, f"{base}.{path}", blocks)
    return [modules[role] for role in ROLES if role in modules]


def _module(size: Dimensions, role: str, layer: int, host: str, rows: RowBlocks | None) -> LogicalModule:
    heads = {"q": size.num_attention_heads, "o": size.num_attention_heads}.get(role, size.num_key_value_heads)
    has_heads = role in ATTENTION_ROLES
    return LogicalModule(
        name=f"{host}.{role}" if rows else host,
        role=role,
        group=GROUP_OF_ROLE[role],
        layer=layer,
        shape=_shape(role, size),
        parameter=f"{host}.weight",
        host=host,
        rows=rows,
        transposed=size.family.transposed,
        head_size=size.head_dim if has_heads else None,
        heads=heads if has_heads else None,
    )


def _shape(role: str, size: Dimensions) -> tuple[int, int]:
    """Return (out_features, in_features) of a role inside a layer."""
    hidden, inner = size.hidden_size, size.intermediate_size
    query, key_value = size.num_attention_heads * size.head_dim, size.num_key_value_heads * size.head_dim
    return {
        "q": (query, hidden),
        "k": (key_value, hidden),
        "v": (key_value, hidden),
        "o": (hidden, query),
        "gate": (inner, hidden),
        "up": (inner, hidden),
        "down": (hidden, inner),
    }[role]


def _window(parameter: "Tensor", module: LogicalModule) -> "Tensor":
    """Return a view of the module's rows: (out, in), or (count, block, in) where blocks lie apart."""
    oriented = parameter.t() if module.transposed else parameter
    rows = module.rows
    if rows is None:
        return oriented
    if rows.count == 1:
        return oriented.narrow(0, rows.offset, rows.block)
    return oriented.unflatten(0, (rows.count, rows.stride)).narrow(1, rows.offset, rows.block)
