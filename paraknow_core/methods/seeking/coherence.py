"""Coherent blocks: one choice of channels for the whole model, of heads and of neurons for each teacher layer.

Decided from the sums of rows and columns that every saved sensitivity holds, so that it can be made whatever else was
kept, and whatever the layer mapping is. Norms and biases are not transferred: the student's own go on standing on its
channels.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from paraknow_core.catalogue import STRUCTURES, implementation
from paraknow_core.context import Context
from paraknow_core.errors import DataError, ModelError, ShapeError
from paraknow_core.models.anatomy import Anatomy
from paraknow_core.models.config import rotated_share
from paraknow_core.models.modules import ATTENTION_ROLES, LogicalModule
from paraknow_core.ops.coherent import Heads, Pick, heads_problem, whole_heads
from paraknow_core.ops.structure import Selection, crossing
from paraknow_core.sensitivity.store import SensitivityStore

CHANNELS, WIDTH, NEURONS = "channels", "width", "neurons"  # width: of embeddings that are projected to the channels
_REMEDY = "leave attention out of extraction.origin, or choose another structure"
Axis = tuple[str, int | None]  # what indices count (of heads: the role that has them), and in which layer


@dataclass(frozen=True)
class Coherence:
    """What is taken along each axis.

    Attributes:
        indices: of each axis, ascending int64 vectors on the CPU.
        projected: whether embeddings have a width of their own.
        problem: why heads cannot be taken whole; then there are no indices of attention.
    """

    indices: Mapping[Axis, Tensor]
    projected: bool
    problem: str

    def selection(self, source: LogicalModule, height: int) -> Selection:
        """Return what is taken of a teacher's module; of embeddings, the first `height` rows, which are tokens.

        Raises:
            ShapeError: it is of attention, whose heads cannot be taken whole.
        """
        if self.problem and source.group == "attention":
            raise ShapeError(f"{source.name}: whole heads cannot be taken: {self.problem}; {_REMEDY}")
        axes = _axes(source, self.projected)
        rows, cols = (torch.arange(height) if axis is None else self.indices[axis] for axis in axes)
        return crossing(rows, cols)


def is_coherent(structure: str) -> bool:
    """Tell whether a structure decides for the whole model at once."""
    return "reductions" in STRUCTURES[structure].needs


def refuse_incoherent(context: Context) -> None:
    """Refuse a pair of which the spec's structure cannot keep together what belongs together.

    Raises:
        ModelError: says what, and what to choose instead.
    """
    problem = incoherent(context, context.spec.structure)
    if problem:
        raise ModelError(problem)


def incoherent(context: Context, structure: str) -> str:
    """Return why a structure cannot be had of a pair, from its headers alone; empty where it can."""
    if not is_coherent(structure):
        return ""
    teacher, student, roles = context.teacher.anatomy, context.student.anatomy, set(context.spec.extraction.roles)
    pair = f"extraction.structure {structure}, {teacher.label} -> {student.label}"
    if roles & set(ATTENTION_ROLES):
        problem = heads_problem(_heads(teacher), _heads(student), rotary=_rotary(teacher, student))
        configs = [model.described.config() for model in (context.teacher, context.student)]
        partly = _rotary(teacher, student) and min(map(rotated_share, configs)) < 1
        if not problem and partly and teacher.head_dim != student.head_dim:
            problem = f"heads of {teacher.head_dim} and {student.head_dim} features, of which only a part is rotated"
        if problem:
            return f"{pair}: {problem}; {_REMEDY}"
    if roles & {"embed", "head"} and _projected(teacher) != _projected(student):
        who = "teacher" if _projected(teacher) else "student"
        return (
            f"{pair}: only the {who}'s embeddings have another width than its layers; leave embedding out of "
            "extraction.origin, or choose another structure"
        )
    return ""


@lru_cache(maxsize=8)  # one decision for all blocks of an extraction; a store's name says what its numbers are
def coherence(store: SensitivityStore, structure: str, teacher: Anatomy, student: Anatomy) -> Coherence:
    """Decide what is taken along every axis of the teacher: as many as the student has, or all where it has more.

    Args:
        store: sensitivity of the teacher.
        structure: a coherent one of `catalogue.STRUCTURES`.
        teacher, student: their anatomies.

    Returns:
        Indices by axis. Scores are sums over all modules that share the axis: of channels over the whole model.

    Raises:
        DataError: the sensitivity is of another teacher.
    """
    pick: Pick = implementation(STRUCTURES[structure])
    measured = {name: tuple(module["shape"]) for name, module in store.totals["modules"].items()}
    if measured != {module.name: module.shape for module in teacher.modules}:
        raise DataError(f"{store.folder.name}: is the sensitivity of another teacher; compute it again")
    sums, scores = store.all_sums(), defaultdict(lambda: torch.zeros((), dtype=torch.float64))
    for module in teacher.modules:
        for axis, values in zip(_axes(module, _projected(teacher)), sums[module.name], strict=True):
            if axis is not None:
                scores[axis] = scores[axis] + torch.from_numpy(values).double()
    sizes = {CHANNELS: student.hidden_size, WIDTH: _width(student), NEURONS: student.intermediate_size}
    indices = {
        axis: pick(values, min(len(values), sizes[axis[0]])) for axis, values in scores.items() if axis[0] in sizes
    }
    heads, rotary = (_heads(teacher), _heads(student)), _rotary(teacher, student)
    problem = heads_problem(*heads, rotary=rotary)
    if not problem:
        for layer in range(teacher.num_hidden_layers):
            of_heads = {role: scores[role, layer] for role in ATTENTION_ROLES}
            taken = whole_heads(of_heads, *heads, pick, rotary=rotary)
            indices |= {(role, layer): part for role, part in taken.items()}
    return Coherence(indices, _projected(teacher), problem)


def _axes(module: LogicalModule, projected: bool) -> tuple[Axis | None, Axis | None]:
    """Return what a module's rows and columns count; None: tokens."""
    channels: Axis = (CHANNELS, None)
    if module.group == "embedding":
        return None, (WIDTH, None) if projected else channels
    inner: Axis = (module.role if module.group == "attention" else NEURONS, module.layer)
    return (channels, inner) if module.role in ("o", "down") else (inner, channels)


def _heads(model: Anatomy) -> Heads:
    groups = model.num_key_value_heads
    return Heads(groups, model.num_attention_heads // groups, model.head_dim)


def _rotary(*models: Anatomy) -> bool:
    return any("rotary" in model.positions for model in models)


def _width(model: Anatomy) -> int:
    return model.find("embed", None).shape[1]


def _projected(model: Anatomy) -> bool:
    return _width(model) != model.hidden_size
