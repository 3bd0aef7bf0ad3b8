"""Models from a hub: a revision becomes a commit once, only the files that are read are fetched, every failure is a
sentence. Needs huggingface_hub, nothing heavier."""

import errno
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from paraknow_core.errors import ModelError
from paraknow_core.models.headers import INDEX_FILE, SINGLE_FILE, TensorHeader, weight_file_names

SMALL_FILES = [
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    INDEX_FILE,
    "pytorch_model.bin.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
]
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]*", re.ASCII)
_NETWORK_LIBRARIES = {"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3"}

# What the hub's library raises that takes an answer apart which is none of a hub: a page to log in, a torn text.
_NOT_UNDERSTOOD = (ValueError, TypeError, LookupError, AttributeError, RecursionError, EOFError)
NO_HUB = (
    "what answered is not the hub, or its answer is damaged; open any page in a browser to see whether this network "
    "asks you to log in, then try again"
)

Fetched = tuple[Path, str, Mapping[str, TensorHeader] | None]


def fetch(repository: str, revision: str | None, *, offline: bool, weights: bool) -> Fetched:
    """Bring a model from the hub into its local cache.

    Args:
        repository: hub id, `owner/name`.
        revision: branch, tag or commit; None for the main branch.
        offline: only look into the local cache.
        weights: also fetch the weights; otherwise read their headers by range requests, unless they are here.

    Returns:
        (folder in the cache, commit, headers if the weights are not in that folder).

    Raises:
        ModelError: for everything a user or a network can cause, with the next step.
    """
    import huggingface_hub

    _check_revision(repository, revision)
    with _sentences(repository, revision, offline), _no_progress_bars():
        folder = Path(
            huggingface_hub.snapshot_download(
                repository, revision=revision, allow_patterns=SMALL_FILES, local_files_only=offline
            )
        )
    commit = folder.name
    if _has_weights(folder, repository):
        return folder, commit, None
    if offline:
        raise ModelError(
            f"{repository}: the local cache does not hold all its weights; allow the network once, or give a folder"
        )
    if not weights and (folder / "config.json").exists():
        with _sentences(repository, revision, offline), _no_progress_bars():
            return folder, commit, _remote_headers(repository, commit)
    files = weight_file_names(folder, repository) if (folder / INDEX_FILE).exists() else [SINGLE_FILE]
    with _sentences(repository, revision, offline):
        huggingface_hub.snapshot_download(repository, revision=commit, allow_patterns=files)
    weight_file_names(folder, repository)  # without any weights this says what is there instead
    return folder, commit, None


def _check_revision(repository: str, revision: str | None) -> None:
    # It becomes part of a path in the cache, so it must not lead elsewhere.
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise ModelError(f"{repository}: '{revision}' is not a revision; give a branch, tag or commit")


def _has_weights(folder: Path, repository: str) -> bool:
    if not (folder / SINGLE_FILE).exists() and not (folder / INDEX_FILE).exists():
        return False
    return all((folder / name).is_file() for name in weight_file_names(folder, repository))


def _remote_headers(repository: str, commit: str) -> dict[str, TensorHeader]:
    """Read the headers of a hub model's weights: a few kilobytes a file."""
    import huggingface_hub

    metadata = huggingface_hub.get_safetensors_metadata(repository, revision=commit)
    return {
        name: TensorHeader(name, tensor.dtype, tuple(tensor.shape), file, *tensor.data_offsets)
        for file, content in metadata.files_metadata.items()
        for name, tensor in content.tensors.items()
    }


@contextmanager
def _sentences(repository: str, revision: str | None, offline: bool) -> Iterator[None]:
    """Turn what the hub's library raises into a ModelError; never repeats its text, which may hold an address."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        sentence = _sentence(error, revision, offline)
        if sentence is None:
            raise
        raise ModelError(f"{repository}: {sentence}") from None


def _sentence(error: Exception, revision: str | None, offline: bool) -> str | None:
    """Return what went wrong and what to do, or None for what no user or network can cause."""
    from huggingface_hub import errors

    if isinstance(error.__cause__, errors.OfflineModeIsEnabled):
        error = error.__cause__
    # From the special to the general: the classes inherit from each other.
    for kind, sentence in (
        (
            errors.GatedRepoError,
            "access is restricted; accept its terms on the model's page and log in with `hf auth login`",
        ),
        (errors.DisabledRepoError, "its owner has disabled it; choose another model"),
        (
            errors.RepositoryNotFoundError,
            "there is no such model on the hub, or it is private; check the spelling, log in with `hf auth login`, "
            "or write ./ before the name of a folder",
        ),
        (
            errors.RevisionNotFoundError,
            f"there is no revision {revision or 'main'}; choose a branch, tag or commit of the model's page",
        ),
        (
            errors.LocalEntryNotFoundError,
            "the local cache does not hold it and the network is off; allow the network once, or give a folder"
            if offline
            else "the hub cannot be reached and the local cache does not hold it; check the network, or give a folder",
        ),
        (
            errors.OfflineModeIsEnabled,
            "HF_HUB_OFFLINE is set and the local cache does not hold it; unset it once, or give a folder",
        ),
        (errors.NotASafetensorsRepoError, "has no safetensors weights, and only those are read; choose another model"),
        (errors.SafetensorsParsingError, "its weights are not whole safetensors files; choose another revision"),
        (errors.HFValidationError, "not a hub id; give owner/name, or write ./ before the name of a folder"),
    ):
        if isinstance(error, kind):
            return sentence
    if isinstance(error, errors.HfHubHTTPError):
        return _status_sentence(getattr(error.response, "status_code", None))
    return _system_sentence(error)


def _status_sentence(status: int | None) -> str:
    if status in (401, 403):
        return "the hub refuses access; log in with `hf auth login`, or choose another model"
    if status == 429:
        return "the hub asks to slow down; wait a few minutes and try again"
    if status and status >= 500:
        return f"the hub has trouble (status {status}); try again later"
    return f"the hub answers with status {status}; check the name and the revision"


def _system_sentence(error: Exception) -> str | None:
    code = getattr(error, "errno", None)
    if code in (errno.ENOSPC, errno.EDQUOT):
        return "the disk of the hub's cache is full; free space, or set HF_HOME to a folder on a larger disk"
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "the hub's cache cannot be written; correct its rights, or set HF_HOME to a folder of yours"
    if isinstance(error, _NOT_UNDERSTOOD):
        return NO_HUB
    network = type(error).__module__.split(".")[0] in _NETWORK_LIBRARIES
    if network or isinstance(error, (ConnectionError, TimeoutError)):
        return "the hub cannot be reached; check the network and try again, or give a folder"
    return None


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Small files need no bar; a download of weights keeps its own."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
