"""What a class does: open a lesson by its address, predict, run it for real, read it, go on with a preset."""

import pytest
from playwright.sync_api import expect

from paraknow_core.runs.folder import list_runs
from paraknow_core.studies.lessons import LESSONS
from tests.browser.driving import PATIENCE_MS, settle, shoot, visit
from tests.studies.lessons.outcomes import finish

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def predict(page, answer: str) -> None:
    page.get_by_test_id("stRadioGroup").get_by_text(answer, exact=True).click()
    settle(page)
    page.get_by_role("button", name="This is my prediction").click()
    settle(page)


def test_a_lesson_from_its_address_to_the_next_page(page, site, place):
    visit(page, f"{site}/lessons")
    expect(page.get_by_role("button", name="Open")).to_have_count(5)
    shoot(page, "lessons")
    page.get_by_role("button", name="Open").first.click()
    page.wait_for_url("**/lessons?lesson=1")  # the address names it: an answer, or a reload, stays with the lesson
    settle(page)
    predict(page, LESSONS[0].options["other"])
    page.get_by_role("button", name="Run the experiment").click()
    expect(page.get_by_text("of 6 runs done").first).to_be_visible(timeout=PATIENCE_MS)
    expect(page.locator(".js-plotly-plot")).to_have_count(2, timeout=PATIENCE_MS)
    settle(page)
    assert len(list_runs(place)) == 6
    expect(page.get_by_text("You predicted: Different").first).to_be_visible()
    shoot(page, "real_lesson_1")
    page.get_by_role("link", name="Measure a third task").click()
    expect(page.locator("h1")).to_have_text("Sensitivity")
    expect(page.get_by_test_id("strip")).to_contain_text("instructions")


def test_every_lesson_is_drawn_in_both_themes_and_in_a_narrow_window(browser, site, place):
    for lesson in LESSONS:
        finish(place, lesson)
    for scheme, width in (("light", 1280), ("dark", 900)):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        for lesson in LESSONS[1:]:
            visit(page, f"{site}/lessons?lesson={lesson.number}")
            predict(page, next(iter(lesson.options.values())))
            expect(page.locator(".js-plotly-plot").first).to_be_visible()
            too_wide = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
            assert not too_wide, f"lesson {lesson.number} scrolls sideways at {width} px"
            shoot(page, f"lesson_{lesson.number}_{scheme}_{width}")
        context.close()
