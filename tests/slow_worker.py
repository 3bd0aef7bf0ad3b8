"""A stand-in for the Python that the local engine starts: executes run folders without a model.

Called as `slow_worker.py -m paraknow_core run FOLDER...`. A folder's spec decides what happens: the name `fails` ends
in a failure, `slow` goes on until it is stopped, `deaf` does not even hear that, `short` takes a second,
`bug` breaks the process' code; anything else ends at once. Called with `work`, it is a warm worker that does the same
for what its owner sends; with `serve queue`, it is the real queue, which then starts this very file; so do the nodes of
a Ray cluster with `serve ray`.
"""

import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from paraknow_core.errors import DataError
from paraknow_core.files.json_file import write_json
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.writer import RunWriter
from paraknow_core.settings import flags_of

STEPS = {"slow": 600, "deaf": 600, "short": 10}  # of a tenth of a second


def work(run: RunFolder) -> None:
    """Execute one folder."""
    name = run.spec().name
    with RunWriter(run) as writer:
        writer.stage("fine-tuning")
        print(f"working on {name}", flush=True)
        if name == "fails":
            raise DataError("task: no such file; give a path that exists")
        if name == "bug":
            raise ZeroDivisionError
        for step in range(1, STEPS.get(name, 1) + 1):
            if name != "deaf":
                writer.check_stop()
            writer.progress(step, 600)
            writer.event("metrics", step=step, loss=1 / step)
            time.sleep(0.1 if name in STEPS else 0)
    if run.status().state == "done":
        write_json(run.file("result.json"), {"scores": [], "timings": {}})


def say_flags(flags: list[str]) -> None:
    if flags:
        print("with", *flags, flush=True)


def work_warm(runs: Sequence[RunFolder], settings: dict) -> bool:
    """Execute folders for the owner of this process, several at the same time; False after a bug."""
    if len(runs) > 1:
        with ThreadPoolExecutor(len(runs)) as pool:
            return all(pool.map(lambda run: work_warm([run], settings), runs))
    try:
        say_flags(flags_of(settings))
        work(runs[0])
    except DataError as error:
        print(error, file=sys.stderr, flush=True)
    except ZeroDivisionError:
        return False
    return True


def main(module: str, target: str, command: str, *rest: str) -> None:
    """Do what the command line would."""
    assert (module, target) == ("-m", "paraknow_core")
    if (command, rest) == ("serve", ("ray",)):
        from paraknow_core.engines import ray_service
        from paraknow_core.paths import workspace

        ray_service.PYTHON = [str(Path(sys.argv[0]).resolve())]
        ray_service.serve(workspace())
        return
    if command == "serve":
        from paraknow_core.engines import queue_service
        from paraknow_core.paths import workspace

        sys.executable = str(Path(sys.argv[0]).resolve())
        queue_service.GRACE_S = queue_service.HARDER_S = 0.5
        queue_service.serve(workspace())
        return
    if command == "work":
        from paraknow_core.engines import workers

        workers.work(work_warm, tied="--tied" in rest)
        return
    assert command == "run"
    flags = [part for part in rest if part.startswith("--")]
    for folder in rest[len(flags) :]:
        try:
            say_flags(flags)
            work(RunFolder(Path(folder)))
        except DataError as error:
            print(error, file=sys.stderr, flush=True)


if __name__ == "__main__":
    if sys.argv[3] in ("run", "work"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as a run that is busy with one long computation
    main(*sys.argv[1:])
