"""How far two saved sensitivities agree: tables in, numbers out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy

from paraknow_core.errors import DataError
from paraknow_core.ops.statistics import Correlation, rank_correlation
from paraknow_core.spec import ROLES

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class Agreement:
    """Two sensitivities on one grid: rows are layers (of the shallower model), columns are the roles both have.

    Attributes:
        roles: of the columns.
        depths: how many layers each of the two models has; the deeper one is brought to the shallower one's rows.
        shares: of each, (rows, roles): a module's share of the whole model's S; NaN where there is no such module.
        by_layer: of each, (rows,): a layer's share of the whole model's S, norms and biases included.
        modules, layers: rank correlations over the grid's cells and over its rows.
    """

    roles: tuple[str, ...]
    depths: tuple[int, int]
    shares: tuple[numpy.ndarray, numpy.ndarray]
    by_layer: tuple[numpy.ndarray, numpy.ndarray]
    modules: Correlation
    layers: Correlation

    @property
    def by_depth(self) -> bool:
        """True where the two have different numbers of layers and were matched by relative depth."""
        return self.depths[0] != self.depths[1]

    def log_ratio(self) -> numpy.ndarray:
        """Return log2(first share / second share) by cell; NaN where one of them is zero or missing."""
        first, second = (numpy.where(share > 0, share, numpy.nan) for share in self.shares)
        return numpy.log2(first / second)

    def difference(self) -> numpy.ndarray:
        """Return first share - second share by cell, in points (hundredths of all)."""
        return 100 * (self.shares[0] - self.shares[1])


def agreement(
    first: "pandas.DataFrame", first_layers: Sequence[float], second: "pandas.DataFrame", second_layers: Sequence[float]
) -> Agreement:
    """Bring two sensitivities onto one grid and correlate them.

    Args:
        first, second: one row a module, as `SensitivityStore.modules()` gives them.
        first_layers, second_layers: summed S of each layer, as `SensitivityStore.layer_scores()` gives them.

    Returns:
        The first as the one that is compared with the second; see `Agreement`.

    Raises:
        DataError: one of them has no layer, or the two share no role inside layers.
    """
    tables, scores = (first, second), (first_layers, second_layers)
    depths = (len(first_layers), len(second_layers))
    common = set.intersection(*({str(role) for role in t.loc[t["layer"].notna(), "role"]} for t in tables))
    roles = tuple(role for role in ROLES if role in common)
    if not roles or not all(depths):
        raise DataError("comparison: the two have no module of one role in common; choose another sensitivity")
    rows = min(depths)
    to_rows = [depth_weights(depth, rows) for depth in depths]
    shares = tuple(
        weights @ layer_grid(table, depth, roles) for weights, table, depth in zip(to_rows, tables, depths, strict=True)
    )
    by_layer = tuple(
        weights @ (numpy.asarray(layers, dtype=numpy.float64) / (_everything(table, layers) or 1.0))
        for weights, table, layers in zip(to_rows, tables, scores, strict=True)
    )
    return Agreement(
        roles,
        depths,
        shares,
        by_layer,
        rank_correlation(shares[0].ravel(), shares[1].ravel()),
        rank_correlation(*by_layer),
    )


def layer_grid(table: "pandas.DataFrame", layers: int, roles: Sequence[str]) -> numpy.ndarray:
    """Return (layers, roles) shares of a table of modules; NaN where a layer has no such role."""
    inside = table[table["layer"].notna()].astype({"layer": int, "share": float})
    grid = inside.pivot_table("share", "layer", "role", aggfunc="last")
    return grid.reindex(index=range(layers), columns=list(roles)).to_numpy()


def depth_weights(layers: int, rows: int) -> numpy.ndarray:
    """Return (rows, layers): how much of each layer lies in each row when both fill the same depth from 0 to 1.

    Each layer is divided among the rows that it overlaps, so that sums over all layers stay what they are; with as many
    rows as layers this is the identity.
    """
    low = numpy.arange(layers) / layers
    edge = numpy.arange(rows)[:, None] / rows
    overlap = numpy.minimum(low + 1 / layers, edge + 1 / rows) - numpy.maximum(low, edge)
    return numpy.where(overlap > 1e-12, overlap * layers, 0.0)


def top_overlap(first: Sequence[float], second: Sequence[float]) -> numpy.ndarray:
    """Return (n,): for k = 1 to n, how many of the k highest of one are among the k highest of the other.

    On ties the lower index is the higher one, as in the layer mapping.
    """
    a, b = (sorted(range(len(values)), key=lambda i, v=values: (-v[i], i)) for values in (first, second))
    return numpy.array([len(set(a[:k]) & set(b[:k])) for k in range(1, len(a) + 1)])


def _everything(table: "pandas.DataFrame", layers: Sequence[float]) -> float:
    """Return S of the whole model, from a module's S and its share of all."""
    if not (table["share"] > 0).any():
        return float(sum(layers))
    largest = table.loc[table["share"].idxmax()]
    return float(largest["sum"] / largest["share"])
