"""Small steps that the browser scenarios share."""

import re
import time
from pathlib import Path

from playwright.sync_api import Page, expect

from pages._ui.frame import router
from paraknow_core.paths import Workspace
from paraknow_core.runs.folder import RunFolder, list_runs

PATIENCE_MS = 240_000
SCREENSHOTS = Path(__file__).parent / "screenshots"
PAGES = [title for _, title, _ in router.PAGES]


def settle(page: Page) -> None:
    """Wait until the script has run, and see that no traceback is on the page."""
    page.locator("h1").first.wait_for()
    page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]')
    page.wait_for_timeout(400)
    names = page.get_by_test_id("stSidebarNavLink").all_inner_texts()
    assert [name.split("\n")[-1] for name in names] == PAGES
    assert page.locator('[data-testid="stException"]').count() == 0, page.locator("body").inner_text()


def visit(page: Page, address: str) -> None:
    """Open an address and wait for it."""
    page.goto(address, timeout=PATIENCE_MS)
    settle(page)


def shoot(page: Page, name: str) -> None:
    """Keep a picture of the whole page."""
    SCREENSHOTS.mkdir(exist_ok=True)
    settle(page)
    width = page.viewport_size["width"]
    height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    page.set_viewport_size({"width": width, "height": max(900, min(2600, height + 20))})
    page.wait_for_timeout(900)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")
    page.set_viewport_size({"width": width, "height": 900})


def fill_number(page: Page, label: str, value: object) -> None:
    """Type into a number field and leave it."""
    field = page.get_by_label(label, exact=True).first
    field.fill(str(value))
    field.press("Enter")
    settle(page)


def chip(page: Page, word: str):
    """The state of the run that the page shows."""
    return page.locator('[data-testid="headline"]').get_by_text(word, exact=True)


def expect_state(page: Page, word: str) -> None:
    """Wait until the page, by itself, shows the run in this state, buttons included."""
    expect(chip(page, word)).to_be_visible(timeout=PATIENCE_MS)
    settle(page)


def newest(place: Workspace) -> RunFolder:
    """The run whose folder was made last."""
    return max(list_runs(place), key=lambda run: run.file("spec.yaml").stat().st_mtime_ns)


def run_in_address(page: Page, place: Workspace) -> RunFolder:
    """The run that the page's address names."""
    page.wait_for_url(re.compile(r"[?&]run="))
    return RunFolder(place.runs / re.search(r"[?&]run=([^&]+)", page.url).group(1))


def wait_for(condition, seconds: float = 240) -> None:
    """Wait for something outside the browser."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
