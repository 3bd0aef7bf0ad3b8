"""Keep a student's frozen weights in 4 bits while its adapter is trained. Needs the optional package bitsandbytes."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from paraknow_core.errors import ModelError

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel

PACKAGE = "bitsandbytes"


def require_package() -> None:
    """Refuse early where 4 bits are asked for and the package is missing.

    Raises:
        ModelError: it is not installed.
    """
    if find_spec(PACKAGE) is None:
        raise ModelError(f"student_bits: 4 bits need the package {PACKAGE}; `pip install {PACKAGE}`, or leave it out")


def quantise(peft_model: "PeftModel") -> int:
    """Turn the frozen linear weights of an injected student into 4-bit NormalFloat, in place.

    To be called after injection: what was taken off the weights is then not rounded. The output layer, embeddings,
    norms and the adapter keep their precision, and so does GPT-2's own kind of linear layer.

    Args:
        peft_model: the student with its adapter.

    Returns:
        How many layers were turned.

    Source:
        Dettmers et al., QLoRA, NeurIPS 2023, arXiv:2305.14314.
    """
    from bitsandbytes.nn import Linear4bit, Params4bit

    turned = _turned(peft_model)
    for path in turned:
        owner, name = peft_model.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2]
        child = getattr(owner, name)
        linear = Linear4bit(
            child.in_features,
            child.out_features,
            bias=child.bias is not None,
            compute_dtype=child.weight.dtype,
            quant_type="nf4",
            device="meta",
        )
        linear.weight = Params4bit(child.weight.data, requires_grad=False, quant_type="nf4")
        linear.bias = child.bias
        # On processors with bfloat16 the first evaluation would lay the weights out anew for good, and training
        # could then not go on.
        linear.support_avx512bf16_for_cpu = False
        setattr(owner, name, linear.to(child.weight.device))
    return len(turned)


def quantised_parameters(student: "PreTrainedModel") -> set[str]:
    """Return the names of the weights that `quantise` turns in this student, with an adapter or without."""
    for parameter in student.parameters():
        parameter.requires_grad_(False)
    return {f"{path}.weight" for path in _turned(student)}


def _turned(model: "PeftModel | PreTrainedModel") -> list[str]:
    """Return the paths of the frozen linear layers, without the output layer."""
    import torch

    head = model.get_output_embeddings()
    output = {id(module) for module in head.modules()} if head is not None else set()
    return [
        path
        for path, module in model.named_modules()
        if type(module) is torch.nn.Linear and id(module) not in output and not module.weight.requires_grad
    ]


def rounded(weight: "Tensor") -> "Tensor":
    """Return a weight as it is after `quantise` has rounded it to 4 bits, in its own dtype.

    Raises:
        ModelError: the package is not installed.
    """
    require_package()
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Params4bit

    parameter = Params4bit(weight.contiguous(), requires_grad=False, quant_type="nf4").to(weight.device)
    return dequantize_4bit(parameter.data, parameter.quant_state)
