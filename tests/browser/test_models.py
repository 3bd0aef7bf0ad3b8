"""Models & task in a real browser: a broken upload and a mapped one, ticks in the table of seed samples, every part."""

import json
import re

import pytest
from playwright.sync_api import expect

from paraknow_core.workbench.draft import load_draft
from tests.browser.driving import settle, shoot, visit, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.slow]
ROW, HEADER = 33, 34  # pixels of the table


def choose_file(page, name: str, content: bytes) -> None:
    page.locator('input[type="file"]').set_input_files({"name": name, "mimeType": "text/plain", "buffer": content})
    settle(page)


def test_a_broken_upload_is_a_sentence_and_a_mapped_one_is_shown_as_a_model_reads_it(page, site, place):
    visit(page, f"{site}/models?part=task")
    page.get_by_text("Upload", exact=True).click()
    settle(page)
    choose_file(page, "broken <b>.jsonl", b'{"question": "a", "answer": "b"}\n' * 2 + b"{oops\n")
    expect(page.get_by_test_id("stAlert").first).to_contain_text("broken <b>.jsonl line 3: is not JSON")
    assert not list(place.uploads.iterdir())
    shoot(page, "models_upload_broken")
    rows = [{"instruction": f"What is {i} plus {i}?", "output": f"It is {2 * i}", "prompt": "?"} for i in range(120)]
    choose_file(page, "my own.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    page.get_by_role("button", name="Use these columns").click()
    expect(page.get_by_test_id("strip")).to_contain_text("my own.jsonl")
    expect(page.get_by_test_id("tokens").locator(".pk-learnt").first).to_be_visible()
    assert sorted(file.suffix for file in place.uploads.iterdir()) == [".json", ".jsonl"]
    first = page.get_by_test_id("tokens").inner_text()
    page.get_by_role("button", name="Next").click()
    settle(page)
    expect(page.get_by_test_id("tokens")).not_to_have_text(first)
    assert re.search(r"token \d+, id \d+, learnt", page.locator(".pk-tokens .pk-learnt").last.get_attribute("title"))
    limit = page.get_by_label("Max length [tokens]", exact=True)
    limit.fill("20")
    limit.press("Enter")
    expect(page.locator(".pk-tokens .pk-cut").first).to_be_visible()
    settle(page)
    shoot(page, "models_task_cut")


def test_ticks_of_seed_samples_reach_the_draft_and_stay(page, site, place):
    visit(page, f"{site}/models?part=seeds")
    table = page.get_by_test_id("stDataFrame")
    expect(table).to_be_visible()
    page.get_by_text("By hand", exact=True).click()
    wait_for(lambda: load_draft(place).spec.sensitivity.selection == "manual", 60)
    expect(page.get_by_text("Put the ticked ones first")).to_be_visible()
    settle(page)

    def tick(row: int) -> None:
        box = table.bounding_box()
        page.mouse.click(box["x"] + 43, box["y"] + HEADER + ROW * row + ROW / 2)
        settle(page)

    def ids() -> list[str]:
        return [name.rsplit("/", 1)[1] for name in load_draft(place).spec.sensitivity.ids]

    tick(0)
    wait_for(lambda: "0" not in ids(), 30)
    tick(2)
    wait_for(lambda: ids()[:3] == ["1", "3", "4"], 30)
    page.get_by_test_id("stSidebarNav").get_by_text("Start").click()
    visit(page, f"{site}/models?part=seeds")
    expect(table).to_be_visible()
    settle(page)
    assert ids()[:3] == ["1", "3", "4"]
    tick(0)
    wait_for(lambda: ids()[:2] == ["3", "4"], 30)
    shoot(page, "models_seeds_by_hand")


MARKS = {"models": "compat", "task": "tokens", "seeds": "stDataFrame", "estimate": "estimate"}
SHOWN = {("light", 1280): MARKS, ("light", 900): ("models", "task"), ("dark", 1280): ("task", "estimate")}


def test_every_part_is_drawn_in_both_themes_and_in_a_narrow_window(browser, site):
    for (scheme, width), parts in SHOWN.items():
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page = context.new_page()
        for part in parts:
            visit(page, f"{site}/models?part={part}")
            expect(page.get_by_test_id(MARKS[part])).to_be_visible(timeout=120_000)
            too_wide = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
            assert not too_wide, f"{part} scrolls sideways at {width} px"
            shoot(page, f"models_{part}_{scheme}_{width}")
        context.close()
