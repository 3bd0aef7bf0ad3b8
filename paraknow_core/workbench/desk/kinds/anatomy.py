"""What one model is made of: `{"source", "revision"}` -> its numbers and how its parameters divide between roles."""

from dataclasses import asdict
from typing import Any

from paraknow_core.models.anatomy import Anatomy
from paraknow_core.models.modules import stored_shapes
from paraknow_core.paths import Workspace
from paraknow_core.settings import Settings
from paraknow_core.workbench.desk.kinds.known import anatomy_of, model_source

NUMBERS = (
    "label",
    "family",
    "architecture",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "tied",
    "dtype",
    "parameters",
    "bytes",
    "activation",
    "norm",
    "positions",
)


def answer(_place: Workspace, settings: Settings, request: dict[str, Any]) -> dict[str, Any]:
    """Answer for one model; see the module."""
    anatomy = anatomy_of(request, settings)
    tokenizer = anatomy.tokenizer
    return {name: getattr(anatomy, name) for name in NUMBERS} | {
        "parts": parts(anatomy),
        "tokenizer": asdict(tokenizer) if tokenizer else None,
        "revision": model_source(request, settings).revision,
    }


def parts(anatomy: Anatomy) -> list[dict[str, Any]]:
    """Divide a model's parameters between roles; what is never transferred (norms, biases, tables) is `other`.

    Returns:
        One entry a role and shape: role, group, shape, modules (how many), parameters, first (a module's name).
    """
    found: dict[tuple, dict[str, Any]] = {}
    for module in anatomy.modules:
        part = found.setdefault(
            (module.role, module.shape),
            {
                "role": module.role,
                "group": module.group,
                "shape": list(module.shape),
                "modules": 0,
                "parameters": 0,
                "first": module.name,
            },
        )
        part["modules"] += 1
        part["parameters"] += module.shape[0] * module.shape[1]
    known = sum(rows * columns for rows, columns in stored_shapes(anatomy.modules).values())
    rest = {
        "role": "other",
        "group": "other",
        "shape": None,
        "modules": len(anatomy.other),
        "parameters": anatomy.parameters - known,
        "first": next((other.name for other in anatomy.other), ""),
    }
    return [*found.values(), rest]
