"""What a method wants for one student module, as plain data that the injection carries out."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from paraknow_core.models.modules import LogicalModule


@dataclass(frozen=True)
class Update:
    """Where the adapter of one student module starts.

    Attributes:
        module: the student's module.
        a: (r, in_features); b: (out_features, r). An embedding maps vocabulary (in) to hidden (out).
        subtract: take scaling * B @ A off the base weight, so that the student's function does not change.
        record: what extraction.json says about the module.
    """

    module: LogicalModule
    a: Tensor
    b: Tensor
    subtract: bool
    record: dict[str, Any]


def to_linear(weight: Tensor, module: LogicalModule) -> Tensor:
    """Turn a logical weight into (out_features, in_features); only embeddings, (vocabulary, hidden), differ."""
    return weight.T if module.role == "embed" else weight
