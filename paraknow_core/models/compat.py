"""What of a teacher fits onto a student: one pairing for every student module, and the sentences a user should read."""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from paraknow_core.errors import ShapeError
from paraknow_core.models.anatomy import Anatomy
from paraknow_core.models.modules import LogicalModule
from paraknow_core.models.tokenizer import TokenAlignment
from paraknow_core.spec import ROLES

VOCABULARY_ROLES = ("embed", "head")


@dataclass(frozen=True)
class Pairing:
    """What one student module receives.

    Attributes:
        action: "cut": a window of the teacher's weight covers the student's; "whole": both have the same shape;
            "place": the teacher's part covers only some of the student's rows or columns; "skip": nothing.
        teacher_shape, student_shape: (out_features, in_features); for embed and head (vocabulary, hidden).
        placed_shape: what is written into the student; for embed and head (shared tokens, hidden).
        reason: a sentence for people.
    """

    student_module: str
    teacher_module: str | None
    role: str
    action: str
    teacher_shape: tuple[int, int] | None
    student_shape: tuple[int, int]
    placed_shape: tuple[int, int] | None
    reason: str

    @property
    def parameters(self) -> int:
        return math.prod(self.placed_shape) if self.placed_shape else 0


@dataclass(frozen=True)
class CompatibilityReport:
    """All pairings of a teacher and a student. An empty `blocking` means that a run is possible."""

    teacher: str
    student: str
    pairings: tuple[Pairing, ...]
    notes: tuple[str, ...]
    blocking: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Number of student modules for each action."""
        counted = Counter(pairing.action for pairing in self.pairings)
        return {action: counted[action] for action in ("cut", "whole", "place", "skip")}

    @property
    def parameters_moved(self) -> int:
        return sum(pairing.parameters for pairing in self.pairings)

    def to_dict(self) -> dict:
        """Return everything as plain data for JSON."""
        return dataclasses.asdict(self) | {"counts": self.counts, "parameters_moved": self.parameters_moved}


def compatibility(
    teacher: Anatomy,
    student: Anatomy,
    alignment: TokenAlignment | None = None,
    mapping: Sequence[int | None] | None = None,
    roles: Sequence[str] = ROLES,
) -> CompatibilityReport:
    """Say for every student module what it can receive from the teacher.

    Args:
        teacher, student: of two models, any families.
        alignment: of their vocabularies; without it only tokenizers with the same files are taken as equal.
        mapping: for each student layer the teacher layer it receives, or None; by default the first ones in order.
        roles: what is asked for.

    Returns:
        The report, pairings in the order of the student's modules.

    Raises:
        ShapeError: the mapping does not fit the two models.
    """
    chosen = _layer_mapping(teacher, student, mapping)
    pairings = []
    for module in student.modules:
        if module.role not in roles:
            pairings.append(_skip(module, None, f"{module.role} is not asked for"))
        elif module.role in VOCABULARY_ROLES:
            pairings.append(_pair_vocabulary(module, teacher, student, alignment))
        else:
            pairings.append(_pair_layer_module(module, teacher, chosen[module.layer]))
    notes = _layer_notes(chosen, mapping is None) + _notes(teacher, student, alignment, roles)
    notes += list(dict.fromkeys((*teacher.notes, *student.notes)))
    blocking = []
    if all(pairing.action == "skip" for pairing in pairings):
        blocking.append(f"nothing can be transferred: {pairings[0].reason}; choose other roles or another teacher")
    return CompatibilityReport(teacher.label, student.label, tuple(pairings), tuple(notes), tuple(blocking))


def _layer_mapping(teacher: Anatomy, student: Anatomy, mapping: Sequence[int | None] | None) -> list[int | None]:
    if mapping is None:
        return [i if i < teacher.num_hidden_layers else None for i in range(student.num_hidden_layers)]
    if len(mapping) != student.num_hidden_layers:
        raise ShapeError(
            f"layer mapping: {len(mapping)} entries were given; the student has {student.num_hidden_layers} layers; "
            "give one entry a layer"
        )
    for layer in mapping:
        if layer is not None and not 0 <= layer < teacher.num_hidden_layers:
            raise ShapeError(
                f"layer mapping: teacher layer {layer} was given; the teacher has {teacher.num_hidden_layers} layers; "
                f"choose 0 to {teacher.num_hidden_layers - 1}, or null for none"
            )
    return list(mapping)


def _layer_notes(chosen: list[int | None], by_default: bool) -> list[str]:
    notes = []
    if by_default:
        notes.append("layers are paired in order here; a run decides the layer mapping, by sensitivity if not set")
    if None in chosen:
        notes.append(f"{chosen.count(None)} of {len(chosen)} student layers have no teacher layer and stay as they are")
    return notes


def _pair_layer_module(module: LogicalModule, teacher: Anatomy, layer: int | None) -> Pairing:
    if layer is None:
        reason = f"student layer {module.layer} has no teacher layer"
        if teacher.num_hidden_layers <= module.layer:
            reason += f" (the teacher has {teacher.num_hidden_layers})"
        return _skip(module, None, reason)
    source = teacher.find(module.role, layer)
    if source is None:
        return _skip(module, None, f"the teacher ({teacher.family}) has no {module.role}")
    placed = (min(module.shape[0], source.shape[0]), min(module.shape[1], source.shape[1]))
    if source.shape == module.shape:
        action, reason = "whole", "same shape: the whole weight is taken"
    elif placed == module.shape:
        action, reason = "cut", f"a window of {_by(placed)} is cut from {_by(source.shape)}"
    else:
        action = "place"
        reason = (
            f"the teacher is smaller in some dimension: {_by(placed)} of {_by(source.shape)} is placed at row 0, "
            f"column 0 of {_by(module.shape)}; the rest of the student stays"
        )
    return Pairing(module.name, source.name, module.role, action, source.shape, module.shape, placed, reason)


def _pair_vocabulary(
    module: LogicalModule, teacher: Anatomy, student: Anatomy, alignment: TokenAlignment | None
) -> Pairing:
    """Pair an embedding or head: rows go by token, only the hidden dimension is cut."""
    source = teacher.find(module.role, None) or teacher.find("embed", None)
    rows, why = _shared_rows(teacher, student, alignment)
    if not rows:
        return _skip(module, source, why)
    hidden = min(module.shape[1], source.shape[1])
    whole_rows = rows == module.shape[0] and rows == source.shape[0]
    if source.shape[1] < module.shape[1] or rows < module.shape[0]:
        action = "place"
    else:
        action = "whole" if whole_rows and source.shape[1] == module.shape[1] else "cut"
    parts = [why, "same hidden size" if source.shape[1] == module.shape[1] else _hidden(source, module)]
    if module.role == "head" and source.role == "embed":
        parts.append("the teacher's head is its tied input embedding")
    if student.tied and not teacher.tied:
        parts.append("the student's one tied weight receives the teacher's input embedding, its head is not used")
    return Pairing(
        module.name, source.name, module.role, action, source.shape, module.shape, (rows, hidden), "; ".join(parts)
    )


def _hidden(source: LogicalModule, module: LogicalModule) -> str:
    if source.shape[1] > module.shape[1]:
        return f"{module.shape[1]} of {source.shape[1]} hidden channels are cut"
    return (
        f"{source.shape[1]} hidden channels are placed at column 0 of {module.shape[1]}; the rest of the student stays"
    )


def _shared_rows(teacher: Anatomy, student: Anatomy, alignment: TokenAlignment | None) -> tuple[int, str]:
    """Return how many vocabulary rows transfer, and the sentence about it."""
    same_size = teacher.vocab_size == student.vocab_size
    if alignment is None:
        same_files = teacher.tokenizer and student.tokenizer and teacher.tokenizer.sha256 == student.tokenizer.sha256
        if same_size and same_files:
            return student.vocab_size, "same tokenizer: every token's row is taken"
        return 0, "the tokenizers differ or were not compared, so rows cannot be matched to tokens"
    if alignment.identical and same_size:
        return student.vocab_size, "same tokenizer: every token's row is taken"
    # A token may have an id beyond the embedding (never the other way round: spare rows have no token).
    inside = (alignment.teacher_ids < teacher.vocab_size) & (alignment.student_ids < student.vocab_size)
    rows = int(inside.sum())
    if not rows:
        return 0, "the vocabularies share no token"
    return rows, f"only the rows of {rows} shared tokens transfer ({alignment.student_size} in the student)"


def _notes(teacher: Anatomy, student: Anatomy, alignment: TokenAlignment | None, roles: Sequence[str]) -> list[str]:
    """Collect the sentences about how the two models differ."""
    notes = []
    if teacher.parameters <= student.parameters:
        notes.append(
            f"the teacher ({teacher.parameters:,} parameters) is not larger than the student ({student.parameters:,})"
        )
    notes += _attention_notes(teacher, student) + _vocabulary_notes(teacher, student, alignment, roles)
    missing = [r for r in roles if r not in VOCABULARY_ROLES and teacher.find(r, 0) and not student.find(r, 0)]
    if missing:
        notes.append(f"the student ({student.family}) has no {', '.join(missing)}: the teacher's stays unused")
    for what in ("norm", "activation", "positions"):
        ours, theirs = getattr(student, what), getattr(teacher, what)
        if ours != theirs:
            notes.append(f"other {what}: the teacher has {theirs}, the student {ours}")
    return notes


def _attention_notes(teacher: Anatomy, student: Anatomy) -> list[str]:
    notes = []
    grouped = [model.num_key_value_heads < model.num_attention_heads for model in (teacher, student)]
    if grouped[0] != grouped[1]:
        who = "teacher" if grouped[0] else "student"
        model = teacher if grouped[0] else student
        notes.append(
            f"grouped-query attention only in the {who} ({model.num_attention_heads} heads share "
            f"{model.num_key_value_heads} key-value heads): k and v mean something else on each side"
        )
    if teacher.head_dim != student.head_dim:
        notes.append(f"head sizes differ ({teacher.head_dim} and {student.head_dim}): windows cut across heads")
    return notes


def _vocabulary_notes(
    teacher: Anatomy, student: Anatomy, alignment: TokenAlignment | None, roles: Sequence[str]
) -> list[str]:
    notes = []
    if student.tied != teacher.tied:
        which, effect = (
            ("student", "its one weight receives the teacher's input embedding; the teacher's head is not used")
            if student.tied
            else ("teacher", "its one weight goes to the student's embedding and to its head")
        )
        notes.append(f"only the {which} ties its embeddings: {effect}")
    if not set(roles) & set(VOCABULARY_ROLES):
        return notes
    if alignment is not None and not alignment.identical:
        notes.append(
            f"tokenizers differ: teacher has {alignment.teacher_size} tokens, student {alignment.student_size}; "
            f"{alignment.shared} are shared and only their rows transfer"
        )
    elif alignment is None and not _shared_rows(teacher, student, None)[0]:
        notes.append("the tokenizers differ or were not compared: embeddings are left out")
    return notes


def _skip(module: LogicalModule, source: LogicalModule | None, reason: str) -> Pairing:
    name, shape = (source.name, source.shape) if source else (None, None)
    return Pairing(module.name, name, module.role, "skip", shape, module.shape, None, reason)


def _by(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"
