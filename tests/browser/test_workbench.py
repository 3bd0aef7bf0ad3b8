"""What a person does: the first heatmap, a wrong link, something typed, every page in both themes."""

import re

import pytest
from playwright.sync_api import expect

from paraknow_core.sensitivity.store import SensitivityStore
from tests.browser.driving import PATIENCE_MS, run_in_address, settle, shoot, visit
from tests.pages import compared, fabricate

pytestmark = pytest.mark.browser


@pytest.mark.slow
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


@pytest.mark.slow
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
    paths = {
        "start": "",
        "sensitivity": "sensitivity",
        "train_done": f"train?run={done.id}",
        "train_running": f"train?run={running.id}",
        "train_failed": f"train?run={failed.id}",
        "train_lost": f"train?run={lost.id}",
    }
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


@pytest.mark.slow
def test_back_leaves_a_page_and_goes_through_lessons(page, site, place):
    compared.study(place, seeds=1)
    visit(page, site)
    links = page.get_by_test_id("stSidebarNav")
    links.get_by_text("Compare", exact=True).click()
    page.wait_for_url(re.compile(r"/compare\?run="))
    settle(page)
    page.get_by_role("radio", name="Answers").click()
    page.wait_for_url(re.compile("view=answers"))
    settle(page)
    page.go_back()
    expect(page.locator("h1")).to_have_text("ParaKnow workbench")
    visit(page, f"{site}/compare")  # the page notes its runs before it can keep them out of the history
    page.wait_for_url(re.compile(r"/compare\?run="))
    settle(page)
    page.go_back()
    expect(page.locator("h1")).to_have_text("ParaKnow workbench")
    links.get_by_text("Lessons", exact=True).click()
    expect(page.locator("h1")).to_have_text("Lessons")
    settle(page)
    page.get_by_role("button", name="Open").first.click()
    page.wait_for_url(re.compile("lesson=1"))
    settle(page)
    page.go_back()
    expect(page.get_by_role("button", name="Open")).to_have_count(5)
    page.go_back()
    expect(page.locator("h1")).to_have_text("ParaKnow workbench")


# Texts of charts that leave their picture, and pairs of texts that lie on one another.
CUT = """() => [...document.querySelectorAll('.js-plotly-plot')].flatMap(plot => {
  const box = plot.getBoundingClientRect(), found = [];
  const texts = [...plot.querySelectorAll('text')]
    .filter(text => text.textContent.trim() && !text.closest('.hoverlayer'))
    .map(text => [text.textContent, text.getBoundingClientRect()]).filter(([, at]) => at.width > 1);
  for (const [words, at] of texts)
    if (at.left < box.left - 1 || at.right > box.right + 1 || at.top < box.top - 1 || at.bottom > box.bottom + 1)
      found.push(`cut: ${words}`);
  texts.forEach(([words, a], place) => texts.slice(place + 1).forEach(([other, b]) => {
    const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    if (wide > 2 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4) found.push(`${words} on ${other}`);
  }));
  return found;
})"""


@pytest.mark.slow
def test_no_word_of_a_chart_is_cut_off_or_covered_whatever_the_names(browser, site, place):
    long = "/models/Größe-модель-instruct-v2.0-2026-preview-abcdefghijklmnop"
    for method, right in (("seeking", 0.9), ("default_lora", 0.35), ("pissa", 0.62)):
        named = f"a study with a rather long name that somebody gave to it, {method}"
        last = compared.run(
            place, method, right=right, teacher__source=f"{long}-7B", student__source=f"{long}-1B", name=named
        )
    measured = []
    for number, teacher in enumerate((f"{long}-7B", f"{long}-13B")):
        key = str(number) * 32
        fabricate.store(place, key, teacher=teacher)
        changes = {"until": "sensitivity", "teacher.source": teacher}
        measured.append(fabricate.run(place, "done", changes, key=key).id)
    paths = ("compare", f"train?run={last.id}", f"sensitivity?run={measured[0]}&with={measured[1]}")
    for width in (1280, 420):
        context = browser.new_context(viewport={"width": width, "height": 900})
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        for path in paths:
            visit(page, f"{site}/{path}")
            page.locator(".js-plotly-plot .main-svg").first.wait_for()
            settle(page)
            assert page.evaluate(CUT) == [], (path, width)
        context.close()
