"""Load models with transformers, from a folder, without a network and without foreign code."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from paraknow_core.errors import ModelError
from paraknow_core.models.anatomy import Anatomy, read_anatomy
from paraknow_core.models.config import GENERATION_CONFIG, declared_ends, read_dimensions
from paraknow_core.models.families import FAMILIES
from paraknow_core.models.library import library_config, one_line_reason, quiet_transformers
from paraknow_core.models.modules import stored_shapes
from paraknow_core.models.names import check_names, memory_names
from paraknow_core.models.source import ModelSource, read_json_object

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from paraknow_core.models.headers import TensorHeader
    from paraknow_core.models.shards import Shards

DTYPES = ("float32", "bfloat16", "float16")


def load_model(source: ModelSource, *, device: str = "cpu", dtype: str = "float32") -> "PreTrainedModel":
    """Load a causal language model for inference or training.

    Args:
        source: a resolved model whose weights are on this machine.
        device: where to put it; see `pick_device`.
        dtype: "float32", "bfloat16" or "float16" in memory, whatever it is on disk.

    Returns:
        The model in evaluation mode.

    Raises:
        ModelError: not supported, or the weights are not exactly those the architecture needs.
    """
    import torch

    from paraknow_core.models.shards import Shards

    if dtype not in DTYPES:
        raise ModelError(f"{source.label}: dtype {dtype} is not supported; choose from {', '.join(DTYPES)}")
    anatomy = read_anatomy(source, tokenizer=False)  # names whatever does not fit, before anything is loaded
    shards = Shards(source, getattr(torch, dtype))  # refuses a source whose weights are not on this machine
    model = build_checked(source, anatomy, shards)
    try:
        model.load_state_dict({name: shards.copied(name, device) for name in shards}, strict=False, assign=True)
        model.tie_weights()
        parameters_of(model, anatomy)
        return model.to(device).eval()
    except torch.OutOfMemoryError:
        raise ModelError(
            f"{source.label}: does not fit into {device}'s memory as {dtype}; use bfloat16, a smaller model or the CPU"
        ) from None


def parameters_of(model: "nn.Module", anatomy: Anatomy) -> "dict[str, nn.Parameter]":
    """Return the parameters that hold logical modules, by `LogicalModule.parameter`, checked against the anatomy.

    Raises:
        ModelError: a parameter is missing or has another shape; names it.
    """
    present = dict(model.named_parameters(remove_duplicate=False))
    parameters = {}
    for name, shape in stored_shapes(anatomy.modules).items():
        if name not in present:
            raise ModelError(f"{anatomy.label}: the loaded model has no parameter {name}; load the model unmodified")
        if tuple(present[name].shape) != shape:
            raise ModelError(
                f"{anatomy.label}: the loaded {name} has shape {tuple(present[name].shape)}, its file says {shape}; "
                "load the model unmodified"
            )
        parameters[name] = present[name]
    return parameters


def build_checked(source: ModelSource, anatomy: Anatomy, shards: "Shards") -> "PreTrainedModel":
    """Build a model's architecture without weights, and see that the files hold exactly those it needs.

    The one place where whatever reads weights, whole or layer by layer, learns whether a folder can be read.

    Raises:
        ModelError: transformers does not take its config; a weight is missing, unknown or of another shape; or the
            config ties the embeddings while the files hold two different ones.
    """
    model = build_empty(source, anatomy, shards.dtype, shards.device)
    check_parameters(model, source, anatomy, shards.headers)
    _check_tie(source, anatomy, shards)
    return model


def check_parameters(
    model: "nn.Module", source: ModelSource, anatomy: Anatomy, headers: "Mapping[str, TensorHeader]"
) -> None:
    """See that headers (by name in memory) are exactly those of the parameters that an architecture needs.

    Raises:
        ModelError: a weight is missing, unknown or of another shape.
    """
    head = f"{FAMILIES[anatomy.family].head}.weight"
    needed = {name: tuple(p.shape) for name, p in model.named_parameters() if not (anatomy.tied and name == head)}
    check_names(needed, headers, read_dimensions(source.config(), source.label), source.label)


def import_architecture(source: ModelSource) -> None:
    """Load the code of a model's architecture, which takes seconds and over 100 MB the first time.

    Raises:
        ModelError: transformers does not take its config.
    """
    import accelerate  # noqa: F401 - an empty model is built with it
    from transformers import AutoModelForCausalLM

    config = library_config(source)
    AutoModelForCausalLM._model_mapping[type(config)]  # noqa: B018, SLF001 - looking it up imports it


def build_empty(source: ModelSource, anatomy: Anatomy, dtype: "torch.dtype", device: str) -> "PreTrainedModel":
    """Build a model's architecture without weights: parameters on the meta device, buffers real and in place.

    Raises:
        ModelError: transformers does not take its config, or generation_config.json is damaged.
    """
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    from paraknow_core.models.rotary import tables_of_their_own

    config = library_config(source)
    config.name_or_path = str(source.folder)
    with quiet_transformers():
        try:
            with init_empty_weights(include_buffers=False), no_init_weights():
                model = AutoModelForCausalLM.from_config(
                    config, dtype=dtype, attn_implementation=FAMILIES[anatomy.family].attention, trust_remote_code=False
                )
        except Exception as error:  # config checks raise many kinds
            raise ModelError(
                f"{source.label}: transformers cannot build what config.json says ({one_line_reason(error)}); "
                "correct it, or get config.json again"
            ) from None
    _take_generation_config(model, source)
    tables_of_their_own(model)
    for owner in model.modules():
        for name, buffer in list(owner.named_buffers(recurse=False)):
            owner._buffers[name] = buffer.to(device)  # noqa: SLF001 - `to` would refuse the parameters
    return model.eval()


def _take_generation_config(model: "PreTrainedModel", source: ModelSource) -> None:
    """Give a model what generation_config.json says, as transformers does; only its end tokens are ever used here.

    Settings that transformers would refuse to save again are left out: none of them counts.
    """
    from transformers import GenerationConfig

    ends = declared_ends(source)
    if not (source.folder / GENERATION_CONFIG).is_file():
        return
    content = read_json_object(source.folder / GENERATION_CONFIG, source.label)
    with quiet_transformers():
        try:
            config = GenerationConfig.from_dict(content)
            config.validate(strict=True)
        except Exception:  # its checks raise many kinds
            config = GenerationConfig(eos_token_id=ends or None)
    model.generation_config = config


def pick_device(setting: str) -> str:
    """Turn a device setting into a device that is there.

    Args:
        setting: "auto" (an accelerator if there is one), "cpu", "cuda" or "mps".

    Raises:
        ModelError: the device asked for is not there.
    """
    import torch

    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if setting == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if present[name])
    if not present.get(setting):
        devices = ", ".join(name for name in present if present[name])
        raise ModelError(f"device: {setting} is not available on this machine; choose auto or {devices}")
    return setting


def _check_tie(source: ModelSource, anatomy: Anatomy, shards: "Shards") -> None:
    """Refuse a model whose config ties the embeddings while its files hold two different ones."""
    family = FAMILIES[anatomy.family]
    listed = memory_names(source.headers(), family, source.label)
    pair = [listed.get(f"{path}.weight") for path in (family.embed, family.head)]
    if not anatomy.tied or None in pair:
        return
    embed, head = (shards.tensor(header) for header in pair)
    pieces = zip(embed.split(4096), head.split(4096), strict=False)  # a few rows at a time stay in the cache
    if embed.shape != head.shape or not all(rows.equal(others) for rows, others in pieces):
        raise ModelError(
            f"{anatomy.label}: config.json ties the embeddings, but the file holds a different output layer; "
            "set tie_word_embeddings to false in config.json"
        )
