"""What the hub's cache of this machine holds: `{"stamp"}` (changes when the cache does) -> models and data sets."""

from typing import Any

from paraknow_core.paths import Workspace
from paraknow_core.settings import Settings


def answer(_place: Workspace, _settings: Settings, _request: dict[str, Any]) -> dict[str, Any]:
    """Return `models` and `datasets`, each a list of name, revisions (newest first, with their branches) and bytes."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except (CacheNotFound, OSError, ValueError):
        repositories = frozenset()
    found: dict[str, list[dict[str, Any]]] = {"model": [], "dataset": []}
    for repository in sorted(repositories, key=lambda each: each.repo_id.casefold()):
        if repository.repo_type in found:
            found[repository.repo_type].append(_described(repository))
    return {"models": found["model"], "datasets": found["dataset"]}


def _described(repository: Any) -> dict[str, Any]:
    newest_first = sorted(repository.revisions, key=lambda each: -each.last_modified)
    files = {file.file_name for revision in newest_first for file in revision.files}
    return {
        "name": repository.repo_id,
        "bytes": repository.size_on_disk,
        "weights": any(name.endswith(".safetensors") for name in files),
        "config": "config.json" in files,
        "revisions": [{"commit": each.commit_hash, "refs": sorted(each.refs)} for each in newest_first],
    }
