"""Injection: put initial factors into a PEFT adapter and, where asked, take their product off the weights.

It is the last part of the stage extraction (`methods/start.py`).
"""

import warnings
from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from paraknow_core.adapters.cards import CARD
from paraknow_core.adapters.update import Update
from paraknow_core.errors import ShapeError
from paraknow_core.files.atomic import build_folder
from paraknow_core.models.anatomy import Anatomy, LogicalModule
from paraknow_core.models.modules import add_product_
from paraknow_core.spec import FactorisationSpec

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

ADAPTER = "default"
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def check_rank(modules: Iterable[LogicalModule], rank: int, directions: int = 1) -> None:
    """Refuse a rank of which some module has no room for so many directions each, before anything costly has run.

    Raises:
        ShapeError: names the module and the largest rank.
    """
    smallest = min(modules, key=lambda m: min(m.shape), default=None)
    if smallest is None:
        raise ShapeError("extraction.origin: the student has no module of these roles; choose others, or all")
    most = min(smallest.shape) // directions
    if rank > most:
        taken = f", of which this method takes {rank * directions} directions" if directions > 1 else ""
        raise ShapeError(
            f"factorisation: rank {rank} does not fit {smallest.name} of shape {smallest.shape}{taken}; "
            f"choose 1 to {most}"
        )


def adapter_config(
    modules: Iterable[LogicalModule],
    factorisation: FactorisationSpec,
    head: str | None,
    ranks: int = 1,
    *,
    whole: bool = False,
) -> "LoraConfig":
    """Return PEFT's description of the adapter.

    Logical modules that share one fused weight (q, k, v in one matrix) share one adapter whose rank is the sum of
    theirs; its scaling stays lora_alpha / rank.

    Args:
        modules: the student's modules that get an adapter.
        factorisation: rank and lora_alpha of each logical module.
        head: path of an output layer that shares the embedding's parameter and gets an adapter (see `tied_head`).
        ranks: 1, or 2 for the exported adapter that holds trained and initial factors.
        whole: the factors hold any change of a weight (see `start_whole`), whatever the factorisation says; scaling 1.
    """
    from peft import LoraConfig, TaskType

    groups = hosts(modules)
    rank, alpha = factorisation.rank * ranks, factorisation.lora_alpha * ranks
    own = {host: rank * len(parts) for host, parts in groups.items() if len(parts) > 1}
    if whole:
        own = {host: _full_rank(parts) for host, parts in groups.items()}
        if head:  # its factors are the embedding's, transposed
            own[head] = next(own[host] for host, parts in groups.items() if parts[0].role == "embed")
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=[*groups, *([head] if head else [])],
        rank_pattern=own,
        alpha_pattern=own if whole else {host: alpha * len(parts) for host, parts in groups.items() if host in own},
        fan_in_fan_out=any(m.transposed for parts in groups.values() for m in parts),
    )


def _full_rank(parts: list[LogicalModule]) -> int:
    """Return the rank with which factors hold any change of the weight that these modules lie in."""
    fused = parts[0].rows is not None  # then they may be some of its rows alone; its inputs are known
    return parts[0].shape[1] if fused else min(parts[0].shape)


def tied_head(model: nn.Module, anatomy: Anatomy, modules: Iterable[LogicalModule]) -> str | None:
    """Return the path of the output head if it uses the embedding's parameter and the embedding gets an adapter.

    The head then needs an adapter too, with the embedding's factors: one parameter changes, and it has two uses. PEFT's
    own option for this finds embeddings only by the name `embed_tokens`.
    """
    if not anatomy.tied or all(m.role != "embed" for m in modules):
        return None
    head = model.get_output_embeddings()
    return next(name for name, module in model.named_modules() if module is head)


def hosts(modules: Iterable[LogicalModule]) -> dict[str, list[LogicalModule]]:
    """Group logical modules by the path of the network's module that holds them, in order."""
    parts: dict[str, list[LogicalModule]] = defaultdict(list)
    for module in modules:
        parts[module.host].append(module)
    return dict(parts)


def inject(
    student: "PreTrainedModel",
    anatomy: Anatomy,
    modules: list[LogicalModule],
    factorisation: FactorisationSpec,
    updates: Iterable[Update],
    seed: int,
    *,
    whole: bool = False,
) -> "PeftModel":
    """Wrap the student in an adapter that starts at the given factors.

    Args:
        student: loaded, untouched; its weights are changed in place where an update subtracts.
        anatomy: the student's.
        modules: all modules that get an adapter; one without an update starts as default LoRA.
        factorisation: rank and lora_alpha.
        updates: initial factors.
        seed: of the default initialisation; set before any adapter exists.
        whole: train the weights of the modules themselves; there are no updates then.

    Returns:
        The PEFT model, adapter trainable, everything else frozen.
    """
    from peft import get_peft_model
    from transformers import set_seed

    set_seed(seed)
    parts = hosts(modules)
    head = tied_head(student, anatomy, modules)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="peft")  # about tied heads and Conv1D: handled
        peft_model = get_peft_model(student, adapter_config(modules, factorisation, head, whole=whole))
    scaling = factorisation.lora_alpha / factorisation.rank
    with torch.no_grad():
        for update in updates:
            layer = peft_model.base_model.model.get_submodule(update.module.host)
            _start_at(layer, parts[update.module.host], update, factorisation.rank)
            if update.subtract:
                take_off_(layer.get_base_layer().weight, update, scaling)
    layers = [peft_model.base_model.model.get_submodule(host) for host in parts] if whole else []
    for layer in layers:
        start_whole(layer)
    if head:
        tie_head(peft_model)
        layers += [peft_model.base_model.model.get_output_embeddings()] if whole else []
    for layer in layers:
        fix_identity(layer)
    return peft_model


