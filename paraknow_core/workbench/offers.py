"""What pages offer to choose from without asking the desk: bundled models and tasks, and when the hub cache changed."""

import os
from pathlib import Path

from paraknow_core.demo.tasks import TASKS
from paraknow_core.display import count
from paraknow_core.files.json_file import read_json
from paraknow_core.models.source import BUNDLED_FOLDER


def bundled_models() -> dict[str, str]:
    """Return source -> label of the bundled models, teacher first."""
    entries = (read_json(BUNDLED_FOLDER / "manifest.json", {}) or {}).get("models") or {}
    names = sorted((file.parent.name for file in BUNDLED_FOLDER.glob("*/config.json")), key=lambda n: n != "teacher")
    sizes = {name: entries.get(name, {}).get("parameters") for name in names}
    return {f"bundled:{n}": f"{n} ({count(sizes[n])} parameters)" if sizes[n] else n for n in names}


def bundled_tasks() -> dict[str, str]:
    """Return source -> label of the bundled tasks."""
    return {f"bundled:{name}": f"{info.title} (like {info.mirrors})" for name, info in TASKS.items()}


def hub_cache_stamp() -> int:
    """Return something that changes when the hub's cache of this machine does: the newest time of its folders."""
    home = Path(os.environ.get("HF_HOME") or Path("~/.cache/huggingface").expanduser())
    folder = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    newest = 0
    try:
        for entry in [folder, *folder.glob("*--*--*/snapshots"), *folder.glob("*--*--*/refs")]:
            newest = max(newest, entry.stat().st_mtime_ns)
    except OSError:
        pass
    return newest
