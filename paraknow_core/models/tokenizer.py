"""Load a model's tokenizer with transformers, from its folder, and say which package is missing for it."""

import re
from importlib.util import find_spec
from typing import TYPE_CHECKING

from paraknow_core.errors import ModelError, without_panic
from paraknow_core.models.config import read_dimensions
from paraknow_core.models.library import library_config, one_line_reason, quiet_transformers
from paraknow_core.models.source import ModelSource

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_RANK = re.compile(rb"[A-Za-z0-9+/]+={0,2} [0-9]+\r?\n")


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
    config = library_config(source)  # transformers reads it too: what is wrong with it is not the tokenizer's fault
    with quiet_transformers():
        try:
            with without_panic():
                tokenizer = AutoTokenizer.from_pretrained(
                    source.folder, config=config, trust_remote_code=False, local_files_only=True
                )
        except Exception as error:  # the tokenizers library raises bare Exceptions for damaged files
            raise ModelError(
                f"{source.label}: the tokenizer cannot be loaded ({one_line_reason(error)}); get its files again"
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
