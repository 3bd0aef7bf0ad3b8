"""The workbench in a real browser: how long pages take to draw, a click to answer, and how the server's memory grows.

Run: python -m benchmarks.pages [--small] [--minutes 60]
"""

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks._common import arguments, machine, publish
from paraknow_core.catalogue import METHODS, PAPER_METHOD
from paraknow_core.engines.service import Service
from paraknow_core.files.json_file import read_json, write_json
from paraknow_core.paths import WORKSPACE_VARIABLE, Workspace
from paraknow_core.runs.folder import RunFolder
from paraknow_core.workbench.launcher import end_server
from tests.pages import fabricate

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PAGES = (
    "Start",
    "Models & task",
    "Sensitivity",
    "Mapping & extraction",
    "Train",
    "Compare",
    "Ablations",
    "Playground",
    "Lessons",
)
LISTING = ("Start", "Compare")
# 80 layers of 8192 x 8192 and 8192 x 28672 weights with grouped queries: the shapes of a 70B model.
LARGE = {
    "q": (8192, 8192),
    "k": (1024, 8192),
    "v": (1024, 8192),
    "o": (8192, 8192),
    "gate": (28672, 8192),
    "up": (28672, 8192),
    "down": (8192, 28672),
}
RERUN_S, CLICK_S, LIST_S, FIRST_S, GROWTH_MB_H = 0.3, 1.0, 2.0, 60.0, 30.0
NOTES = [
    "A real server and a real Chromium, both on this machine. Rerun: the browser's own clock from `running` to",
    "`notRunning` after the key `r`, round trip included. Click: from the mouse button to the chosen module's picture.",
    "Opened: from a click in the sidebar to the finished page. First heatmap: from starting the server, in an empty",
    "workspace, over Try it now. Memory: growth of the server's resident memory while a loss curve grows by a step a",
    "second, after half a minute of warming up; a reach of 30 MB an hour counts as flat.",
]
# Stamps of every change of the script's state, by the browser's clock.
WATCH = """() => {
  const app = document.querySelector('[data-testid="stApp"]');
  window.pkStates = [];
  new MutationObserver(() => window.pkStates.push([performance.now(), app.getAttribute('data-test-script-state')]))
    .observe(app, {attributes: true, attributeFilter: ['data-test-script-state']});
}"""
RERAN = """() => {
  const states = window.pkStates, last = states.length - 1;
  if (last < 1 || states[last][1] !== 'notRunning') return null;
  const first = states.find(state => state[1] === 'running');
  return first ? states[last][0] - first[0] : null;
}"""
DRAWN = """(module) => [...document.querySelectorAll('.js-plotly-plot .gtitle')].some(
  title => title.textContent.startsWith(module))"""
IDLE = '[data-testid="stApp"][data-test-script-state="notRunning"]'


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    layers: int
    runs: int
    repeats: int
    pages: tuple[str, ...]
    minutes: float
    warm_s: float


FULL = Size(80, 200, 15, PAGES, 2.0, 30.0)
SMALL = Size(12, 20, 3, ("Start", "Sensitivity"), 0.1, 3.0)


