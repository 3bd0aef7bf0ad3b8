"""What a person does: the first heatmap, a wrong link, something typed, every page in both themes."""

import re

import pytest
from playwright.sync_api import expect

from paraknow_core.sensitivity_store import SensitivityStore
from tests.browser.driving import PATIENCE_MS, run_in_address, settle, shoot, visit
from tests.pages import fabricate

pytestmark = pytest.mark.browser


def test_try_it_now_leads_to_a_heatmap_that_can_be_clicked(page, site, place):
    visit(page, site)
    expect(page.get_by_text("Runs will be listed here")).to_be_visible()
    page.get_by_role("button", name="Try it now").click()
    expect(page.locator("h1")).to_have_text("Sensitivity")
    expect(page.get_by_text("Sensitivity by layer and module")).to_be_visible(timeout=PATIENCE_MS)
    settle(page)
    run = run_in_address(page, place)
    assert run.status().state == "done"
    table = SensitivityStore(place.sensitivity / run.result()["sensitivity"]["key"]).modules()
    inside = table[table["layer"].notna()]
    module = page.get_by_role("combobox", name="Module")
    expect(module).to_have_value(inside.loc[inside["share"].idxmax(), "module"])
    expect(page.get_by_text(re.compile("would receive"))).to_be_visible()  # the desk has answered: nothing moves now
    for number in (1, len(inside) - 2):  # clicked near the cell's corner, not on its middle
        chart = page.locator(".js-plotly-plot").first
        chart.scroll_into_view_if_needed()
        page.wait_for_timeout(800)
        box = chart.locator(".scatterlayer .trace").last.locator("path.point").nth(number).bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2 + 22, box["y"] + box["height"] / 2 - 22)
        expect(module).to_have_value(inside["module"].iloc[number], timeout=30_000)
        settle(page)
    settle(page)
    shoot(page, "real_sensitivity")
    visit(page, site)
    expect(page.get_by_role("link", name="Try it now")).to_be_visible()
    page.get_by_role("link", name="Try it now").click()
    expect(page.get_by_text("Sensitivity by layer and module")).to_be_visible(timeout=PATIENCE_MS)


def test_a_wrong_link_is_a_sentence_on_a_working_page(page, site, place):
    for path in ("sensitivity?run=no-such-run", "train?run=../../etc/passwd", "train?run=%00"):
        visit(page, f"{site}/{path}")
        expect(page.get_by_test_id("stAlert").first).to_be_visible()
        expect(page.get_by_role("button", name=re.compile("Compute sensitivity|Start transfer"))).to_be_enabled()


def test_what_is_typed_as_a_model_is_kept_and_an_empty_one_is_refused(page, site):
    visit(page, f"{site}/train")
    page.get_by_text("What is transferred").click()
    student = page.get_by_role("combobox", name="Student")
    student.fill("/no/such folder")
    student.press("Enter")
    settle(page)
    expect(page.get_by_test_id("strip")).to_contain_text("such folder")
    student.fill("   ")
    student.press("Enter")
    settle(page)
    expect(page.get_by_test_id("strip")).to_contain_text("such folder")
    page.get_by_test_id("stSidebarNav").get_by_text("Sensitivity").click()
    expect(page.locator("h1")).to_have_text("Sensitivity")
    expect(page.get_by_test_id("strip")).to_contain_text("such folder")


@pytest.mark.slow
def test_every_page_is_drawn_in_both_themes_and_in_a_narrow_window(browser, site, place):
    fabricate.store(place)
    fabricate.run(place, "done", {"until": "sensitivity", "name": "Try it now"})
    for method, value in (("default_lora", 0.377), ("pissa", 0.391), ("random_offset", 0.402)):
        fabricate.run(place, "done", {"method": method}, value=value)
    failed = fabricate.run(place, "failed", {"name": "a long name that somebody gave without thinking of tables"})
    running, done = fabricate.run(place, "running"), fabricate.run(place, "done")
    lost = fabricate.run(place, "lost")
    paths = {"start": "", "sensitivity": "sensitivity", "train_done": f"train?run={done.id}",
             "train_running": f"train?run={running.id}", "train_failed": f"train?run={failed.id}",
             "train_lost": f"train?run={lost.id}"}  # fmt: skip
    for scheme, width in (("light", 1280), ("light", 900), ("dark", 1280)):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        for name, path in paths.items():
            if name in ("train_failed", "train_lost") and (scheme, width) != ("light", 1280):
                continue  # they differ from a running one in a sentence and a button
            visit(page, f"{site}/{path}")
            if name not in ("start", "train_lost"):
                expect(page.locator(".js-plotly-plot").first).to_be_visible()
            too_wide = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
            assert not too_wide, f"{name} scrolls sideways at {width} px"
            shoot(page, f"{name}_{scheme}_{width}")
        context.close()
