"""Rotary positions that depend on the length of a text: every text gets the table it gets when it is alone.

Two kinds change with the length: "longrope" (Phi-3) has one table for short and one for long texts, "dynamic" scales
its table by the length beyond the one it was trained with. transformers takes the length of the longest row of a
batch, and "dynamic" that of any earlier batch. Here each row counts by itself, and nothing is remembered. Needs torch.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

_KINDS = ("longrope", "dynamic")


def tables_of_their_own(model: nn.Module) -> "list[OwnTables]":
    """Have each row of a batch use the table of its own length, which its largest position tells.

    Args:
        model: any model; one whose positions do not depend on the length stays as it is.

    Returns:
        The modules that make such tables; empty for most models.
    """
    makers = [part for part in model.modules() if hasattr(part, "original_max_seq_len") and any(_kinds(part).values())]
    for part in makers:
        if not isinstance(part, OwnTables):
            part.__class__ = _own(type(part))
    return makers


def lengths_matter(model: nn.Module) -> bool:
    """Return whether a text's length changes its rotary table, so that rows need their own `position_ids`."""
    return bool(tables_of_their_own(model))


def table_of(makers: "list[OwnTables]", length: int) -> tuple[int, ...]:
    """Name the tables of a text of so many tokens: texts whose names are equal share all tables.

    Keys in a cache are of the tables they were made with. A text that grows into other tables needs a new cache.
    """
    return tuple(part.table_of(layer_type, length) for part in makers for layer_type in _kinds(part))


class OwnTables(nn.Module):
    """What `tables_of_their_own` makes of a module of transformers."""

    def forward(self, x: Tensor, position_ids: Tensor, layer_type: str | None = None) -> tuple[Tensor, Tensor]:
        """Return cosines and sines, each (rows, tokens, width), for positions (rows, tokens)."""
        more = () if layer_type is None else (layer_type,)
        kinds = _kinds(self)
        if layer_type not in kinds:
            return super().forward(x, position_ids, *more)
        lengths = (position_ids.amax(dim=-1) + 1).tolist()
        tables = [self.table_of(layer_type, length) for length in lengths]
        by_row: dict[int, tuple[Tensor, Tensor]] = {}
        for table in dict.fromkeys(tables):
            rows = [row for row, own in enumerate(tables) if own == table]
            self._forget(layer_type)
            by_row |= zip(rows, zip(*super().forward(x, position_ids[rows], *more), strict=True), strict=True)
        cosines, sines = zip(*(by_row[row] for row in range(len(tables))), strict=True)
        return torch.stack(cosines), torch.stack(sines)

    def table_of(self, layer_type: str | None, length: int) -> int:
        """Name the table of a text of so many tokens."""
        rope = self.config.rope_parameters
        if layer_type is not None:
            rope = rope[layer_type]
        if rope["rope_type"] == "longrope":
            return int(length > rope["original_max_position_embeddings"])
        return max(length, self.original_max_seq_len)

    def _forget(self, layer_type: str | None) -> None:
        """Undo what an earlier text did to the table: a fresh one, because inference tensors are not written to."""
        prefix = "" if layer_type is None else f"{layer_type}_"
        seen = f"{prefix}max_seq_len_cached"
        if hasattr(self, seen):
            setattr(self, seen, self.original_max_seq_len)
        setattr(self, f"{prefix}inv_freq", getattr(self, f"{prefix}original_inv_freq").clone())


def _kinds(part: nn.Module) -> dict[str | None, str]:
    """Return layer type (None: all layers alike) -> kind of table, of those kinds that depend on the length."""
    kinds = getattr(part, "rope_type", None)
    listed: dict[Any, Any] = kinds if isinstance(kinds, dict) else {None: kinds}
    return {layer: kind for layer, kind in listed.items() if kind in _KINDS}


@cache
def _own(base: type) -> type:
    return type(f"Own{base.__name__}", (OwnTables, base), {})
