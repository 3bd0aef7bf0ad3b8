"""The initial adapter of a run as it lies in its folder: extraction.json and init_adapter/, read back."""

from collections.abc import Iterator
from pathlib import Path

from paraknow_core.adapters.inject import row_index
from paraknow_core.adapters.update import Update
from paraknow_core.files.disk import file_digest, whole_tensors
from paraknow_core.files.json_file import read_json
from paraknow_core.models.modules import LogicalModule

RECORD, FOLDER, WEIGHTS = "extraction.json", "init_adapter", "adapter_model.safetensors"


def is_sound(folder: Path) -> bool:
    """Tell whether extraction.json and init_adapter/ of a folder are what `start_adapter` has left there."""
    record = read_json(folder / RECORD)
    if not isinstance(record, dict) or not {"subtracted", "layer_mapping"} <= record.keys():
        return False
    weights, digest = folder / FOLDER / WEIGHTS, record.get("digest")
    if not whole_tensors(weights):
        return False
    return digest is None or file_digest(weights) == digest  # an earlier version noted none


def saved_updates(folder: Path, modules: list[LogicalModule], rank: int, subtracted: set[str]) -> Iterator[Update]:
    """Read the initial factors back, bit for bit, module by module.

    Args:
        folder: init_adapter/ of a run.
        modules: the student's modules that have an adapter.
        rank: of each.
        subtracted: names of those whose product was taken off the student's weight.
    """
    from safetensors import safe_open

    position: dict[str, int] = {}
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as tensors:
        for module in modules:
            prefix = f"base_model.model.{module.host}"
            names = (
                ("lora_embedding_A", "lora_embedding_B")
                if module.role == "embed"
                else ("lora_A.weight", "lora_B.weight")
            )
            a, b = (tensors.get_tensor(f"{prefix}.{name}") for name in names)
            first = position.get(module.host, 0)
            position[module.host] = first + rank
            part = b[row_index(module, b.shape[0]), first : first + rank]
            yield Update(module, a[first : first + rank], part, module.name in subtracted, {})
