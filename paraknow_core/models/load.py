"""Load models and tokenizers with transformers, from a folder, without a network and without foreign code."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from paraknow_core.errors import ModelError
from paraknow_core.models.anatomy import Anatomy, read_anatomy
from paraknow_core.models.dimensions import read_dimensions
from paraknow_core.models.families import FAMILIES
from paraknow_core.models.logical import parameters_of
from paraknow_core.models.source import ModelSource

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

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
    from transformers import AutoModelForCausalLM

    if dtype not in DTYPES:
        raise ModelError(f"{source.label}: dtype {dtype} is not supported; choose from {', '.join(DTYPES)}")
    source.weight_files()  # refuses a source whose weights are not on this machine
    anatomy = read_anatomy(source, tokenizer=False)  # names whatever does not fit, before anything is loaded
    with _quiet_transformers():
        try:
            model, report = AutoModelForCausalLM.from_pretrained(
                source.folder, dtype=getattr(torch, dtype), attn_implementation=FAMILIES[anatomy.family].attention,
                use_safetensors=True, trust_remote_code=False, local_files_only=True, output_loading_info=True,
            )  # fmt: skip
        except Exception as error:  # config checks and file readers raise many kinds
            raise ModelError(
                f"{source.label}: transformers cannot load it ({_first_line(error)}); get it again"
            ) from None
    check_report(report, source.label)
    _check_tie(model, anatomy)
    parameters_of(model, anatomy)
    return _placed(model, device, dtype, source.label).eval()


def import_architecture(source: ModelSource) -> None:
    """Load the code of a model's architecture, which takes seconds and over 100 MB the first time.

    Raises:
        ModelError: transformers does not take its config.
    """
    import accelerate  # noqa: F401 - an empty model is built with it
    from transformers import AutoModelForCausalLM

    config = _config(source)
    AutoModelForCausalLM._model_mapping[type(config)]  # noqa: B018, SLF001 - looking it up imports it


def _config(source: ModelSource) -> "PreTrainedConfig":
    from transformers import AutoConfig

    with _quiet_transformers():
        try:
            return AutoConfig.from_pretrained(source.folder, trust_remote_code=False, local_files_only=True)
        except Exception as error:  # config checks raise many kinds
            raise ModelError(
                f"{source.label}: transformers cannot read its config ({_first_line(error)}); get config.json again"
            ) from None


def build_empty(source: ModelSource, anatomy: Anatomy, dtype: "torch.dtype", device: str) -> "PreTrainedModel":
    """Build a model's architecture without weights: parameters on the meta device, buffers real and in place.

    Raises:
        ModelError: transformers does not take its config.
    """
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    config = _config(source)
    with _quiet_transformers():
        try:
            with init_empty_weights(include_buffers=False), no_init_weights():
                model = AutoModelForCausalLM.from_config(
                    config, dtype=dtype, attn_implementation=FAMILIES[anatomy.family].attention, trust_remote_code=False
                )
        except Exception as error:  # config checks raise many kinds
            raise ModelError(
                f"{source.label}: transformers cannot build it ({_first_line(error)}); get config.json again"
            ) from None
    for owner in model.modules():
        for name, buffer in list(owner.named_buffers(recurse=False)):
            owner._buffers[name] = buffer.to(device)  # noqa: SLF001 - `to` would refuse the parameters
    return model.eval()


def load_tokenizer(source: ModelSource) -> "PreTrainedTokenizerBase":
    """Load a model's tokenizer. Without a padding token it pads with its end-of-text token; nothing is resized.

    Raises:
        ModelError: there is none, or it cannot be loaded, or it has neither padding nor end-of-text token.
    """
    from transformers import AutoTokenizer

    if not any((source.folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ModelError(f"{source.label}: has no tokenizer; add its tokenizer.json (or vocab.json) to the folder")
    with _quiet_transformers():
        try:
            tokenizer = AutoTokenizer.from_pretrained(source.folder, trust_remote_code=False, local_files_only=True)
        except Exception as error:  # the tokenizers library raises bare Exceptions for damaged files
            raise ModelError(
                f"{source.label}: the tokenizer cannot be loaded ({_first_line(error)}); get its files again"
            ) from None
    room = read_dimensions(source.config(), source.label).vocab_size
    # A tokenizer class may bring special tokens the model has no embedding for: they must not become padding.
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= room:
        if tokenizer.eos_token_id is None or tokenizer.eos_token_id >= room:
            raise ModelError(
                f"{source.label}: the tokenizer has neither a padding nor an end-of-text token inside the model's "
                f"vocabulary of {room}; add eos_token to tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


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
        there = ", ".join(name for name, here in present.items() if here)
        raise ModelError(f"device: {setting} is not available on this machine; choose auto or {there}")
    return setting


def _placed(model: "PreTrainedModel", device: str, dtype: str, label: str) -> "PreTrainedModel":
    import torch

    try:
        return model.to(device)
    except torch.OutOfMemoryError:
        raise ModelError(
            f"{label}: does not fit into {device}'s memory as {dtype}; use bfloat16, a smaller model or the CPU"
        ) from None


def _check_tie(model: "PreTrainedModel", anatomy: Anatomy) -> None:
    # transformers leaves a tie out, with a warning only, when the file holds two different weights.
    if anatomy.tied and model.get_input_embeddings().weight is not model.get_output_embeddings().weight:
        raise untied(anatomy.label)


def untied(label: str) -> ModelError:
    """Return the refusal of a file whose output layer differs from the embedding its config ties it to."""
    return ModelError(
        f"{label}: config.json ties the embeddings, but the file holds a different output layer; "
        "set tie_word_embeddings to false in config.json"
    )


def check_report(report: Mapping[str, Collection], label: str) -> None:
    """Refuse a checkpoint that left weights random or held weights that nobody uses.

    Args:
        report: names under missing_keys, unexpected_keys and mismatched_keys, as transformers reports them.
        label: the model's name for messages.

    Raises:
        ModelError: names the first.
    """
    for key, what in (
        ("missing_keys", "lacks"),
        ("unexpected_keys", "holds unknown"),
        ("mismatched_keys", "misshapes"),
    ):
        found = sorted(str(item[0] if isinstance(item, tuple) else item) for item in report.get(key) or ())
        if found:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            raise ModelError(
                f"{label}: the checkpoint {what} {found[0]}{more}; use the whole checkpoint of this architecture"
            )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Silence transformers' progress bars and load report; what matters of them is raised as an error."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
