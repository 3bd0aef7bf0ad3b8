"""Looking into a real sensitivity: zoom by box and by numbers, measure fewer samples and the student, compare."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.driving import PATIENCE_MS, fill_number, settle, shoot, visit
from tests.pages import fabricate

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def chart(page: Page, title: str):
    """The chart with this title."""
    return page.locator(".js-plotly-plot").filter(has=page.get_by_text(title, exact=False)).first


def draw_box(page: Page, plot) -> None:
    """Draw a box over the middle of a chart's first subplot."""
    plot.scroll_into_view_if_needed()
    box = plot.locator(".nsewdrag").first.bounding_box()
    x, y, width, height = (box[key] for key in ("x", "y", "width", "height"))
    page.mouse.move(x + 0.3 * width, y + 0.3 * height)
    page.mouse.down()
    page.mouse.move(x + 0.45 * width, y + 0.45 * height, steps=4)
    page.mouse.move(x + 0.6 * width, y + 0.55 * height, steps=4)
    page.mouse.up()


def test_measure_click_zoom_and_compare(page, site, place):
    visit(page, f"{site}/sensitivity")
    expect(page.get_by_text("A map of the teacher will appear here")).to_be_visible()
    fill_number(page, "Seed samples", 2)
    page.get_by_role("button", name="Compute sensitivity").click()
    expect(page.get_by_text("Sensitivity by layer and module")).to_be_visible(timeout=PATIENCE_MS)
    expect(page.get_by_text(re.compile("Frame: what layer . of stranger would receive"))).to_be_visible()
    module = page.get_by_role("combobox", name="Module")
    settle(page)
    chosen = module.input_value().removeprefix("model.")

    draw_box(page, chart(page, chosen))
    expect(page.get_by_text(re.compile(r"rows \d+–\d+, columns \d+–\d+ of"))).to_be_visible()
    settle(page)
    shoot(page, "sensitivity_zoomed")
    page.get_by_role("button", name="Back to the whole").click()
    expect(page.get_by_text(re.compile(r"rows \d+–\d+, columns"))).to_have_count(0)
    page.get_by_role("button", name="Region").click()
    fill = page.get_by_label("Last row", exact=True)
    fill.fill("99")
    fill.press("Tab")
    page.get_by_test_id("stForm").get_by_role("button", name="Zoom").click()
    expect(page.get_by_text(re.compile("rows 0–99, columns 0–"))).to_be_visible()

    page.get_by_text("How many seed samples are enough?").click()
    page.get_by_role("button", name="Measure with 1 sample").click()
    expect(page.get_by_text("rank correlation with n = 2")).to_be_visible(timeout=PATIENCE_MS)
    page.get_by_role("button", name=re.compile("Measure the student too")).click()
    page.get_by_role("button", name=re.compile("Compare with the student")).click(timeout=PATIENCE_MS)
    expect(page.get_by_test_id("agreement")).to_contain_text("They have 6 and 4 layers")
    expect(page.get_by_text("Where they differ")).to_be_visible()
    page.reload()
    settle(page)
    expect(page.get_by_test_id("agreement")).to_contain_text("teacher against stranger")
    shoot(page, "sensitivity_compared")
    with page.expect_download() as download:
        page.get_by_role("button", name="Comparison as CSV").click()
    lines = download.value.path().read_text().splitlines()
    assert lines[0].startswith("row,role,share")
    assert len(lines) == 1 + 4 * 7


def test_eighty_layers_can_be_clicked_and_nothing_is_too_wide(browser, site, place):
    fabricate.store(place, layers=80)
    fabricate.run(place, "done", {"until": "sensitivity", "name": "Try it now"})
    for scheme, width in (("light", 1280), ("dark", 900)):
        context = browser.new_context(viewport={"width": width, "height": 1000}, color_scheme=scheme)
        page = context.new_page()
        visit(page, f"{site}/sensitivity")
        points = chart(page, "Sensitivity by layer").locator(".scatterlayer .trace").last.locator("path.point")
        expect(points).to_have_count(560)
        box = points.nth(300).bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2 + 12, box["y"] + box["height"] / 2)
        module = page.get_by_role("combobox", name="Module")
        expect(module).to_have_value("model.layers.42.mlp.down_proj")
        sentence = page.get_by_text("Only reductions were kept of this sensitivity")
        expect(sentence).to_have_count(1)  # the one from before the click stays until the page is drawn
        expect(sentence).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        shoot(page, f"sensitivity_80_layers_{scheme}_{width}")
        context.close()
