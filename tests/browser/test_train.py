"""Runs and their queue as people see them: two browsers, a stop, a resume; killed workers, queues and servers."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from playwright.sync_api import Page, expect

from paraknow_core.engines import queue
from paraknow_core.engines.queue import QueueEngine
from paraknow_core.engines.service import Service
from paraknow_core.files.json_file import read_json, write_json
from paraknow_core.runs.folder import RunFolder, list_runs
from tests.browser.conftest import end_helpers, start_server, stop_server
from tests.browser.driving import PATIENCE_MS, expect_state, fill_number, run_in_address, settle, shoot, visit, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def server(place):
    """A server that a test may replace: a list of its address and its process."""
    running = list(start_server(place))
    yield running
    stop_server(running[1])
    for run in list_runs(place):
        if run.status().state == "running":
            QueueEngine(place).stop(run)
    end_helpers(place)


def prepare(page: Page, site: str, epochs: int) -> None:
    """Set the draft so that a run takes seconds of computing, alone."""
    visit(page, f"{site}/train")
    page.get_by_text("What is transferred").click()
    fill_number(page, "Seed samples", 4)
    fill_number(page, "Rank r", 4)
    fill_number(page, "Epochs", epochs)
    fill_number(page, "Batch size", 8)
    page.get_by_text("More settings").click()
    fill_number(page, "Training examples", 32)
    fill_number(page, "Test examples", 8)
    page.locator("label").filter(has_text="default LoRA").click()  # it is ticked from the start
    settle(page)


@contextmanager
def held(run: RunFolder) -> Iterator[None]:
    """Hold a run's process still, so that it does not end while a slow machine draws pages."""
    os.kill(run.status().pid, signal.SIGSTOP)
    yield
    with suppress(ProcessLookupError):
        os.kill(run.status().pid, signal.SIGCONT)


def rows(page: Page, word: str):
    """The rows of the queue in this state."""
    return page.get_by_test_id("queue-row").filter(has_text=re.compile(rf"^\s*{word}"))


def test_a_run_is_seen_in_two_browsers_over_a_reload_stopped_resumed_and_done(browser, page, server, place):
    site = server[0]
    prepare(page, site, epochs=10)
    expect(page.get_by_text("1 run, seed 0. The time is a guess")).to_be_visible()
    page.get_by_role("button", name="Start transfer").click()
    run = run_in_address(page, place)
    wait_for(lambda: len(run.metrics()) >= 3)
    other = browser.new_context(viewport={"width": 900, "height": 900}, color_scheme="dark").new_page()
    other.set_default_timeout(PATIENCE_MS)
    with held(run):
        expect(page.get_by_text("Loss on answers").locator("visible=true").first).to_be_visible(timeout=PATIENCE_MS)
        page.reload()
        settle(page)
        assert run_in_address(page, place) == run
        expect_state(page, "running")
        visit(other, f"{site}/train")
        expect_state(other, "running")
        expect(rows(other, "running")).to_have_count(1)
        shoot(other, "train_live_dark_900")
        other.get_by_role("button", name="Stop and save").first.click()
        wait_for(run.file("stop").exists)
    expect_state(page, "stopped")
    stopped_at = len(run.metrics())
    assert stopped_at < 40
    page.get_by_role("button", name="Resume").click()
    expect_state(page, "done")
    assert run.status().attempt == 2
    assert len(run.metrics()) >= 40
    expect_state(other, "done")
    expect(page.get_by_text("No estimate was possible before it began")).to_be_visible()
    expect(page.get_by_text("passed", exact=True)).to_be_visible()
    shoot(page, "train_done_light_1280")
    page.get_by_role("link", name="Compare it with other runs").click()
    expect(page.locator("h1")).to_have_text(re.compile("compare", re.IGNORECASE))
    assert run.id in page.url
    other.context.close()


def test_killed_queue_server_and_worker_are_survived_and_the_control_is_compared(page, server, place):
    write_json(place.settings_file, {"workers": 1})
    prepare(page, server[0], epochs=12)
    page.locator("label").filter(has_text="default LoRA").click()
    settle(page)
    expect(page.get_by_text("2 runs: 2 arms, seed 0")).to_be_visible()
    page.get_by_role("button", name="Start transfer").click()
    run = run_in_address(page, place)
    [control] = [other for other in list_runs(place) if other != run]
    expect(rows(page, "queued")).to_have_count(1)
    wait_for(lambda: len(run.metrics()) >= 2)
    with held(run):
        os.kill(read_json(Service(place, "queue").folder / "process.json")["pid"], signal.SIGKILL)
        stop_server(server[1])
        server[:] = start_server(place)
        visit(page, f"{server[0]}/train")
        expect_state(page, "running")
        expect(page.get_by_test_id("facts")).to_be_visible(timeout=PATIENCE_MS)
        shoot(page, "train_live_light_1280")
        assert run.status().attempt == 1
        os.kill(run.status().pid, signal.SIGKILL)
    visit(page, f"{server[0]}/train?run={run.id}")
    expect_state(page, "lost")
    wait_for(lambda: control.status().attempt == 1)  # by the queue that the page has brought back
    page.get_by_role("button", name="Resume").click()
    expect_state(page, "done")
    assert (run.status().attempt, control.status().attempt) == (2, 1)
    bars = page.locator(".js-plotly-plot").first
    expect(bars.get_by_text("default LoRA", exact=True)).to_be_visible(timeout=PATIENCE_MS)
    expect(page.get_by_text(re.compile("seeking .the method. against default LoRA"))).to_be_visible()
    shoot(page, "train_compared_light_1280")


def test_waiting_runs_are_moved_cancelled_and_duplicated(page, server, place):
    write_json(place.settings_file, {"workers": 1})
    site = server[0]
    queue_folder = queue.folder_of(place)
    prepare(page, site, epochs=300)
    fill_number(page, "Number of seeds", 1000)  # out of range: it stays in the browser
    expect(page.get_by_role("button", name="Start transfer")).to_be_hidden()
    fill_number(page, "Number of seeds", 3)
    page.get_by_role("button", name="Start transfer").click()
    first = run_in_address(page, place)
    expect(rows(page, "queued")).to_have_count(2)
    wait_for(lambda: queue.read(place).working == [first.id])
    before = queue.read(place).waiting
    page.get_by_test_id("stMain").get_by_role("button", name="arrow_downward").first.click()
    wait_for(lambda: queue.read(place).waiting == before[::-1])
    settle(page)
    expect(rows(page, "queued").first).to_contain_text("seed 2")
    shoot(page, "train_queue_light_1280")
    visit(page, f"{site}/train?run={before[0]}")
    page.get_by_role("button", name="Take out of the queue").click()
    expect_state(page, "stopped")
    expect(page.get_by_text("Taken out of the queue before it began")).to_be_visible()
    assert queue.read(place).waiting == [before[1]]
    page.get_by_role("button", name="Duplicate and tweak").click()
    settle(page)
    expect(page.get_by_label("Seed", exact=True).first).to_have_value("1")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete for good").click()
    wait_for(lambda: not (place.runs / before[0]).exists())
    settle(page)
    assert (queue_folder / "order.json").exists()
