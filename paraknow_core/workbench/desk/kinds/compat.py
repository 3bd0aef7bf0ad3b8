"""What of a teacher fits onto a student: `{"teacher", "student", "roles", "mapping"}` -> all pairings, with reasons."""

from typing import Any

from paraknow_core.errors import ModelError
from paraknow_core.models.compat import compatibility
from paraknow_core.models.tokenizer import TokenAlignment, align_tokens, vocabulary
from paraknow_core.paths import Workspace
from paraknow_core.settings import Settings
from paraknow_core.workbench.desk.kinds.known import anatomy_of, model_source

SHOWN_TOKENS = 12  # examples of tokens that only one of the two has


def answer(_place: Workspace, settings: Settings, request: dict[str, Any]) -> dict[str, Any]:
    """Answer for one pair; see the module."""
    pair = request["teacher"], request["student"]
    overlap, alignment, problem = _overlap(pair, settings)
    report = compatibility(
        *(anatomy_of(model, settings) for model in pair), alignment, request["mapping"], request["roles"]
    )
    return report.to_dict() | {"overlap": overlap, "tokenizer_problem": problem}


def _overlap(pair: tuple[dict, dict], settings: Settings) -> tuple[dict[str, Any] | None, TokenAlignment | None, str]:
    """Compare the vocabularies; without a readable tokenizer the layers can still be compared."""
    try:
        teacher, student = (vocabulary(model_source(model, settings)) for model in pair)
    except ModelError as error:
        return None, None, str(error)
    alignment = align_tokens(teacher, student)
    return (
        {
            "identical": alignment.identical,
            "shared": alignment.shared,
            "teacher": alignment.teacher_size,
            "student": alignment.student_size,
            "same_id": int((alignment.teacher_ids == alignment.student_ids).sum()),
            "only_teacher": _some(teacher, student),
            "only_student": _some(student, teacher),
        },
        alignment,
        "",
    )


def _some(of: dict[str, int], without: dict[str, int]) -> list[str]:
    found = (token for token in sorted(of, key=of.get) if token not in without)
    return [token for token, _ in zip(found, range(SHOWN_TOKENS), strict=False)]
