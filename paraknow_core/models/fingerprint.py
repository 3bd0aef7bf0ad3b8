"""What identifies a model's content: hashes of its files, independent of where they lie and what they are called."""

import hashlib
import time
from pathlib import Path

from paraknow_core.errors import ModelError
from paraknow_core.files.json_file import read_json, write_json
from paraknow_core.models.source import ModelSource

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.model.v3",
    "tekken.json",
    "tiktoken.model",
)
CHUNK_BYTES = 1 << 22
MEMO_ENTRIES = 2000
SETTLED_SECONDS = 2  # a file younger than this may change again without its time stamps moving


def weights_fingerprint(source: ModelSource, memo: Path | None = None) -> str:
    """Hash a model's config and weights.

    Args:
        source: a resolved model whose weights are on this machine.
        memo: a JSON file that remembers the hashes of unchanged files (by device, inode, size and times).

    Returns:
        64 hexadecimal digits: sha256 over the hashes of config.json and of every weight file in order of name.

    Raises:
        ModelError: a file is missing or unreadable, or changes while it is read.
    """
    remembered = _read_memo(memo)
    fresh: dict[str, str] = {}
    total = hashlib.sha256()
    for path in (source.folder / "config.json", *source.weight_files()):
        total.update(f"{path.name} {_file_hash(path, remembered, fresh, source.label)}\n".encode())
    if memo and fresh:
        # Read again: another process may have added its own in the long time hashing takes.
        entries = _read_memo(memo) | fresh
        write_json(memo, dict(list(entries.items())[-MEMO_ENTRIES:]), durable=False)
    return total.hexdigest()


def tokenizer_fingerprint(source: ModelSource) -> str:
    """Hash the files that make up a model's tokenizer.

    Returns:
        64 hexadecimal digits, or "none" for a model without a tokenizer.

    Raises:
        ModelError: a file is unreadable.
    """
    present = [source.folder / name for name in TOKENIZER_FILES if (source.folder / name).is_file()]
    present += sorted((source.folder / "additional_chat_templates").glob("[!.]*.jinja"))
    if not present:
        return "none"
    total = hashlib.sha256()
    for path in present:
        total.update(f"{path.name} {_file_hash(path, {}, {}, source.label)}\n".encode())
    return total.hexdigest()


def folder_stamp(folder: Path) -> tuple[tuple[str, str], ...] | None:
    """Name what a model's folder holds, without reading it: name, inode, size and times of each file.

    Returns:
        None where that does not tell: a file is so young that it may change again without its time stamps moving, or
        none can be listed.
    """
    try:
        entries = [*folder.iterdir(), *folder.glob("additional_chat_templates/*")]
        files = sorted(path for path in entries if path.is_file())
        latest = max(max(path.stat().st_mtime, path.stat().st_ctime) for path in files)
        return tuple((str(p), _identity(p)) for p in files) if time.time() - latest > SETTLED_SECONDS else None
    except (OSError, ValueError):
        return None


def _read_memo(memo: Path | None) -> dict[str, str]:
    entries = read_json(memo, {}) if memo else {}
    return entries if isinstance(entries, dict) else {}


def _file_hash(path: Path, remembered: dict[str, str], fresh: dict[str, str], label: str) -> str:
    """Return a file's sha256, from `remembered` if nothing about the file changed; note a new one in `fresh`."""
    try:
        before = _identity(path)
        memory = remembered.get(before)
        if isinstance(memory, str) and len(memory) == 64:
            return memory
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
        if _identity(path) != before:
            raise ModelError(f"{label}: {path.name} changed while it was read; wait until it is written and try again")
        if time.time() - path.stat().st_mtime > SETTLED_SECONDS:
            fresh[before] = digest.hexdigest()
    except OSError as error:
        raise ModelError(
            f"{label}: {path.name} cannot be read ({error.strerror}); check the file and its rights"
        ) from None
    return digest.hexdigest()


def _identity(path: Path) -> str:
    status = path.stat()
    return f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"
