"""Where a model comes from: bundled with the project, a local folder, or a hub. All become a folder here."""

import codecs
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from paraknow_core.errors import ModelError
from paraknow_core.files.naming import BUNDLED_PREFIX, holds_secret, named
from paraknow_core.models.headers import TensorHeader, read_headers, weight_file_names

BUNDLED_FOLDER = Path(__file__).resolve().parent.parent / "demo" / "models"
MAX_CONFIG_BYTES = 10_000_000
_BYTE_ORDER_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class ModelSource:
    """A model found on this machine (or, for inspection only, its config here and its headers read from a hub).

    Attributes:
        label: the source as the user gave it.
        kind: "bundled", "local" or "hub".
        folder: holds config.json, the tokenizer's files and, unless only inspected, the weights.
        revision: the commit, for a hub model.
        remote: headers read from the hub when the weights were not downloaded.
    """

    label: str
    kind: str
    folder: Path
    revision: str | None = None
    remote: Mapping[str, TensorHeader] | None = field(default=None, repr=False, compare=False)

    def config(self) -> dict:
        """Return config.json as a dict.

        Raises:
            ModelError: it is missing or not a JSON object.
        """
        return read_json_object(self.folder / "config.json", self.label)

    def headers(self) -> dict[str, TensorHeader]:
        """Return tensor name on disk -> header, without reading a weight; see `read_headers`."""
        return dict(self.remote) if self.remote is not None else read_headers(self.folder, self.label)

    def weight_files(self) -> list[Path]:
        """Return the paths of the safetensors files, sorted by name.

        Raises:
            ModelError: the weights are not on this machine, or a file is missing.
        """
        if self.remote is not None:
            raise ModelError(f"{self.label}: only its headers were read; resolve it with its weights first")
        files = [self.folder / name for name in weight_file_names(self.folder, self.label)]
        missing = next((file.name for file in files if not file.is_file()), None)
        if missing:
            raise ModelError(f"{self.label}: {missing} is not in the folder; copy or download it")
        return files


def resolve_model(
    source: str, revision: str | None = None, *, offline: bool = False, weights: bool = True
) -> ModelSource:
    """Find a model.

    Args:
        source: `bundled:NAME`, a local folder, or a hub id `owner/name`. An existing folder wins over a hub id.
        revision: hub only: branch, tag or commit.
        offline: use only what the hub's local cache holds.
        weights: False fetches only the small files of a hub model and reads the weights' headers by range requests.

    Returns:
        The source, with the hub revision resolved to its commit.

    Raises:
        ModelError: one sentence with the next step.
    """
    name = named(source)
    label = name.text
    if "://" in label or "@" in label or holds_secret(label):  # may hold a password, so it is not repeated
        raise ModelError("model: an address was given; give bundled:NAME, a folder, or a hub id like owner/name")
    if name.kind == "bundled":
        _refuse_revision(label, revision)
        return ModelSource(label, "bundled", _bundled_folder(label))
    if name.path is not None and (label.startswith((".", "/", "~")) or (label and _is(Path.is_dir, name.path))):
        _refuse_revision(label, revision)
        return ModelSource(label, "local", _local_folder(name.path, label))
    if name.kind != "hub" or name.prefixed:
        hint = f"did you mean {BUNDLED_PREFIX}{label}?" if label in bundled_names() else "check the spelling"
        raise ModelError(
            f"model '{_short(label)}': neither an existing folder nor a hub id like owner/name nor bundled:NAME; {hint}"
        )
    from paraknow_core.models import hub  # loads huggingface_hub, which only hub models need

    folder, commit, remote = hub.fetch(label, revision, offline=offline, weights=weights)
    return ModelSource(label, "hub", folder, commit, remote)


def bundled_names() -> list[str]:
    """Return the names of the models that come with the project, sorted."""
    return sorted(entry.parent.name for entry in BUNDLED_FOLDER.glob("*/config.json"))


def read_json_object(path: Path, label: str) -> dict:
    """Read a model's JSON file that must hold an object.

    Raises:
        ModelError: missing, too large, or not a JSON object; says what the folder holds if it is no model.
    """
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ModelError(f"{label}: {path.name} is larger than 10 MB, which no such file is; get it again")
        content = path.read_bytes()
        if content.startswith(_BYTE_ORDER_MARKS):  # Python would read it; transformers, which reads it next, does not
            raise ModelError(
                f"{label}: {path.name} begins with a byte order mark, which transformers does not read; save it again "
                "as UTF-8 without one"
            )
        value = json.loads(content)
    except FileNotFoundError:
        raise ModelError(_why_no_config(path, label)) from None
    except (ValueError, RecursionError):
        value = None
    except OSError as error:
        raise ModelError(f"{label}: {path.name} cannot be read ({error.strerror}); check its rights") from None
    if not isinstance(value, dict):
        raise ModelError(f"{label}: {path.name} is not a JSON object; download or save the model again")
    return value


def _why_no_config(path: Path, label: str) -> str:
    if (path.parent / "adapter_config.json").exists():
        return f"{label}: holds an adapter, not a model; give its base model, or merge the adapter into it first"
    if any(not file.name.startswith(".") for file in path.parent.glob("*.gguf")):
        return f"{label}: holds a GGUF file; only safetensors models are read; use the model's original repository"
    return (
        f"{label}: has no {path.name}; give the folder (or repository) that holds config.json and safetensors weights"
    )


def _bundled_folder(label: str) -> Path:
    name, names = label.removeprefix(BUNDLED_PREFIX), bundled_names()
    if name not in names:  # also keeps names such as ../.. out
        choice = f"choose from {', '.join(names)}" if names else "none are installed; run `make demo`"
        raise ModelError(f"model '{_short(label)}': there is no bundled model of that name; {choice}")
    return BUNDLED_FOLDER / name


def _is(kind: Callable[[Path], bool], path: Path) -> bool:
    try:
        return kind(path)
    except (OSError, ValueError):  # a name too long for the file system, or one with a zero byte
        return False


def _local_folder(folder: Path, label: str) -> Path:
    if _is(Path.is_dir, folder):
        return folder.resolve()
    if _is(Path.is_file, folder):
        raise ModelError(f"model '{_short(label)}': is a file; give the folder that holds config.json and the weights")
    raise ModelError(f"model '{_short(label)}': there is no such folder; check the path")


def _short(label: str) -> str:
    """Return a name for a sentence: of a very long one, its two ends."""
    return label if len(label) <= 200 else f"{label[:80]}…{label[-80:]}"


def _refuse_revision(label: str, revision: str | None) -> None:
    if revision is not None:
        raise ModelError(f"model '{label}': revision {revision} was given, but only hub models have one; leave it out")
