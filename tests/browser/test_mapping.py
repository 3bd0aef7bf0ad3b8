"""Mapping & extraction as a person uses it: measure, look, change, click, type, hold, go on to Train."""

import pytest
from playwright.sync_api import expect

from paraknow_core.engines.queue import QueueEngine
from paraknow_core.engines.service import Service
from paraknow_core.files.json_file import write_json
from paraknow_core.runs.folder import list_runs
from paraknow_core.spec import RunSpec
from paraknow_core.workbench.draft import load_draft
from tests.browser.driving import PATIENCE_MS, fill_number, run_in_address, settle, shoot, visit, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def helped(place):
    """The desk, which outlives its server, is ended with the test."""
    yield
    Service(place, "desk").stop(wait_s=10)


def targets(page):
    """The places of the link diagram that take clicks: teacher layers first, then student layers."""
    return page.locator(".js-plotly-plot").first.locator(".scatterlayer .trace").last.locator("path.point")


def click_on(page, number: int) -> None:
    page.evaluate("document.querySelector('[data-testid=stMain]').scrollTo(0, 0)")  # nothing lies under the header
    box = targets(page).nth(number).bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    settle(page)


def type_layer(page, student: int, text: str, done) -> None:
    """Type into the table's cell of a student layer; the grid is a canvas, and opens its field when it has time."""
    for attempt in range(4):
        editor = page.get_by_test_id("stDataFrame").first
        page.evaluate("document.querySelector('[data-testid=stMain]').scrollTo(0, 0)")  # nothing lies under the header
        table = editor.bounding_box()
        cell = table["x"] + 150, table["y"] + 35 * (student + 1) + 18
        if attempt % 2:  # people do either: open the cell, or type over what is selected
            page.mouse.dblclick(*cell)
            page.wait_for_timeout(1500)
            page.keyboard.press("Control+a")
        else:
            page.mouse.click(*cell)
            page.wait_for_timeout(800)
        page.keyboard.type(text)
        page.wait_for_timeout(300)
        page.keyboard.press("Enter")
        page.wait_for_timeout(2500)
        if done():
            return
    raise AssertionError("what was typed into the table did not reach the draft")


@pytest.mark.usefixtures("helped")
def test_a_preview_follows_every_change_without_a_new_run(browser, page, site, place):
    spec = RunSpec().with_changes({"sensitivity.samples": 2})
    write_json(place.root / "draft.json", {"spec": spec.model_dump(mode="json")})
    visit(page, f"{site}/mapping")
    expect(page.get_by_text("the block that would be injected will appear here")).to_be_visible(timeout=PATIENCE_MS)
    shoot(page, "mapping_empty")
    page.get_by_role("button", name="Compute sensitivity").click()
    histogram = page.get_by_text("Captured share of S, against every offset")
    expect(histogram).to_be_visible(timeout=PATIENCE_MS)
    expect(page.get_by_text("4,225 offsets").or_(page.get_by_text("offsets by choice"))).to_be_visible()
    assert len(list_runs(place)) == 1

    page.get_by_role("radio", name="neuron", exact=True).click()
    expect(page.get_by_text("weights taken [%]")).to_be_visible(timeout=PATIENCE_MS)
    fill_number(page, "Rank r", 3)
    expect(page.get_by_text("rank 3:")).to_be_visible(timeout=PATIENCE_MS)
    page.get_by_role("radio", name="difference", exact=True).click()
    expect(page.get_by_text("Singular values of the block − student")).to_be_visible(timeout=PATIENCE_MS)

    page.get_by_role("radio", name="top", exact=True).click()
    wait_for(lambda: load_draft(place).spec.mapping.strategy == "top", 30)
    expect(page.get_by_text("layers so far")).to_have_count(0, timeout=PATIENCE_MS)
    settle(page)
    click_on(page, 5)
    expect(page.get_by_text("Teacher layer 5 is chosen")).to_be_visible()
    click_on(page, 6 + 1)
    wait_for(lambda: load_draft(place).spec.mapping.layers == (0, 5, 2, 3), 30)
    expect(page.get_by_text("layers so far")).to_have_count(0, timeout=PATIENCE_MS)
    settle(page)
    type_layer(page, 2, "4", lambda: load_draft(place).spec.mapping.layers == (0, 5, 4, 3))
    settle(page)

    page.get_by_role("button", name="Hold this choice").click()
    settle(page)
    page.get_by_role("radio", name="submatrix", exact=True).click()
    expect(page.get_by_text("Held choice: single weights")).to_be_visible(timeout=PATIENCE_MS)
    expect(page.get_by_text("This choice: window")).to_be_visible(timeout=PATIENCE_MS)
    shoot(page, "mapping_held_light_1280")
    page.get_by_role("button", name="Drop").click()
    settle(page)
    assert len(list_runs(place)) == 1
    for scheme, width in (("light", 900), ("dark", 1280)):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        other = context.new_page()
        other.set_default_timeout(PATIENCE_MS)
        visit(other, f"{site}/mapping")
        expect(other.get_by_text("Cosine with the student's own weight")).to_be_visible(timeout=PATIENCE_MS)
        wide = other.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
        assert not wide, f"scrolls sideways at {width} px"
        shoot(other, f"mapping_{scheme}_{width}")
        context.close()
    page.get_by_role("button", name="Start transfer").click()
    expect(page.locator("h1")).to_have_text("Train")
    started = run_in_address(page, place)
    assert started.spec().method == "seeking"
    for run in list_runs(place):
        if run.status().active:
            QueueEngine(place).stop(run)
    wait_for(lambda: not started.status().active)
