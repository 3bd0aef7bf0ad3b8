"""Studies whose runs are executed without a model: each writes what a real one writes, by a rule that tests know.

As a program (`python -m tests.studies.conducting FOLDER WORKSPACE`) it conducts a study whose every second run goes on
until it is killed. `executing` makes it what engines start in place of the pipeline.
"""

import math
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from paraknow_core.engines.inline import InlineEngine
from paraknow_core.errors import DataError
from paraknow_core.files.json_file import write_json
from paraknow_core.paths import Workspace
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.writer import RunWriter
from paraknow_core.spec import RunSpec
from paraknow_core.studies.conduct import conduct
from paraknow_core.studies.folder import StudyFolder

BEST_RATE = 3e-3  # where the validation loss is lowest
DIVERGES = 0.5  # the rate from which on there is none
EXAMPLES = 50


def never(_: RunSpec) -> bool:
    return False


class Fake:
    """Executes runs by a rule, and remembers which.

    Attributes:
        ran: specs in the order in which their runs were begun.
        fails: whether the run of a spec fails.
        best: learning rate of the lowest validation loss, of a spec.
        slow: seconds that a run of a spec takes; it may be stopped meanwhile.
    """

    def __init__(
        self,
        fails: Callable[[RunSpec], bool] = never,
        best: Callable[[RunSpec], float] = lambda spec: BEST_RATE,
        slow: Callable[[RunSpec], float] = lambda spec: 0.0,
    ) -> None:
        self.ran: list[RunSpec] = []
        self.fails, self.best, self.slow = fails, best, slow

    def __call__(self, run: RunFolder) -> None:
        spec = run.spec()
        self.ran.append(spec)
        with RunWriter(run) as writer:
            writer.stage("fine-tuning")
            end = time.monotonic() + self.slow(spec)
            while time.monotonic() < end:
                writer.check_stop()
                time.sleep(0.01)
            if self.fails(spec):
                raise DataError("task: no such file; give a path that exists")
            write_json(run.file("result.json"), result_of(run, spec, self.best(spec)))


def result_of(run: RunFolder, spec: RunSpec, best: float) -> dict:
    """Write predictions, and return what a run results in."""
    rate, steps = spec.finetuning.learning_rate, spec.finetuning.max_steps
    steps = math.ceil(512 / spec.finetuning.batch_size) if steps is None else steps
    result = {
        "trainable_parameters": 1000 * spec.factorisation.rank,
        "budget": {
            "steps": steps,
            "tokens": 100 * steps * spec.finetuning.batch_size,
            "trainable_parameters": 1000 * spec.factorisation.rank,
        },
        "timings": {"fine-tuning": 1.0},
    }
    if spec.until == "training":
        loss = None if rate >= DIVERGES else 2 + math.log10(rate / best) ** 2
        diverged = {"diverged": {"step": 3, "message": "diverged"}} if loss is None else {}
        return result | {"validation": {"final": loss}, "scores": []} | diverged
    chance = random.Random(f"{spec.method} {spec.seed} {spec.extraction.structure}")
    right = 0.6 if spec.method == "seeking" else 0.3
    scores = [float(chance.random() < right) for _ in range(EXAMPLES)]
    lines = [f'{{"scorer": "number_match", "id": "{i}", "score": {score}}}\n' for i, score in enumerate(scores)]
    run.file("predictions.jsonl").write_text("".join(lines))
    score = {"scorer": "number_match", "unit": "share", "value": sum(scores) / EXAMPLES, "n": EXAMPLES}
    return result | {"scores": [score], "references": {name: [score | {"value": 0.1}] for name in spec.references}}


EXECUTING = """#!{python}
import os, signal, sys
from pathlib import Path
from tests.studies.conducting import Fake, RunFolder

def dies(spec):
    times = Path({deaths!r}) / spec.method
    left = int(times.read_text()) if times.exists() else 0
    if left:
        times.write_text(str(left - 1))
        if (Path({deaths!r}) / f"{{spec.method}} asked").exists():
            Path(folder, "stop").write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return (Path({deaths!r}) / f"{{spec.method}} fails").exists()

for folder in sys.argv[4:]:
    Fake(fails=dies)(RunFolder(Path(folder)))
"""


def executing(folder: Path) -> Path:
    """Write a program that engines can start in place of Python and that executes runs by `Fake`.

    A file `METHOD` in this folder says how many more times a run of this method is killed in the middle; with a file
    `METHOD asked` it was asked to stop before; `METHOD fails` makes it fail.
    """
    script = folder / "worker"
    script.write_text(EXECUTING.format(python=sys.executable, deaths=str(folder)))
    script.chmod(0o755)
    return script


def conducted(folder: StudyFolder, fake: Fake, **more: object) -> None:
    """Conduct a study with runs that are executed by this fake, to its end."""
    conduct(folder, InlineEngine(folder.place, fake), **more)


if __name__ == "__main__":
    place = Workspace(Path(sys.argv[2]))
    count = iter(range(10**6))
    conducted(StudyFolder(Path(sys.argv[1]), place), Fake(slow=lambda spec: 600.0 if next(count) % 2 else 0.0))
