"""Load models and tokenizers with transformers, from a folder, without a network and without foreign code."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from paraknow_core.errors import ModelError, without_panic
from paraknow_core.models.anatomy import Anatomy, check_names, memory_names, read_anatomy
from paraknow_core.models.config_values import GENERATION_CONFIG, declared_ends
from paraknow_core.models.dimensions import read_dimensions
from paraknow_core.models.families import FAMILIES
from paraknow_core.models.logical import parameters_of
from paraknow_core.models.source import ModelSource, read_json_object

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from paraknow_core.models.shards import Shards

DTYPES = ("float32", "bfloat16", "float16")
_RANK = re.compile(rb"[A-Za-z0-9+/]+={0,2} [0-9]+\r?\n")


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
    weights = {name: shards.stored(name).to(shards.dtype, copy=True) for name in shards}  # never that of the file
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    parameters_of(model, anatomy)
    return _placed(model, device, dtype, source.label).eval()


def build_checked(source: ModelSource, anatomy: Anatomy, shards: "Shards") -> "PreTrainedModel":
    """Build a model's architecture without weights, and see that the files hold exactly those it needs.

    The one place where whatever reads weights, whole or layer by layer, learns whether a folder can be read.

    Raises:
        ModelError: transformers does not take its config; a weight is missing, unknown or of another shape; or the
            config ties the embeddings while the files hold two different ones.
    """
    model = build_empty(source, anatomy, shards.dtype, shards.device)
    head = f"{FAMILIES[anatomy.family].head}.weight"
    needed = {name: tuple(p.shape) for name, p in model.named_parameters() if not (anatomy.tied and name == head)}
    check_names(needed, shards.headers, read_dimensions(source.config(), source.label), source.label)
    _check_tie(source, anatomy, shards)
    return model


def import_architecture(source: ModelSource) -> None:
    """Load the code of a model's architecture, which takes seconds and over 100 MB the first time.

    Raises:
        ModelError: transformers does not take its config.
    """
    import accelerate  # noqa: F401 - an empty model is built with it
    from transformers import AutoModelForCausalLM

    config = _config(source)
    AutoModelForCausalLM._model_mapping[type(config)]  # noqa: B018, SLF001 - looking it up imports it


# What a config.json may say about how a model was run or saved, and what is decided here instead: never honoured.
_NOT_FOLLOWED = (
    "_attn_implementation",
    "attn_implementation",
    "_attn_implementation_internal",
    "_attn_implementation_autoset",
    "_experts_implementation",
    "experts_implementation",
    "_experts_implementation_internal",
    "_flash_attn_2_enabled",
    "dtype",
    "torch_dtype",
    "use_cache",
    "quantization_config",
    "compression_config",
    "auto_map",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "use_return_dict",
    "torchscript",
    "use_bfloat16",
    "gradient_checkpointing",
    "pretraining_tp",
    "transformers_version",
    "device_map",
    "problem_type",
    "num_labels",
    "id2label",
    "label2id",
)


def _config(source: ModelSource) -> "PreTrainedConfig":
    """Return transformers' form of config.json, without what is decided here.

    Raises:
        ModelError: it cannot be right, or transformers does not take it.
    """
    from transformers import AutoConfig

    given = source.config()
    read_dimensions(given, source.label)  # names what it knows to be wrong, with its key
    with _quiet_transformers():
        try:
            return AutoConfig.for_model(**{key: value for key, value in given.items() if key not in _NOT_FOLLOWED})
        except Exception as error:  # config checks raise many kinds
            raise ModelError(
                f"{source.label}: config.json has a value that transformers refuses ({_reason(error)}); correct it, or "
                "get config.json again"
            ) from None


def build_empty(source: ModelSource, anatomy: Anatomy, dtype: "torch.dtype", device: str) -> "PreTrainedModel":
    """Build a model's architecture without weights: parameters on the meta device, buffers real and in place.

    Raises:
        ModelError: transformers does not take its config, or generation_config.json is damaged.
    """
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    from paraknow_core.models.rotary import tables_of_their_own

    config = _config(source)
    config.name_or_path = str(source.folder)
    with _quiet_transformers():
        try:
            with init_empty_weights(include_buffers=False), no_init_weights():
                model = AutoModelForCausalLM.from_config(
                    config, dtype=dtype, attn_implementation=FAMILIES[anatomy.family].attention, trust_remote_code=False
                )
        except Exception as error:  # config checks raise many kinds
            raise ModelError(
                f"{source.label}: transformers cannot build what config.json says ({_reason(error)}); "
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
    with _quiet_transformers():
        try:
            made = GenerationConfig.from_dict(content)
            made.validate(strict=True)
        except Exception:  # its checks raise many kinds
            made = GenerationConfig(eos_token_id=ends or None)
    model.generation_config = made


def load_tokenizer(source: ModelSource) -> "PreTrainedTokenizerBase":
    """Load a model's tokenizer. Without a padding token it pads with its end-of-text token; nothing is resized.

    Raises:
        ModelError: there is none, or it cannot be loaded, or it has neither padding nor end-of-text token.
    """
    from transformers import AutoTokenizer

    if not any((source.folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ModelError(f"{source.label}: has no tokenizer; add its tokenizer.json (or vocab.json) to the folder")
    _require_reader(source)
    stray = next(source.folder.glob("additional_chat_templates/._*.jinja"), None)
    if stray:
        raise ModelError(f"{source.label}: {stray.name} is a leftover of macOS, no chat template; remove it")
    config = _config(source)  # transformers reads it too: what is wrong with it is not the tokenizer's fault
    with _quiet_transformers():
        try:
            with without_panic():
                tokenizer = AutoTokenizer.from_pretrained(
                    source.folder, config=config, trust_remote_code=False, local_files_only=True
                )
        except Exception as error:  # the tokenizers library raises bare Exceptions for damaged files
            raise ModelError(
                f"{source.label}: the tokenizer cannot be loaded ({_reason(error)}); get its files again"
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


def _require_reader(source: ModelSource) -> None:
    """Say which package reads a tokenizer that is in tokenizer.model alone, where that package is not here."""
    file = source.folder / "tokenizer.model"
    if any((source.folder / name).is_file() for name in ("tokenizer.json", "vocab.json")) or not file.is_file():
        return
    with file.open("rb") as opened:
        ranks = _RANK.match(opened.read(1024))  # lines of a token in base64 and its rank
    packages = {"tiktoken": "tiktoken"} if ranks else {"sentencepiece": "sentencepiece", "google.protobuf": "protobuf"}
    lacking = [package for module, package in packages.items() if not _is_installed(module)]
    if lacking:
        raise ModelError(
            f"{source.label}: the tokenizer is only in tokenizer.model, and what reads that is not installed; "
            f"pip install {' '.join(lacking)}, or add the tokenizer.json of the same tokenizer"
        )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that would hold it
        return False


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


def _check_tie(source: ModelSource, anatomy: Anatomy, shards: "Shards") -> None:
    """Refuse a model whose config ties the embeddings while its files hold two different ones.

    Raises:
        ModelError: they differ.
    """
    family = FAMILIES[anatomy.family]
    listed = memory_names(source.headers(), family, source.label)
    pair = [listed.get(f"{path}.weight") for path in (family.embed, family.head)]
    if not anatomy.tied or None in pair:
        return
    one, two = (shards.tensor(each) for each in pair)
    step = 4096
    if one.shape != two.shape or any(not one[i : i + step].equal(two[i : i + step]) for i in range(0, len(one), step)):
        raise ModelError(
            f"{anatomy.label}: config.json ties the embeddings, but the file holds a different output layer; "
            "set tie_word_embeddings to false in config.json"
        )


def _reason(error: BaseException) -> str:
    """Return what went wrong in one line: transformers' config checks name the check first and the reason below it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = lines[0] if len(lines) == 1 or not lines[0].endswith(":") else lines[1].partition("Error: ")[2] or lines[1]
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
