"""Stage export: the trained change as one plain PEFT adapter for the untouched student, verified by loading it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from paraknow_core.models.anatomy import Anatomy, LogicalModule
from paraknow_core.paths import build_folder
from paraknow_core.spec import FactorisationSpec
from paraknow_core.stages.injection import adapter_config, host_factors, hosts, tied_head

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from peft import PeftModel
    from transformers import PreTrainedModel

    from paraknow_core.tasks.templates import Encoded

Factors = tuple[Tensor, Tensor]


def current_factors(peft_model: "PeftModel", modules: list[LogicalModule]) -> dict[str, Factors]:
    """Return a copy of A (R, in) and B (out, R) of each host."""
    model = peft_model.base_model.model
    return {
        host: tuple(factor.detach().clone() for factor in host_factors(model.get_submodule(host)))
        for host in hosts(modules)
    }


def combined(trained: Factors, initial: Factors) -> Factors:
    """Return factors of rank 2R whose product is B1 @ A1 - B0 @ A0: A = [A1; A0], B = [B1, -B0].

    Args:
        trained, initial: A (R, in) and B (out, R) each.
    """
    (a1, b1), (a0, b0) = trained, initial
    return torch.cat([a1, a0.to(a1)]), torch.cat([b1, -b0.to(b1)], dim=1)


def export_adapter(
    peft_model: "PeftModel", initial: "Mapping[str, Factors] | None", anatomy: Anatomy, modules: list[LogicalModule],
    factorisation: FactorisationSpec, folder: Path, label: str,
) -> None:  # fmt: skip
    """Write the adapter that turns the unmodified student into the trained one.

    Args:
        peft_model: after training.
        initial: the factors whose product was taken off the base weights, by host; None if nothing was: then the
            trained factors are already the whole change.
        anatomy, modules, factorisation: as given to `injection.inject`.
        folder: written complete or not at all.
        label: name of the student, as the user gave it.
    """
    from safetensors.torch import save_file

    trained = current_factors(peft_model, modules)
    head = tied_head(peft_model.base_model.model, anatomy, modules)
    config = adapter_config(modules, factorisation, head, ranks=2 if initial else 1)
    config.base_model_name_or_path, config.inference_mode = label, True
    tensors: dict[str, Tensor] = {}
    for host, own in hosts(modules).items():
        a, b = combined(trained[host], initial[host]) if initial else trained[host]
        prefix = f"base_model.model.{host}"
        if own[0].role == "embed":
            tensors[f"{prefix}.lora_embedding_A"], tensors[f"{prefix}.lora_embedding_B"] = a, b
            if head:  # one parameter, two uses: the head's factors are the embedding's, transposed
                tensors[f"base_model.model.{head}.lora_A.weight"] = b.T
                tensors[f"base_model.model.{head}.lora_B.weight"] = a.T
        else:
            tensors[f"{prefix}.lora_A.weight"], tensors[f"{prefix}.lora_B.weight"] = a, b
    with build_folder(folder, durable=True) as building:
        config.save_pretrained(building)
        save_file(
            {name: tensor.cpu().contiguous() for name, tensor in tensors.items()},
            building / "adapter_model.safetensors", metadata={"format": "pt"},
        )  # fmt: skip


def check_export(
    peft_model: "PeftModel", untouched: "PreTrainedModel", folder: Path, samples: "Sequence[Encoded]"
) -> dict[str, Any]:
    """Load the exported adapter on the untouched student with plain PEFT and compare its logits with the trained model.

    Args:
        peft_model: the trained model.
        untouched: a fresh student; it is wrapped here and not to be used afterwards.
        folder: the exported adapter.
        samples: a few examples to compare on.

    Returns:
        max_abs: largest absolute difference of a logit; tolerance: 1e-5 in float32, relative to the largest logit
        where that exceeds 1; passed.
    """
    from peft import PeftModel

    reloaded = PeftModel.from_pretrained(untouched, str(folder)).eval()
    return compare_logits(peft_model.eval(), reloaded, samples)


def compare_logits(
    first: torch.nn.Module, second: torch.nn.Module, samples: "Sequence[Encoded]", *, seed: int | None = None
) -> dict[str, Any]:
    """Compare the logits of two models on samples.

    Args:
        first, second: on one device, in the mode they are to be compared in.
        samples: encoded examples, taken one by one.
        seed: set before each forward pass, so that a model's own dropout falls alike in training mode.
    """
    worst = largest = 0.0
    with torch.no_grad():
        for sample in samples:
            ids = torch.tensor([sample.input_ids], device=first.device)
            logits = []
            for model in (first, second):
                with torch.random.fork_rng(enabled=seed is not None):
                    if seed is not None:
                        torch.manual_seed(seed)
                    logits.append(model(input_ids=ids, use_cache=False).logits.float())
            worst = max(worst, (logits[0] - logits[1]).abs().max().item())
            largest = max(largest, logits[0].abs().max().item())
    precise = next(first.parameters()).dtype == torch.float32
    tolerance = (1e-5 if precise else 2e-2) * max(1.0, largest)
    return {"max_abs": worst, "largest_logit": largest, "tolerance": tolerance, "passed": worst <= tolerance}


def step0_identity(
    peft_model: "PeftModel", untouched: "PreTrainedModel", samples: "Sequence[Encoded]"
) -> dict[str, dict[str, Any]]:
    """Compare the injected with the untouched student before any training, in evaluation and in training mode."""
    identity = {}
    for mode, training in (("evaluation", False), ("training", True)):
        peft_model.train(training)
        untouched.train(training)
        identity[mode] = compare_logits(peft_model, untouched, samples, seed=0)
    peft_model.eval()
    untouched.eval()
    return identity
