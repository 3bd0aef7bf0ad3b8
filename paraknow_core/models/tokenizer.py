"""A model's tokenizer: which one it is, its vocabulary, which tokens two vocabularies share, and how it is loaded.

Identity and vocabulary are read from the files alone, as quickly as a page needs them; `load_tokenizer` gives
transformers' own object, and says which package is missing for it.
"""

import json
import re
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from paraknow_core.errors import ModelError, without_panic
from paraknow_core.models.config import read_dimensions
from paraknow_core.models.fingerprint import tokenizer_fingerprint
from paraknow_core.models.json_skim import skim
from paraknow_core.models.library import library_config, one_line_reason, quiet_transformers
from paraknow_core.models.source import ModelSource

if TYPE_CHECKING:
    from numpy import ndarray
    from transformers import PreTrainedTokenizerBase

MAX_TOKENIZER_BYTES = 500_000_000
_WANTED = {("added_tokens",), ("model", "type"), ("model", "vocab")}
_RANK = re.compile(rb"[A-Za-z0-9+/]+={0,2} [0-9]+\r?\n")


@dataclass(frozen=True)
class TokenizerIdentity:
    """Which tokenizer a model has. `size`: number of tokens, None if only sentencepiece's own file is there."""

    kind: str
    size: int | None
    sha256: str


@dataclass(frozen=True, eq=False)
class TokenAlignment:
    """The tokens two vocabularies share.

    Attributes:
        identical: both give every token the same id.
        teacher_ids, student_ids: (shared,) int64; entry i of both is the same token; ordered by student id.
        teacher_size, student_size: number of tokens of each.
    """

    identical: bool
    teacher_ids: "ndarray"
    student_ids: "ndarray"
    teacher_size: int
    student_size: int

    @property
    def shared(self) -> int:
        return len(self.student_ids)


def vocabulary(source: ModelSource) -> dict[str, int]:
    """Read a model's vocabulary, added tokens included.

    Args:
        source: a resolved model.

    Returns:
        Token -> id.

    Raises:
        ModelError: there is no readable tokenizer; says which files would do.
    """
    return _read(source)[1]


def tokenizer_identity(source: ModelSource) -> TokenizerIdentity | None:
    """Return which tokenizer a model has, or None if its folder holds none.

    Raises:
        ModelError: the tokenizer's files are damaged.
    """
    fingerprint = tokenizer_fingerprint(source)
    if (source.folder / "tokenizer.json").is_file() or (source.folder / "vocab.json").is_file():
        kind, tokens = _read(source)
        return TokenizerIdentity(kind, len(tokens), fingerprint)
    if (source.folder / "tokenizer.model").is_file():
        return TokenizerIdentity("sentencepiece", None, fingerprint)
    return None


def align_tokens(teacher: dict[str, int], student: dict[str, int]) -> TokenAlignment:
    """Find the tokens (as text) that two vocabularies share.

    Args:
        teacher, student: token -> id.

    Returns:
        The alignment.
    """
    import numpy as np

    pairs = sorted((index, teacher[token]) for token, index in student.items() if token in teacher)
    ids = np.array(pairs, dtype=np.int64).reshape(len(pairs), 2)
    return TokenAlignment(teacher == student, ids[:, 1].copy(), ids[:, 0].copy(), len(teacher), len(student))


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


def _read(source: ModelSource) -> tuple[str, dict[str, int]]:
    """Return the tokenizer's kind and its vocabulary."""
    folder = source.folder
    if (folder / "tokenizer.json").is_file():
        return _read_tokenizer_json(source)
    if (folder / "vocab.json").is_file():
        tokens = _load(source, "vocab.json")
        if (folder / "added_tokens.json").is_file():
            tokens = tokens | _load(source, "added_tokens.json")
        return "BPE", _checked(tokens, source, "vocab.json")
    if (folder / "tokenizer.model").is_file():
        return "sentencepiece", dict(load_tokenizer(source).get_vocab())
    raise ModelError(f"{source.label}: has no tokenizer; add its tokenizer.json (or vocab.json) to the folder")


def _read_tokenizer_json(source: ModelSource) -> tuple[str, dict[str, int]]:
    name = "tokenizer.json"
    try:
        parts = skim(_bytes(source, name), _WANTED)
        listed = parts.get(("model", "vocab"))
        if isinstance(listed, list):  # a unigram model lists pieces with scores; the position is the id
            listed = {piece[0]: index for index, piece in enumerate(listed)}
        added = {entry["content"]: entry["id"] for entry in parts.get(("added_tokens",)) or ()}
    except (ValueError, RecursionError, TypeError, KeyError, IndexError, AttributeError):
        raise ModelError(f"{source.label}: {name} is not a tokenizer's file; get it again") from None
    kind = parts.get(("model", "type"))
    if not isinstance(listed, dict):
        raise ModelError(f"{source.label}: {name} has no model.vocab of tokens and ids; get it again")
    return kind if isinstance(kind, str) else "BPE", _checked(listed | added, source, name)


def _load(source: ModelSource, name: str) -> dict:
    try:
        value = json.loads(_bytes(source, name))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ModelError(f"{source.label}: {name} is not a JSON object; get it again")
    return value


def _bytes(source: ModelSource, name: str) -> bytes:
    try:
        if (source.folder / name).stat().st_size > MAX_TOKENIZER_BYTES:
            raise ModelError(f"{source.label}: {name} is larger than 500 MB, which no tokenizer is; get it again")
        return (source.folder / name).read_bytes()
    except OSError as error:
        raise ModelError(f"{source.label}: {name} cannot be read ({error.strerror}); check its rights") from None


def _checked(tokens: dict, source: ModelSource, name: str) -> dict[str, int]:
    if not all(type(index) is int and 0 <= index < 2**31 for index in tokens.values()):
        raise ModelError(f"{source.label}: {name} gives a token an id that is no whole number; get it again")
    return tokens


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
