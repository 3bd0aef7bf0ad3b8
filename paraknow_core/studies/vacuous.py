"""Which arms are the method itself on a pair of models: it leaves them no other layers, or no other blocks, to take.

Such an arm is the same run under another name. It says nothing about the method, so that nothing is judged by it.
"""

from collections.abc import Mapping
from typing import Any

from paraknow_core.catalogue import ARMS, METHODS, PAPER_METHOD, STRATEGIES, STRUCTURES, Row
from paraknow_core.errors import ParaknowError
from paraknow_core.spec import ModelSpec, RunSpec
from paraknow_core.studies.same import effective, within
from paraknow_core.studies.study import Group, StudyArm, StudySpec, groups_of, rates_of, spec_of

IS_THE_METHOD = "is the method itself here"
_LAYERS, _BLOCKS = "the teacher has no more layers than the student", "the teacher's weights are taken whole"
_ORDERED = ("sensitivity", "top", "last", "random", "uniform")  # keep as many teacher layers as find a place
_MAPPING, _BLOCK, _SAMPLES = ("mapping",), ("method", "extraction.structure", "extraction.seed"), ("sensitivity",)
_MEASURED = {"sensitivity", "reductions", "activations"}  # on the seed samples


def vacuous(study: StudySpec) -> dict[str, str]:
    """Return the groups of a study that cannot differ from the method at the same point, by `Group.key`, and why.

    Args:
        study: valid; its models' shapes are read where they are on this machine. Where one is not, nothing is known.

    Returns:
        Group's key -> part of a sentence: `is the method itself here, as the teacher's weights are taken whole`.
    """
    row = ARMS[PAPER_METHOD]
    method = StudyArm(PAPER_METHOD, row.label, row, row.changes)
    shapes = _Shapes()
    methods: dict[str, RunSpec] = {}
    found = {}
    for group in groups_of(study):
        if group.arm.name == PAPER_METHOD:
            continue
        own = spec_of(study, group, study.seeds[0])
        if not _like_the_method(own):
            continue
        itself = Group(method, group.point)
        if itself.key not in methods:
            methods[itself.key] = spec_of(study, itself, study.seeds[0])
        other = methods[itself.key]
        if rates_of(study, group, own) != rates_of(study, itself, other):
            continue
        settings, others = effective(own), effective(other)
        for why in ([_LAYERS], [_BLOCKS], [_LAYERS, _BLOCKS]):
            if _left(settings, own, shapes, why) == _left(others, other, shapes, why):
                found[group.key] = f"{IS_THE_METHOD}, as {' and '.join(why)}"
                break
    return found


def _like_the_method(spec: RunSpec) -> bool:
    return METHODS[spec.method].code == METHODS[PAPER_METHOD].code


class _Shapes:
    """What of the pairs of a study leaves no choice; each model is read once."""

    def __init__(self) -> None:
        self._read: dict[tuple, Any] = {}

    def facts(self, spec: RunSpec) -> set[str]:
        """Return which of the two reasons hold for a run."""
        teacher, student = self._anatomy(spec.teacher), self._anatomy(spec.student)
        if teacher is None or student is None:  # not here yet, or unfit: its runs say so
            return set()
        layers = spec.mapping.strategy in _ORDERED and teacher.num_hidden_layers <= student.num_hidden_layers
        largest = _sides(teacher, spec, max)
        room = _sides(student, spec, min)
        whole = all(
            cols <= room[role][1] and (role in ("embed", "head") or rows <= room[role][0])  # whose rows are tokens
            for role, (rows, cols) in largest.items()
            if role in room
        )
        return {why for why, holds in ((_LAYERS, layers), (_BLOCKS, whole)) if holds}

    def _anatomy(self, model: ModelSpec) -> Any:
        from paraknow_core.models.anatomy import read_anatomy
        from paraknow_core.models.source import resolve_model

        key = (model.source, model.revision)
        if key not in self._read:
            try:
                self._read[key] = read_anatomy(resolve_model(*key, offline=True, weights=False), tokenizer=False)
            except ParaknowError:
                self._read[key] = None
        return self._read[key]


def _sides(anatomy: Any, spec: RunSpec, end: Any) -> dict[str, tuple[int, int]]:
    """Return role -> the largest or smallest (rows, cols) of its modules."""
    shapes: dict[str, list[tuple[int, int]]] = {}
    for module in anatomy.modules:
        if module.role in spec.extraction.roles:
            shapes.setdefault(module.role, []).append(module.shape)
    return {role: tuple(map(end, zip(*own, strict=True))) for role, own in shapes.items()}


def _left(settings: Mapping[str, Any], spec: RunSpec, shapes: _Shapes, why: list[str]) -> dict[str, Any]:
    """Return the settings that still matter where these reasons leave no choice."""
    holds = shapes.facts(spec) & set(why)
    parts = (*(_MAPPING if _LAYERS in holds else ()), *(_BLOCK if _BLOCKS in holds else ()))
    structure = STRUCTURES[METHODS[spec.method].structure or spec.extraction.structure]
    if (_LAYERS in holds or not _measures(STRATEGIES[spec.mapping.strategy])) and (
        _BLOCKS in holds or not _measures(structure)
    ):
        parts += _SAMPLES
    return {key: value for key, value in settings.items() if not within(key, parts)}


def _measures(row: Row) -> bool:
    return not _MEASURED.isdisjoint(row.needs)