@contextmanager
def server(root: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Serve a workspace until the block ends; yields the address and the process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (root / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "streamlit",
                "run",
                "app.py",
                "--server.port",
                str(port),
                "--server.headless",
                "true",
            ],
            cwd=ROOT,
            env={**os.environ, WORKSPACE_VARIABLE: str(root), "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait_until_up(f"http://127.0.0.1:{port}")
            yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
        finally:
            end_server(process)
            for name in ("desk", "queue"):
                Service(Workspace(root), name).stop(wait_s=10)


def _wait_until_up(address: str) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(f"{address}/_stcore/health", timeout=2) as answer:
            if answer.status == 200:
                return
        time.sleep(0.05)
    raise SystemExit("pages: the server did not answer within 90 s; see what `make app` says")


@contextmanager
def window() -> Iterator[Any]:
    """Open an empty browser window of 1280 x 1500: the whole map is in view."""
    from playwright.sync_api import sync_playwright

    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        raise SystemExit("pages: no Chromium or Chrome found; `apt-get install chromium` brings one")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_context(viewport={"width": 1280, "height": 1500}).new_page()
        page.set_default_timeout(120_000)
        yield page
        browser.close()


def settle(page: Any, pause_ms: int = 700) -> None:
    """Wait until the script has run and nothing is waited for any more."""
    page.locator("h1").first.wait_for()
    for _ in range(3):  # an answer of the desk draws the page again
        page.wait_for_selector(IDLE)
        page.wait_for_timeout(pause_ms)
    page.wait_for_selector(IDLE)


def reruns(page: Any, repeats: int) -> list[float]:
    """Time reruns of the page that is open, in seconds."""
    times = []
    for _ in range(repeats + 1):
        page.evaluate(WATCH)
        page.locator("h1").first.click()
        page.keyboard.press("r")
        times.append(page.wait_for_function(RERAN, polling=10).json_value() / 1000)
        page.wait_for_timeout(150)
    return times[1:]  # the first one fills caches


def clicks(page: Any, layers: int, repeats: int) -> list[float]:
    """Time clicks on cells of the map until the module's picture is there, in seconds; every cell once."""
    points = page.locator(".js-plotly-plot").first.locator(".scatterlayer .trace").last.locator("path.point")
    modules = [f"layers.{layer}.{path}" for layer in range(layers) for path in fabricate.PATHS.values()]
    step = max(1, len(modules) // (repeats + 1))
    times = []
    for number in range(step // 2, len(modules), step)[: repeats + 1]:
        points.nth(number).scroll_into_view_if_needed()
        box = points.nth(number).bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.wait_for_timeout(250)
        start = time.perf_counter()
        page.mouse.down()
        page.mouse.up()
        page.wait_for_function(DRAWN, arg=modules[number], polling=10)
        times.append(time.perf_counter() - start)
        settle(page, 150)
    return times[1:]


def openings(page: Any, name: str, away: str, repeats: int) -> list[float]:
    """Time going to a page over the sidebar, in seconds."""
    links, times = page.get_by_test_id("stSidebarNav"), []
    for _ in range(repeats):
        links.get_by_text(away, exact=True).click()
        settle(page, 200)
        page.evaluate(WATCH)
        links.get_by_text(name, exact=True).click()
        times.append(page.wait_for_function(RERAN, polling=10).json_value() / 1000)
        page.wait_for_timeout(150)
    return times


def fill(root: Path, size: Size) -> None:
    """Write the large store and the run folders."""
    place = Workspace(root)
    fabricate.store(place, layers=size.layers, sizes=LARGE)
    methods = [m for m in METHODS if m != PAPER_METHOD]
    for number in range(size.runs - 1):
        changes = {"method": methods[number % len(methods)], "seed": number, "factorisation.rank": 8 + number % 5}
        fabricate.run(place, "done", changes, value=0.3 + 0.2 * (number % 7) / 7)
    fabricate.run(place, "done", {"until": "sensitivity", "name": "Large teacher"})


def drawing(size: Size) -> list[dict[str, Any]]:
    """Measure reruns, clicks and lists in a workspace full of runs."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="paraknow-pages-") as folder:
        fill(Path(folder), size)
        with server(Path(folder)) as (address, _), window() as page:
            page.goto(address)
            settle(page)
            for name in size.pages:
                page.get_by_test_id("stSidebarNav").get_by_text(name, exact=True).click()
                settle(page)
                rows.append(_row(name, "rerun", reruns(page, size.repeats), RERUN_S))
                if name == "Sensitivity":
                    rows.append(_row(name, "click on the map", clicks(page, size.layers, size.repeats), CLICK_S))
            for name in (n for n in LISTING if n in size.pages):
                found = openings(page, name, "Lessons", max(3, size.repeats // 3))
                rows.append(_row(name, f"opened with {size.runs} runs", found, LIST_S))
    return rows


def first_heatmap() -> dict[str, Any]:
    """Measure from the start of the server, in an empty workspace, to the first heatmap."""
    with tempfile.TemporaryDirectory(prefix="paraknow-pages-") as folder, window() as page:
        start = time.perf_counter()
        with server(Path(folder)) as (address, _):
            page.goto(address)
            page.get_by_role("button", name="Try it now").click()
            page.get_by_text("Sensitivity by layer and module").first.wait_for()
            return _row("Start", "first heatmap", [time.perf_counter() - start], FIRST_S)


def memory(size: Size) -> dict[str, Any]:
    """Measure how the server's memory grows while a page follows a run, in MB an hour."""
    with tempfile.TemporaryDirectory(prefix="paraknow-pages-") as folder:
        run = fabricate.run(Workspace(Path(folder)), "running")
        with _training(run), server(Path(folder)) as (address, process), window() as page:
            page.goto(f"{address}/train?run={run.id}")
            page.locator(".js-plotly-plot").first.wait_for()
            time.sleep(size.warm_s)
            samples, start = [], time.monotonic()
            while time.monotonic() - start < 60 * size.minutes:
                samples.append((time.monotonic() - start, process.memory_info().rss / 1e6))
                time.sleep(1.0)
    slope = statistics.linear_regression(*zip(*samples, strict=True)).slope * 3600
    return {
        "case": "Train, live",
        "what": f"memory over {size.minutes:g} min",
        "unit": "MB/h",
        "n": len(samples),
        "median": slope,
        "high": None,
        "resident": statistics.median(m for _, m in samples),
        "reach": GROWTH_MB_H,
        "holds": slope <= GROWTH_MB_H,
    }


@contextmanager
def _training(run: RunFolder) -> Iterator[None]:
    """Write a step a second into a run folder, as a training process would."""
    ended = threading.Event()

    def write() -> None:
        step = 20
        while not ended.wait(1.0):
            step += 1
            line = {"event": "metrics", "step": step, "loss": 2 + 1 / step, "learning_rate": 3e-4, "grad_norm": 1.0}
            with run.file("events.jsonl").open("a") as file:
                file.write(("\n" if step == 21 else "") + json.dumps(line) + "\n")
            status = read_json(run.file("status.json"), {})
            write_json(
                run.file("status.json"),
                {**status, "done": step, "total": 10_000, "heartbeat": time.time()},
                durable=False,
            )

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _row(case: str, what: str, times: list[float], reach: float) -> dict[str, Any]:
    middle = statistics.median(times)
    high = statistics.quantiles(times, n=20, method="inclusive")[-1] if len(times) > 1 else None
    return {
        "case": case,
        "what": what,
        "unit": "s",
        "n": len(times),
        "median": middle,
        "high": high,
        "reach": reach,
        "holds": middle <= reach,
    }


def _options(parser: Any) -> None:
    parser.add_argument("--minutes", type=float, help="how long the live chart is watched (default 2)")
    parser.add_argument("--only", choices=["drawing", "first", "memory"], help="one part of it")


def main() -> None:
    """Print the table and write results/pages.json."""
    options = arguments(__doc__.splitlines()[0], _options)
    size = SMALL if options.small else FULL
    if options.minutes:
        size = Size(**{**size.__dict__, "minutes": options.minutes})
    facts, rows = machine(), []
    parts: dict[str, Callable[[], Any]] = {
        "first": lambda: [first_heatmap()],
        "drawing": lambda: drawing(size),
        "memory": lambda: [memory(size)],
    }
    for name, part in parts.items():
        if options.only in (None, name):
            rows += part()
    columns = {
        "case": str,
        "what": str,
        "median": "{:.3f}".format,
        "high": "{:.3f}".format,
        "reach": "{:g}".format,
        "unit": str,
        "n": str,
        "holds": lambda holds: "yes" if holds else "no",
    }
    publish(
        options,
        "pages",
        f"Pages: {size.layers} layers x 7 modules, {size.runs} runs; median and 95 %",
        NOTES,
        facts,
        rows,
        columns,
    )


if __name__ == "__main__":
    main()
