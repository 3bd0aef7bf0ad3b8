"""Where things live on this machine: the project, and the workspace, which holds everything that is written."""

import os
from dataclasses import dataclass
from pathlib import Path

from paraknow_core.errors import RunError

PROJECT_ROOT = Path(__file__).resolve().parent.parent
WORKSPACE_VARIABLE = "PARAKNOW_WORKSPACE"


@dataclass(frozen=True)
class Workspace:
    """The folder that holds everything the workbench writes (default: `cache/` of the project)."""

    root: Path

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def studies(self) -> Path:
        return self.root / "studies"

    @property
    def sensitivity(self) -> Path:
        return self.root / "sensitivity"

    @property
    def untrained(self) -> Path:
        return self.root / "untrained"

    @property
    def similarity(self) -> Path:
        return self.root / "similarity"

    @property
    def evaluations(self) -> Path:
        return self.root / "evaluations"

    @property
    def uploads(self) -> Path:
        return self.root / "uploads"

    @property
    def settings_file(self) -> Path:
        return self.root / "settings.yaml"


def workspace(root: Path | str | None = None) -> Workspace:
    """Return the workspace: the argument, else $PARAKNOW_WORKSPACE, else `cache/` of the project. Creates nothing."""
    chosen = root or os.environ.get(WORKSPACE_VARIABLE) or PROJECT_ROOT / "cache"
    return Workspace(Path(chosen).expanduser().resolve())


def contained(root: Path, name: str) -> Path:
    """Return `root / name` if it stays inside `root`.

    Raises:
        RunError: the name is empty, hidden, absolute, or leads outside.
    """
    candidate = (root / name).resolve()
    if not name or name.startswith(".") or candidate.parent != root.resolve():
        raise RunError(f"name: '{name}' is not a plain name inside {root.name}/; use letters, digits, '-' and '_'")
    return candidate
