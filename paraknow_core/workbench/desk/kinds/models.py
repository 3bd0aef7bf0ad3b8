"""Questions about models: what one is made of, what of a teacher fits onto a student, what the hub's cache holds."""

from collections import Counter
from dataclasses import asdict, fields
from itertools import islice
from typing import Any

from paraknow_core.errors import ModelError
from paraknow_core.models.anatomy import Anatomy
from paraknow_core.models.compat import compatibility
from paraknow_core.models.modules import stored_shapes
from paraknow_core.models.tokenizer import align_tokens, vocabulary
from paraknow_core.paths import Workspace
from paraknow_core.settings import Settings
from paraknow_core.workbench.desk import requests
from paraknow_core.workbench.desk.kinds.known import anatomy_of, model_source

LISTS = ("modules", "other", "notes")  # of an anatomy, far longer than a page shows
SHOWN_TOKENS = 12  # examples of tokens that only one of the two has


def anatomy(_place: Workspace, settings: Settings, question: requests.Anatomy) -> dict[str, Any]:
    """Return the numbers of an `Anatomy`, `parts`, the `tokenizer` (None without one), and a hub model's `revision`."""
    model = anatomy_of(question.model, settings)
    return {field.name: getattr(model, field.name) for field in fields(model) if field.name not in LISTS} | {
        "parts": parts(model),
        "tokenizer": asdict(model.tokenizer) if model.tokenizer else None,
        "revision": model_source(question.model, settings).revision,
    }


def parts(model: Anatomy) -> list[dict[str, Any]]:
    """Divide a model's parameters between roles; what is never transferred (norms, biases, tables) is `other`.

    Returns:
        One entry a role and shape: role, group, shape, modules (how many), parameters, first (a module's name).
    """
    numbers = Counter((module.role, module.shape) for module in model.modules)
    first = {(module.role, module.shape): module for module in reversed(model.modules)}
    stored = sum(rows * columns for rows, columns in stored_shapes(model.modules).values())
    return [
        {
            "role": role,
            "group": first[role, shape].group,
            "shape": list(shape),
            "modules": number,
            "parameters": number * shape[0] * shape[1],
            "first": first[role, shape].name,
        }
        for (role, shape), number in numbers.items()
    ] + [
        {
            "role": "other",
            "group": "other",
            "shape": None,
            "modules": len(model.other),
            "parameters": model.parameters - stored,
            "first": next((other.name for other in model.other), ""),
        }
    ]


def compat(_place: Workspace, settings: Settings, question: requests.Compat) -> dict[str, Any]:
    """Return the report with all pairings, and the `overlap` of the vocabularies or why there is none.

    Without a readable tokenizer the layers can still be compared.
    """
    pair, alignment, overlap, problem = (question.teacher, question.student), None, None, ""
    try:
        teacher, student = (vocabulary(model_source(model, settings)) for model in pair)
        alignment = align_tokens(teacher, student)
        overlap = {
            "identical": alignment.identical,
            "shared": alignment.shared,
            "teacher": alignment.teacher_size,
            "student": alignment.student_size,
            "same_id": int((alignment.teacher_ids == alignment.student_ids).sum()),
            "only_teacher": _only_in(teacher, student),
            "only_student": _only_in(student, teacher),
        }
    except ModelError as error:
        problem = str(error)
    anatomies = (anatomy_of(model, settings) for model in pair)
    report = compatibility(*anatomies, alignment, question.mapping, question.roles)
    return report.to_dict() | {"overlap": overlap, "tokenizer_problem": problem}


def _only_in(tokens: dict[str, int], others: dict[str, int]) -> list[str]:
    return list(islice((token for token in sorted(tokens, key=tokens.get) if token not in others), SHOWN_TOKENS))


def hub_cache(_place: Workspace, _settings: Settings, _question: requests.HubCache) -> dict[str, Any]:
    """Return `models` and `datasets`, each a list of name, revisions (newest first, with their branches) and bytes."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = sorted(scan_cache_dir().repos, key=lambda repository: repository.repo_id.casefold())
    except (CacheNotFound, OSError, ValueError):
        repositories = []
    return {
        f"{kind}s": [_described(repository) for repository in repositories if repository.repo_type == kind]
        for kind in ("model", "dataset")
    }


def _described(repository: Any) -> dict[str, Any]:
    newest_first = sorted(repository.revisions, key=lambda revision: -revision.last_modified)
    files = {file.file_name for revision in newest_first for file in revision.files}
    return {
        "name": repository.repo_id,
        "bytes": repository.size_on_disk,
        "weights": any(name.endswith(".safetensors") for name in files),
        "config": "config.json" in files,
        "revisions": [{"commit": revision.commit_hash, "refs": sorted(revision.refs)} for revision in newest_first],
    }
