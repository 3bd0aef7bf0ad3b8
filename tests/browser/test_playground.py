"""What a person does on Playground: load, ask, watch, point at a token, lose the process, load again."""

import os
import signal

import pytest
from playwright.sync_api import expect

from paraknow_core.files.json_file import read_json
from paraknow_core.workbench.playground import protocol
from tests.browser.driving import PATIENCE_MS, settle, shoot, visit

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def tidy(place):
    yield
    protocol.service(place).stop(wait_s=20)


def loaded(page):
    return page.get_by_test_id("holding").get_by_text("loaded", exact=True)


def test_teacher_and_student_answer_side_by_side_and_survive_a_killed_process(page, site, place, tidy, browser):
    visit(page, f"{site}/playground")
    expect(page.get_by_test_id("holding").get_by_text("not loaded", exact=True)).to_have_count(2, timeout=PATIENCE_MS)
    page.get_by_role("button", name="Load all").click()
    expect(loaded(page)).to_have_count(2, timeout=PATIENCE_MS)
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_text("What the models were given")).to_be_visible(timeout=PATIENCE_MS)
    settle(page)
    answers = page.get_by_test_id("answer")
    expect(answers).to_have_count(2)
    expect(answers.first).to_contain_text("####")
    token = answers.nth(1).locator(".pk-t").nth(2)
    token.hover()
    expect(token.locator(".pk-tip")).to_be_visible()
    expect(token.locator(".pk-tip")).to_contain_text("5. ")
    shoot(page, "real_playground")
    other = browser.new_context(viewport={"width": 900, "height": 900}, color_scheme="dark").new_page()
    visit(other, page.url)  # the address keeps the answers, for another window, too
    expect(other.get_by_test_id("answer")).to_have_count(2, timeout=PATIENCE_MS)
    shoot(other, "real_playground_dark_900")
    other.context.close()
    expect(page.get_by_role("button", name="Stop")).to_have_count(0)  # from here on the page does not look by itself
    settle(page)
    os.kill(read_json(protocol.service(place).folder / "process.json")["pid"], signal.SIGKILL)
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_text("The process that held the weights is gone")).to_be_visible(timeout=PATIENCE_MS)
    expect(page.get_by_test_id("holding").get_by_text("not loaded", exact=True)).to_have_count(2, timeout=PATIENCE_MS)
    page.get_by_role("button", name="Load all").click()
    expect(loaded(page)).to_have_count(2, timeout=PATIENCE_MS)
