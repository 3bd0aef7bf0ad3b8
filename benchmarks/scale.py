"""Ten thousand runs in one workspace: how long lists, starts and comparisons take, and how much memory.

    python -m benchmarks.scale [--small] [--keep DIR] [--only list|start|compare|page]

Every case runs in a process of its own, through the functions that pages and commands call.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks import _synthetic
from benchmarks._common import arguments, machine, publish
from benchmarks._synthetic import BIG, NEW, SAME, WAITS, Size
from paraknow_core.paths import PROJECT_ROOT, WORKSPACE_VARIABLE, Workspace

LIST_S, CLICK_S = 2.0, 1.0
FULL, SMALL = Size(10_000, 1_000, 1_000, 200), Size(300, 60, 40, 40)
AGAIN = 3
WINDOWS = 6
SETTLED_MS = 4_000  # until a window has all that it draws
ENOUGH_S = 4.0  # CPU seconds of a case; one that has taken more is called no third time
NOTES = [
    "First: the first call in a new process, its imports done before; again: the median of later ones, which is what",
    "a click or the next draw costs. CPU: of the first and of a later call; on a busy machine it says more than the",
    f"clock, and it decides. What opens must be there within {LIST_S:g} s, whatever answers a click within",
    f"{CLICK_S:g} s. Opened: files, in the first call and in a later one. Memory: what the process has grown by.",
]
Work = Callable[[], object]


def cases(place: Workspace, size: Size) -> dict[str, tuple[str, Callable[[], Work]]]:
    """Return group and preparation of every case; the preparation imports, and returns what is timed."""
    return {
        "run folders": ("list", lambda: _imported("paraknow_core.runs.folder", "list_runs", place)),
        "facts of all runs": ("list", lambda: _imported("paraknow_core.workbench.reading", "all_facts", place)),
        "names of all runs": ("list", lambda: _imported("paraknow_core.workbench.reading", "titles", place)),
        "`runs list`": ("list", lambda: _command(place, "runs", "list")),
        "`runs list --json`": ("list", lambda: _command(place, "runs", "list", "--json")),
        "`study list`": ("list", lambda: _command(place, "study", "list")),
        "Compare's rows": ("list", lambda: _rows(place)),
        "read the queue": ("start", lambda: _imported("paraknow_core.engines.queue", "read", place)),
        "submit one run, put first": ("start", lambda: _submit(place, 1)),
        f"submit {size.waiting:,} runs": ("start", lambda: _submit(place, size.waiting)),
        "how long the last one waits": ("start", lambda: _wait(place)),
        "what Start would do": ("start", lambda: _start(place)),
        "`study plan`, nothing there": ("start", lambda: _plan(place, size, NEW)),
        "`study plan`, all there": ("start", lambda: _plan(place, size, SAME)),
        "search the table": ("compare", lambda: _search(place)),
        "the newest and its siblings": ("compare", lambda: _siblings(place)),
        "runs of a study, as arms": ("compare", lambda: _arms(place)),
        "progress of a study": ("compare", lambda: _progress(place)),
        "outcome of a study": ("compare", lambda: _outcome(place)),
        "take over by content": ("compare", lambda: _take_over(place)),
        **{f"page {name}": ("page", lambda name=name: _page(place, name)) for name in PAGES},
        "page Ablations, a study": ("page", lambda: _page(place, "ablations", study=_folder(place, BIG).path.name)),
        "page Train, a run": ("page", lambda: _page(place, "train", run=_last_done(place))),
    }


PAGES = ("start", "models", "sensitivity", "mapping", "train", "compare", "ablations", "playground", "lessons")


def _imported(module: str, name: str, *arguments: Any) -> Work:
    function = getattr(__import__(module, fromlist=[name]), name)
    return lambda: function(*arguments)


def _command(place: Workspace, *words: str) -> Work:
    from typer.testing import CliRunner

    from paraknow_core.cli import app

    def work() -> None:
        done = CliRunner().invoke(app, ["--workspace", str(place.root), *words])
        if done.exit_code:
            raise SystemExit(done.output)

    return work


def _rows(place: Workspace) -> Work:
    from paraknow_core.runs.folder import list_runs
    from paraknow_core.runs.table import runs_table

    memo: dict = {}
    return lambda: runs_table(list_runs(place), memo)


def _submit(place: Workspace, count: int) -> Work:
    from paraknow_core.engines.queue import QueueEngine
    from paraknow_core.engines.service import Service
    from paraknow_core.runs.lifecycle import create_run
    from paraknow_core.spec import RunSpec

    Service.start = lambda _self: None  # no process: nothing is to be computed
    ready = [[create_run(place, RunSpec()) for _ in range(count)] for _ in range(AGAIN + 1 if count == 1 else 2)]
    return lambda: QueueEngine(place).submit(*ready.pop(), first=count == 1)


def _wait(place: Workspace) -> Work:
    from paraknow_core.engines import queue
    from paraknow_core.workbench import waiting

    last = queue.run_of(place, queue.read(place).waiting[-1])
    return lambda: waiting.wait_of(place, last)


def _start(place: Workspace) -> Work:
    from paraknow_core.workbench import starting
    from paraknow_core.workbench.draft import Draft

    return lambda: starting.plan(place, Draft())


def _plan(place: Workspace, size: Size, name: str) -> Work:
    from paraknow_core.studies.preview import preview
    from paraknow_core.workbench.past_runs import estimate_runs

    study = _synthetic.studies(size)[name]
    return lambda: preview(study, place, estimate_runs)


def _folder(place: Workspace, name: str) -> Any:
    from paraknow_core.studies.folder import list_studies

    slug = {BIG: "which-arm", SAME: "asked-again", NEW: "not-yet-run", WAITS: "in-line"}[name]
    return next(folder for folder in list_studies(place) if slug in folder.id)


def _search(place: Workspace) -> Work:
    from paraknow_core.workbench import reading
    from paraknow_core.workbench.views import compare

    table = _rows(place)()
    reading.titles(place)
    return lambda: compare.as_shown(compare.filtered(table, {}, "rank 8", place), reading.titles(place))


def _siblings(place: Workspace) -> Work:
    from paraknow_core.workbench.views import compare

    table = _rows(place)()
    return lambda: compare.suggestion(table, place)


def _arms(place: Workspace) -> Work:
    from paraknow_core.studies.arms import arms_of
    from paraknow_core.workbench import reading
    from paraknow_core.workbench.views import compare

    table, study = _rows(place)(), _folder(place, BIG).id

    def work() -> object:
        runs = [reading.run_named(place, name) for name in compare.of_study(table, study, place)]
        return arms_of([(run, reading.facts(run).spec) for run in runs], lambda run: reading.facts(run).result)

    return work


def _progress(place: Workspace) -> Work:
    from paraknow_core.workbench.views import ablations

    folder = _folder(place, BIG)
    return lambda: ablations.progress(folder).version


def _outcome(place: Workspace) -> Work:
    from paraknow_core.studies import outcome

    folder = _folder(place, BIG)
    return lambda: outcome.outcome(folder)


def _take_over(place: Workspace) -> Work:
    from paraknow_core.runs.writer import RunWriter
    from paraknow_core.studies import conduct
    from paraknow_core.studies.study import scored_cells

    folder = _folder(place, SAME)
    cells = list(scored_cells(folder.spec()))

    def work() -> None:
        folder.file("runs.json").unlink(missing_ok=True)
        with RunWriter(folder) as writer:
            conductor = conduct._Conductor(folder, None, None, writer, 1, None)
            conductor._take_over(cells)
        if len(conductor.answers) < len(cells):
            raise SystemExit(f"taken over: {len(conductor.answers)} of {len(cells)}")

    return work


def _last_done(place: Workspace) -> str:
    from paraknow_core.runs.folder import list_runs

    return next(run.id for run in list_runs(place) if run.status().state == "done")


def _page(place: Workspace, name: str, **query: str) -> Work:
    """Draw a page as a visitor does, without a browser."""
    from streamlit.testing.v1 import AppTest

    from paraknow_core.engines.service import Service

    Service.start = lambda _self: None
    empty = tempfile.TemporaryDirectory(prefix="paraknow-scale-", ignore_cleanup_errors=True)
    os.environ[WORKSPACE_VARIABLE] = empty.name  # what pages import is imported before
    app = AppTest.from_file(str(PROJECT_ROOT / "app.py"), default_timeout=600).run()
    app.switch_page(f"pages/{name}.py").run()
    for key, value in query.items():
        app.query_params[key] = value
    os.environ[WORKSPACE_VARIABLE] = str(place.root)

    def work() -> None:
        app.run()
        if app.exception:
            raise SystemExit(app.exception[0].value)
        empty.cleanup()

    return work


@contextmanager
def _opened() -> Iterator[list[int]]:
    """Count the files that are opened."""
    counts = [0]
    counting = True

    def hook(event: str, arguments: tuple) -> None:
        if counting and event == "open" and not isinstance(arguments[0], int):
            counts[0] += 1

    sys.addaudithook(hook)
    yield counts
    counting = False


def measure(place: Workspace, size: Size, case: str) -> dict[str, Any]:
    """Time one case in this process."""
    work = cases(place, size)[case][1]()
    process, times = psutil.Process(), []
    before = process.memory_info().rss
    with _opened() as opened:
        for number in range(AGAIN + 1):
            count, cpu, clock = opened[0], time.process_time(), time.perf_counter()
            try:
                work()
            except IndexError:  # nothing left to submit
                break
            times.append((time.perf_counter() - clock, time.process_time() - cpu, opened[0] - count))
            if number and sum(cpu for _, cpu, _ in times) > ENOUGH_S:
                break
    again = [statistics.median(part) for part in zip(*times[1:], strict=True)]
    return {
        "first_s": times[0][0],
        "again_s": again[0],
        "cpu_first_s": times[0][1],
        "cpu_again_s": again[1],
        "opened_first": times[0][2],
        "opened_again": round(again[2]),
        "memory_mb": (process.memory_info().rss - before) / 1e6,
    }


def _row(root: Path, size: Size, case: str, group: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.scale", "--child", json.dumps([str(root), asdict(size), case])]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    print(f"{case} ...", file=sys.stderr, flush=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"scale: {case}: {done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    limit = LIST_S if group in ("list", "page") else CLICK_S
    holds = found["cpu_first_s"] <= limit and found["cpu_again_s"] <= CLICK_S
    return {"case": case, "group": group, **found, "limit_s": limit, "holds": holds}


def sessions(size: Size) -> dict[str, Any]:
    """Measure what one more window costs the server, in MB: several are opened on Train, each a session of its own."""
    from benchmarks.pages import server, window

    with tempfile.TemporaryDirectory(prefix="paraknow-scale-", ignore_cleanup_errors=True) as folder:
        _synthetic.write(Workspace(Path(folder)), replace(size, waiting=0))  # or they would be executed
        with server(Path(folder)) as (address, process), window() as page:
            held = []
            for number in range(WINDOWS + 1):
                one = page if not number else page.context.browser.new_context().new_page()
                one.set_default_timeout(300_000)
                one.goto(f"{address}/train")
                one.get_by_text("Set up a transfer").first.wait_for()
                one.wait_for_timeout(SETTLED_MS)  # its strip never rests where runs are going on
                held.append(process.memory_info().rss / 1e6)
    return {"case": f"one more window on Train, {size.runs} runs", "memory_mb": (held[-1] - held[1]) / (WINDOWS - 1)}


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", help="one group of cases (list, start, compare, page), or one case")
    parser.add_argument("--plan", action="store_true", help="print the table of docs/scale.md, and nothing else")
    parser.add_argument("--sessions", action="store_true", help="measure a browser window, and nothing else")
    parser.add_argument("--keep", type=Path, help="folder of the workspace; filled where there is none, and kept")


def main() -> None:
    """Print the table and write results/scale.json."""
    options = arguments(__doc__.splitlines()[0], _options)
    if options.child:
        root, size, case = json.loads(options.child)
        with redirect_stdout(io.StringIO()):
            found = measure(Workspace(Path(root)), Size(**size), case)
        print(json.dumps(found))
        return
    size = SMALL if options.small else FULL
    if options.plan:
        from benchmarks import _published

        print(_published.table())
        return
    if options.sessions:
        print(sessions(size))
        return
    facts = machine()
    with tempfile.TemporaryDirectory(prefix="paraknow-scale-") as folder:
        root = options.keep or Path(folder)
        place = Workspace(root)
        if not place.runs.is_dir():
            _synthetic.write(place, size)
        groups = {case: group for case, (group, _) in cases(place, size).items()}
        last = sorted(groups.items(), key=lambda entry: entry[0].startswith("submit"))  # they leave more runs behind
        rows = [_row(root, size, case, g) for case, g in last if options.only in (None, case, g)]
    seconds = "{:.2f}".format
    columns = {"case": str, "first_s": seconds, "again_s": seconds, "cpu_first_s": seconds, "cpu_again_s": seconds}
    columns |= {"opened_first": "{:,}".format, "opened_again": "{:,}".format, "memory_mb": "{:.0f}".format}
    columns |= {"limit_s": "{:g}".format, "holds": lambda holds: "yes" if holds else "no"}
    publish(options, "scale", f"A workspace of {size.runs:,} runs", NOTES, facts, rows, columns)


if __name__ == "__main__":
    main()