def start_whole(layer: nn.Module) -> None:
    """Make one factor the identity and the other one zero, so that the latter is any change of the weight."""
    with torch.no_grad():
        for factor in host_factors(layer):
            nn.init.zeros_(factor)
        nn.init.eye_(identity_factor(layer))


def fix_identity(layer: nn.Module) -> None:
    """Leave the identity out of training, and out of a linear layer's products: they are known."""
    fixed = identity_factor(layer)
    fixed.requires_grad_(False)
    for factors in (layer.lora_A, layer.lora_B):
        if ADAPTER in factors and factors[ADAPTER].weight is fixed:
            factors[ADAPTER].forward = nn.Identity().forward


def identity_factor(layer: nn.Module) -> nn.Parameter:
    """Return the factor of a whole change that is square: A where both are."""
    a, b = host_factors(layer)
    return a if a.shape[0] == a.shape[1] else b


def take_off_(weight: Tensor, update: Update, scaling: float) -> None:
    """Subtract scaling * B @ A of an update from its part of a stored weight, in place."""
    b, a = -scaling * update.b.double(), update.a
    if update.module.role == "embed":
        b, a = a.T, b.T
    add_product_(weight, update.module, b, a)


def host_factors(layer: nn.Module) -> tuple[nn.Parameter, nn.Parameter]:
    """Return the trainable A (R, in) and B (out, R) of a LoRA layer, linear or embedding."""
    if ADAPTER in layer.lora_embedding_A:  # every LoRA layer of PEFT has both dicts, one of them empty
        return layer.lora_embedding_A[ADAPTER], layer.lora_embedding_B[ADAPTER]
    return layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight


def factor_names(host: str, *, embedding: bool) -> tuple[str, str]:
    """Return what PEFT calls A and B of a module in a saved adapter."""
    names = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A.weight", "lora_B.weight")
    return f"base_model.model.{host}.{names[0]}", f"base_model.model.{host}.{names[1]}"


def _start_at(layer: nn.Module, parts: list[LogicalModule], update: Update, rank: int) -> None:
    """Write one module's factors into its host's: A stacked, B block-diagonal in the rows that the module owns."""
    a, b = host_factors(layer)
    first = parts.index(update.module) * rank
    a[first : first + rank] = update.a.to(a)
    b[row_index(update.module, b.shape[0]), first : first + rank] = update.b.to(b)
    # The other parts' default B is 0 for linear layers, but PEFT starts an embedding with A = 0 and B random: both
    # factors were overwritten whole there, because an embedding is never fused.


def row_index(module: LogicalModule, out_features: int) -> Tensor:
    """Return which output rows of its host a logical module owns, as a (rows,) index."""
    if module.rows is None:
        return torch.arange(out_features)
    rows = module.rows
    starts = rows.offset + rows.stride * torch.arange(rows.count)
    return (starts[:, None] + torch.arange(rows.block)[None, :]).flatten()


def tie_head(peft_model: "PeftModel") -> None:
    """Make the factors of a tied head the embedding's own, transposed, with one gradient for both.

    The head's factors become views of the embedding's. The optimiser would step such a parameter twice, each time with
    a part of its gradient. So the head's gradient is added to the embedding's and dropped: an optimiser skips a
    parameter without gradient.
    """
    model = peft_model.base_model.model
    embed_a, embed_b = host_factors(model.get_input_embeddings())
    head_a, head_b = host_factors(model.get_output_embeddings())
    for view, owner in ((head_a, embed_b), (head_b, embed_a)):
        view.data = owner.data.T
        view.register_post_accumulate_grad_hook(partial(_pass_gradient, owner))


def _pass_gradient(owner: nn.Parameter, view: Tensor) -> None:
    owner.grad = view.grad.T.clone() if owner.grad is None else owner.grad.add_(view.grad.T)
    view.grad = None


def save_initial_adapter(peft_model: "PeftModel", folder: Path, label: str, readme: str) -> None:
    """Write the initial factors in PEFT format to `folder`, with a README.md (complete or not at all)."""
    with build_folder(folder, durable=True) as building:
        save_adapter(peft_model, building, label)
        (building / CARD).write_text(readme, encoding="utf-8")


def save_adapter(peft_model: "PeftModel", folder: Path, label: str) -> None:
    """Write the adapter's factors in PEFT format; never base weights, and no path of this machine."""
    config = peft_model.peft_config[ADAPTER]
    config.base_model_name_or_path = label
    # PEFT would add whole embedding matrices when a target is called lm_head: here those are base weights.
    peft_model.save_pretrained(folder, save_embedding_layers=False)
    (folder / CARD).unlink(missing_ok=True)
