"""Stage export: the trained change as one plain PEFT adapter for the untouched student, checked by loading it.

Tied embeddings: one matrix W has two uses, and training changes it by one D for both. LoRA on both uses loads right but
cannot merge right: PEFT adds D once a LoRA layer, to the same storage, and makes it W + 2 D; `ensure_weight_tying` ties
the factors and adds twice all the same; LoRA on one use alone leaves D out of the other one's output. So the embedding
gets the factors and the adapter holds the output layer whole, as W + D (PEFT's `modules_to_save`): loading gives W + D
for both uses, merging adds D to the embedding and puts the output layer in its place. The price: the adapter is larger
by one embedding matrix.
"""

import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from paraknow_core.adapters.cards import CARD, card
from paraknow_core.adapters.inject import ADAPTER, WEIGHTS, adapter_config, factor_names, host_factors, hosts, tied_head
from paraknow_core.files.atomic import build_folder
from paraknow_core.models.anatomy import Anatomy, LogicalModule
from paraknow_core.models.modules import add_product_
from paraknow_core.spec import FactorisationSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from peft import PeftModel
    from transformers import PreTrainedModel

    from paraknow_core.context import Work
    from paraknow_core.tasks.templates import Encoded

Factors = tuple[Tensor, Tensor]


def export(work: "Work") -> None:
    """Write adapter/ of a run, and check that it computes what was trained when it is loaded, and when it is merged."""
    context, student, model = work.context, work.context.student, work.started.peft_model
    modules, factorisation, label = context.student_modules, work.spec.factorisation, student.source.label
    folder = work.folder.file("adapter")
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was cut off
    head = tied_head(model.base_model.model, student.anatomy, modules)
    readme = card("adapter", work.spec, student.source, head=head)
    whole = work.method.row.whole
    export_adapter(
        model, work.started.initial, student.anatomy, modules, factorisation, folder, label, readme, whole=whole
    )
    check = work.result["export_check"] = check_export(model, student.load(), folder, work.samples)
    if not check["passed"]:
        why = "train without student_bits" if context.settings.student_bits else "compute in float32"
        work.warn(
            f"the exported adapter differs from the trained model by {check['max_abs']:.2g} in a logit "
            f"(tolerance {check['tolerance']:.2g}); {why}, or take the whole model from "
            f"`runs export {work.folder.id} --merged` instead of the adapter"
        )
    elif not check["merges"]:
        work.warn(
            f"the exported adapter loads right, but merged by plain PEFT it differs from the trained model by "
            f"{check['merged_max_abs']:.2g} in a logit (tolerance {check['tolerance']:.2g}); do not merge it, take "
            f"the whole model from `runs export {work.folder.id} --merged`"
        )


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
    peft_model: "PeftModel",
    initial: "Mapping[str, Factors] | None",
    anatomy: Anatomy,
    modules: list[LogicalModule],
    factorisation: FactorisationSpec,
    folder: Path,
    label: str,
    readme: str = "",
    *,
    whole: bool = False,
) -> None:
    """Write the adapter that turns the unmodified student into the trained one.

    Args:
        peft_model: after training.
        initial: the factors whose product was taken off the base weights, by host; None if nothing was: then the
            trained factors are already the whole change.
        anatomy, modules, factorisation, whole: as given to `inject.inject`.
        folder: written complete or not at all.
        label: name of the student, as the user gave it.
        readme: content of its README.md (see `cards.card`); empty for none.
    """
    from safetensors.torch import save_file

    trained = current_factors(peft_model, modules)
    head = tied_head(peft_model.base_model.model, anatomy, modules)
    config = adapter_config(modules, factorisation, None, ranks=2 if initial else 1, whole=whole)
    config.base_model_name_or_path, config.inference_mode = label, True
    config.modules_to_save = [head] if head else None
    tensors: dict[str, Tensor] = {}
    for host, parts in hosts(modules).items():
        factors = combined(trained[host], initial[host]) if initial else trained[host]
        embedding = parts[0].role == "embed"
        tensors |= dict(zip(factor_names(host, embedding=embedding), factors, strict=True))
        if embedding and head:
            tensors |= {f"base_model.model.{head}.{name}": t for name, t in _whole_head(peft_model, parts[0]).items()}
    with build_folder(folder, durable=True) as building:
        config.save_pretrained(building)
        save_file(
            {name: tensor.cpu().contiguous() for name, tensor in tensors.items()},
            building / WEIGHTS,
            metadata={"format": "pt"},
        )
        if readme:
            (building / CARD).write_text(readme, encoding="utf-8")


def _whole_head(peft_model: "PeftModel", embed: LogicalModule) -> dict[str, Tensor]:
    """Return the tensors of an output layer that shares the embedding's matrix, with the trained change added."""
    model = peft_model.base_model.model
    layer = model.get_input_embeddings()
    a, b = host_factors(layer)
    state = model.get_output_embeddings().get_base_layer().state_dict()
    weight = state["weight"].clone()
    add_product_(weight, embed, layer.scaling[ADAPTER] * a.T.double(), b.T)
    return {**state, "weight": weight}


def check_export(
    peft_model: "PeftModel", untouched: "PreTrainedModel", folder: Path, samples: "Sequence[Encoded]"
) -> dict[str, Any]:
    """Compare the trained model's logits with those of plain PEFT: the exported adapter loaded, and then merged.

    Args:
        peft_model: the trained model.
        untouched: a fresh student; it is wrapped and merged here, in place, and not to be used afterwards.
        folder: the exported adapter.
        samples: a few examples to compare on.

    Returns:
        max_abs: largest absolute difference of a logit after loading; tolerance: 1e-5 in float32, relative to the
        largest logit where that exceeds 1; passed; merged_max_abs: the same difference after merging; merges: it is
        within the tolerance.
    """
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="peft")  # about tied layers: this checks them
        reloaded = PeftModel.from_pretrained(untouched, str(folder)).eval()
        loaded = compare_logits(peft_model.eval(), reloaded, samples)
        merged = compare_logits(peft_model, reloaded.merge_and_unload().eval(), samples)
    return {**loaded, "merged_max_abs": merged["max_abs"], "merges": merged["passed"]}


def compare_logits(
    first: torch.nn.Module, second: torch.nn.Module, samples: "Sequence[Encoded]", *, seed: int | None = None
) -> dict[str, Any]:
    """Compare the logits of two models on samples.

    Args:
        first, second: on one device, each in evaluation or training mode as it is to be compared.
        samples: encoded examples, taken one by one.
        seed: set before each forward pass, so that in training mode the dropout of both models is the same.
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
