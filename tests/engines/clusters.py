"""Starting the small cluster of `slurm_cluster.py`, and telling it what happens to jobs."""

import time
from pathlib import Path

from tests.conftest import ROOT
from tests.engines import slurm_cluster
from tests.engines.following import until


class SlurmCluster:
    """SLURM's commands in a folder, to be put on PATH."""

    def __init__(self, folder: Path, python: str, slots: int = 1) -> None:
        """Args: folder, a new one; python, which executes the commands; slots, how many jobs go on at a time."""
        self.folder = folder
        folder.mkdir()
        text = f"#!{python}\n{(ROOT / 'tests' / 'engines' / 'slurm_cluster.py').read_text()}"
        for name in slurm_cluster.COMMANDS:
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        (folder / "slots").write_text(str(slots))

    def tell(self, job: str, what: str) -> None:
        """Have this happen to a job that goes on, such as NODE_FAIL."""
        (self.folder / f"{job}.do").write_text(what)

    def calls(self, name: str = "") -> list[str]:
        """Return the commands that were called, those of this name."""
        file = self.folder / "calls"
        return [line for line in file.read_text().splitlines() if line.startswith(name)] if file.exists() else []

    def end(self) -> None:
        """End every job, and wait until the last one is gone."""
        (self.folder / "stop").write_text("")
        until(lambda: not any('"RUNNING"' in path.read_text() for path in self.folder.glob("*.json")))
        time.sleep(0.1)
