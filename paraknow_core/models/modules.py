"""The logical modules of a model: one weight with one role, always thought of as (out_features, in_features).

Where a family fuses several roles into one stored parameter, each gets its own logical module that says which rows are
its own.
"""

from collections import Counter
from dataclasses import dataclass

from paraknow_core.models.dimensions import Dimensions
from paraknow_core.spec import GROUP_OF_ROLE, ROLES

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


def _layer_modules(size: Dimensions, index: int) -> list[LogicalModule]:
    family, base = size.family, f"{size.family.layers}.{index}"
    found = {role: _module(size, role, index, f"{base}.{path}", None) for role, path in family.separate.items()}
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
            found[role] = _module(size, role, index, f"{base}.{path}", blocks)
    return [found[role] for role in ROLES if role in found]


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


def stored_shapes(modules: tuple[LogicalModule, ...]) -> dict[str, tuple[int, int]]:
    """Return parameter name -> the shape it must have in storage, fused parts summed, transposition applied."""
    rows: Counter = Counter()
    shapes = {}
    for module in modules:
        rows[module.parameter] += module.shape[0]
        shape = (rows[module.parameter], module.shape[1])
        shapes[module.parameter] = shape[::-1] if module.transposed else shape
    return shapes
