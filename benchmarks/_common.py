"""What the benchmarks share: timing, memory of a child process, facts about the machine, tables and result files."""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_PROC = Path("/proc/self")


def arguments(
    description: str, extra: Callable[[argparse.ArgumentParser], object] = lambda _: None
) -> argparse.Namespace:
    """Parse the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--small", action="store_true", help="small sizes, for a check in seconds")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result file")
    parser.add_argument("--child", help=argparse.SUPPRESS)  # one case as JSON: measure its memory and print it
    extra(parser)
    return parser.parse_args()


def seconds(work: Callable[[], Any], repeats: int = 3) -> float:
    """Best wall time of a few calls: the one least disturbed by whatever else the machine does."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def extra_bytes(work: Callable[[], Any]) -> int:
    """Peak resident memory during a call above what was resident before it (Linux: high-water mark, reset first)."""
    (_PROC / "clear_refs").write_text("5")
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def child_extra_bytes(module: str, case: dict[str, Any]) -> int | None:
    """Measure `extra_bytes` of one case in a fresh process; None where the system does not offer the counter."""
    if not (_PROC / "clear_refs").exists():
        return None
    command = [sys.executable, "-m", module, "--child", json.dumps(case)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


def machine() -> dict[str, Any]:
    """Facts that a time depends on; nothing that names the machine."""
    import torch

    from paraknow_core.settings import usable_cores

    return {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def write(folder: Path, name: str, facts: dict[str, Any], rows: list[dict[str, Any]]) -> Path:
    """Write <name>.json with the machine's facts and one record a table row."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"machine": facts, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    return path


def show(
    title: str, notes: Sequence[str], rows: list[dict[str, Any]], columns: dict[str, Callable[[Any], str]]
) -> None:
    """Print rows as a table; `columns` maps a record's key to how its value is written (None as a dash)."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name.replace("_", " "), justify="left" if name in ("case", "way") else "right")
    for row in rows:
        cells = [(row.get(name), write_as) for name, write_as in columns.items()]
        table.add_row(*("-" if value is None else write_as(value) for value, write_as in cells))
    console = Console(width=None if sys.stdout.isatty() else 132)
    console.print(table)
    for note in notes:
        console.print(note, highlight=False)


def publish(
    options: argparse.Namespace,
    name: str,
    title: str,
    notes: Sequence[str],
    facts: dict[str, Any],
    rows: list[dict[str, Any]],
    columns: dict[str, Callable[[Any], str]],
) -> None:
    """Print the table and write the result file, <name>_small.json with --small."""
    show(title, notes, rows, columns)
    path = write(options.out, f"{name}_small" if options.small else name, facts, rows)
    print(f"Wrote {path.name} ({facts['cpu']}, {facts['threads']} threads, load {facts['load_before']}).")


def _status(field: str) -> int:
    line = next(line for line in (_PROC / "status").read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
