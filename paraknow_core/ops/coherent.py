"""Coherent structures: one choice of indices for all weights that share them, so that what belongs together stays so.

A hidden state's channels are shared by every weight that reads or writes it, a layer's heads by q, k, v and o, its
neurons by gate, up and down. Such a choice is made from sums of sensitivity over everything that shares the indices. To
add one, write its row in `catalogue.STRUCTURES`, needing the reductions, and its function here:

    structure(scores, count)         scores: (n,) sums; returns (count,) ascending indices
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from paraknow_core.errors import NumericError, ShapeError
from paraknow_core.ops.structure import highest

Pick = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Heads:
    """The attention of one layer: `groups` key-value heads, `queries` query heads for each, `size` features a head."""

    groups: int
    queries: int
    size: int


def contiguous(scores: Tensor, count: int) -> Tensor:
    """Pick the range with the largest sum, of equal ones the first.

    Args:
        scores: (n,) finite.
        count: how many.

    Returns:
        (count,) int64, ascending, on the CPU.

    Raises:
        ShapeError: more than there are; NumericError: a score is NaN or infinite.
    """
    sums = _require(scores, count).unfold(0, count, 1).sum(dim=1)
    first = int((sums == sums.max()).nonzero()[0])
    return torch.arange(first, first + count)


def scattered(scores: Tensor, count: int) -> Tensor:
    """Pick the largest scores, wherever they stand; arguments, result and errors as of `contiguous`."""
    return highest(_require(scores, count), count)


def heads_problem(teacher: Heads, student: Heads, *, rotary: bool) -> str:
    """Say why whole heads of one attention cannot stand in for those of another; empty where they can.

    Args:
        teacher, student: of one layer each.
        rotary: whether features of a head are rotated in pairs (i, i + size / 2).
    """
    if teacher.size < student.size:
        return f"the teacher's heads have {teacher.size} features, the student's {student.size}"
    if rotary and teacher.size != student.size and (teacher.size % 2 or student.size % 2):
        return f"heads of {teacher.size} and {student.size} features are not both made of rotary pairs"
    if student.queries > teacher.queries and min(teacher.groups, student.groups) > 1:
        return (
            f"{student.queries} query heads of the student share a key-value head, of the teacher {teacher.queries}, "
            "so that queries would meet keys which are not theirs"
        )
    return ""


def whole_heads(
    scores: Mapping[str, Tensor], teacher: Heads, student: Heads, pick: Pick, *, rotary: bool
) -> dict[str, Tensor]:
    """Pick whole key-value groups of one layer, and in each the query heads that the student has room for.

    A group's score is that of its key-value head and of the query heads that are picked in it. Where the student's
    heads are smaller, features are picked in each group too: those of q and k together, whose products they are, in
    rotary pairs (i, i + size / 2); and those of v and o together.

    Args:
        scores: "q", "k", "v", "o" -> sums along the head dimension, (heads * size,) each.
        teacher, student: their shapes; `heads_problem` has nothing to say about them.
        pick: `contiguous` or `scattered`.
        rotary: whether positions are rotary.

    Returns:
        "q", "k", "v", "o" -> ascending indices along the head dimension.

    Raises:
        ShapeError: they cannot be whole; NumericError: a score is NaN or infinite.
    """
    problem = heads_problem(teacher, student, rotary=rotary)
    if problem:
        raise ShapeError(f"whole heads: {problem}; choose a structure that cuts each weight by itself")
    groups, queries, size = teacher.groups, teacher.queries, teacher.size
    q, o = (scores[role].double().cpu().view(groups, queries, size) for role in "qo")
    k, v = (scores[role].double().cpu().view(groups, size) for role in "kv")
    of_query = (q + o).sum(dim=2)
    kept = [pick(of_query[group], min(queries, student.queries)) for group in range(groups)]
    values = torch.stack([(k + v)[g].sum() + of_query[g, kept[g]].sum() for g in range(groups)])
    indices: dict[str, list[Tensor]] = {role: [] for role in "qkvo"}
    for group in pick(values, min(groups, student.groups)).tolist():
        mine = kept[group]
        matched = _features(q[group, mine].sum(dim=0) + k[group], student.size, pick, paired=rotary)
        carried = _features(o[group, mine].sum(dim=0) + v[group], student.size, pick, paired=False)
        starts = (group * queries + mine)[:, None] * size
        indices["q"].append((starts + matched).flatten())
        indices["o"].append((starts + carried).flatten())
        indices["k"].append(group * size + matched)
        indices["v"].append(group * size + carried)
    return {role: torch.cat(parts) for role, parts in indices.items()}


def _features(scores: Tensor, count: int, pick: Pick, *, paired: bool) -> Tensor:
    """Pick features of one head; all of them where it is no larger."""
    size = len(scores)
    if size == count:
        return torch.arange(size)
    if not paired:
        return pick(scores, count)
    half = pick(scores.view(2, size // 2).sum(dim=0), count // 2)
    return torch.cat([half, half + size // 2])


def _require(scores: Tensor, count: int) -> Tensor:
    if scores.ndim != 1 or not 1 <= count <= len(scores):
        raise ShapeError(
            f"selection: {count} of {tuple(scores.shape)} scores cannot be picked; choose 1 to {scores.numel()}"
        )
    scores = scores.detach().to("cpu", torch.float64)
    if not scores.isfinite().all():
        raise NumericError("selection: a score is NaN or infinite; compute the sensitivity in float32")
    return scores
