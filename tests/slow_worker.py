"""A stand-in for the Python that the local engine starts: executes run folders without a model.

Called as `slow_worker.py -m paraknow_core run FOLDER...`. A folder's spec decides what happens: the name `fails` ends
in a failure, `slow` goes on until it is stopped, anything else ends at once.
"""

import sys
import time
from pathlib import Path

from paraknow_core.errors import DataError
from paraknow_core.paths import write_json
from paraknow_core.runs import RunFolder
from paraknow_core.writer import RunWriter


def work(run: RunFolder) -> None:
    """Execute one folder."""
    name = run.spec().name
    with RunWriter(run) as writer:
        writer.stage("fine-tuning")
        print(f"working on {name}", flush=True)
        if name == "fails":
            raise DataError("task: no such file; give a path that exists")
        for step in range(1, 600 if name == "slow" else 2):
            writer.check_stop()
            writer.progress(step, 600)
            writer.event("metrics", step=step, loss=1 / step)
            time.sleep(0.1 if name == "slow" else 0)
    if run.status().state == "done":
        write_json(run.file("result.json"), {"scores": [], "timings": {}})


if __name__ == "__main__":
    module, target, command, *folders = sys.argv[1:]
    assert (module, target, command) == ("-m", "paraknow_core", "run")
    for folder in folders:
        try:
            work(RunFolder(Path(folder)))
        except DataError as error:
            print(error, file=sys.stderr, flush=True)
