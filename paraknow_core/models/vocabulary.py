"""A tokenizer's vocabulary, read from its files, and which tokens two vocabularies share."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paraknow_core.errors import ModelError
from paraknow_core.models.fingerprint import tokenizer_fingerprint
from paraknow_core.models.json_skim import skim
from paraknow_core.models.source import ModelSource

if TYPE_CHECKING:
    from numpy import ndarray

MAX_TOKENIZER_BYTES = 500_000_000
_WANTED = {("added_tokens",), ("model", "type"), ("model", "vocab")}


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
        from paraknow_core.models.tokenizer import load_tokenizer  # which says what to install, if need be

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
