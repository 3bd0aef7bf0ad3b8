"""The page Compare with 200 runs: listing them, and drawing the whole page, the first time and again.

    python -m benchmarks.compare_page

CPU seconds stand beside the clock: on a machine that does other work, they say more.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks._common import arguments, machine, publish
from paraknow_core.catalogue import METHODS
from paraknow_core.paths import PROJECT_ROOT, WORKSPACE_VARIABLE, Workspace
from paraknow_core.runs.folder import list_runs
from paraknow_core.runs.table import runs_table

EXAMPLES = 300


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__.splitlines()[0])
    number = 20 if options.small else 200
    facts = machine()
    with tempfile.TemporaryDirectory() as folder:
        place = Workspace(Path(folder))
        _write_runs(place, number)
        memo: dict = {}
        cases: dict[str, tuple[Callable[[], Any], int]] = {
            "list, first time": (lambda: runs_table(list_runs(place), memo), 1),
            "list, again": (lambda: runs_table(list_runs(place), memo), 9),
        }
        rows = [_measured(name, work, times) for name, (work, times) in cases.items()]
        rows += _page(place, 9)
    for row in rows:
        row["runs"] = number
    columns = {"case": str, "runs": str, "clock_s": "{:.3f}".format, "cpu_s": "{:.3f}".format}
    notes = ["Medians of 9 calls, except the first times. The page's first time includes importing its libraries."]
    publish(options, "compare_page", "Compare with many runs", notes, facts, rows, columns)


def _write_runs(place: Workspace, number: int) -> None:
    """Write finished runs: five methods, five seeds, several ranks and mappings."""
    from tests.pages import compared

    for i in range(number):
        compared.run(
            place,
            list(METHODS)[i % 5],
            i // 5 % 5,
            0.4,
            n=EXAMPLES,
            factorisation__rank=(4, 8, 16, 32)[i // 25 % 4],
            mapping__strategy=("top", "last")[i // 100 % 2],
            name=f"grid {i}",
        )


def _page(place: Workspace, times: int) -> list[dict[str, Any]]:
    """Draw the page as a visitor does, without a browser."""
    from streamlit.testing.v1 import AppTest

    os.environ[WORKSPACE_VARIABLE] = str(place.root)
    app = AppTest.from_file(str(PROJECT_ROOT / "app.py"), default_timeout=300).run()
    app.switch_page("pages/compare.py")
    rows = [_measured("page, first time", app.run, 1), _measured("page, again", app.run, times)]
    if app.exception:
        raise SystemExit(app.exception[0].value)
    return rows


def _measured(case: str, work: Callable[[], Any], times: int) -> dict[str, Any]:
    clock, cpu = [], []
    for _ in range(times):
        began, used = time.perf_counter(), time.process_time()
        work()
        clock.append(time.perf_counter() - began)
        cpu.append(time.process_time() - used)
    return {"case": case, "clock_s": statistics.median(clock), "cpu_s": statistics.median(cpu)}


if __name__ == "__main__":
    main()
