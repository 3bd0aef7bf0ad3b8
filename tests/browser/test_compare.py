"""Compare in a real browser: ticking rows, a link that shows the same again, the report without a network."""

import re
import zipfile

import pytest
from playwright.sync_api import expect

from tests.browser.driving import PATIENCE_MS, settle, shoot, visit
from tests.pages import compared

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def view(page, name: str) -> None:
    page.get_by_role("radio", name=name).click()
    settle(page)


def tick(page, row: int) -> None:
    """Click the box before a row of the table, which is one canvas."""
    box = page.get_by_test_id("stDataFrame").first.bounding_box()
    page.mouse.click(box["x"] + 17, box["y"] + 35 * row + 18)
    settle(page)


def test_rows_are_ticked_and_a_link_shows_the_same_comparison(page, site, place):
    compared.study(place, seeds=3)
    visit(page, f"{site}/compare")
    expect(page.get_by_text("9 of 9 runs chosen")).to_be_visible()
    sentence = page.get_by_text(re.compile(r"against default LoRA: \+"))
    expect(sentence.first).to_be_visible()
    shoot(page, "compare_scores")
    tick(page, 1)
    expect(page.get_by_text("8 of 9 runs chosen")).to_be_visible()
    link = page.url
    assert len(re.split("%2C|,", link)) == 8
    view(page, "Answers")
    expect(page.get_by_text(re.compile(r"gained \(\d+\)"))).to_be_visible()
    expect(page.locator("article.pk-answer").first).to_contain_text("<b>apples</b>")
    shoot(page, "compare_answers")
    address = page.url
    assert "view=answers" in address
    visit(page, address)
    expect(page.get_by_text("8 of 9 runs chosen")).to_be_visible()
    expect(page.locator("article.pk-answer").first).to_be_visible()
    page.get_by_test_id("stSidebarNav").get_by_text("Train").click()
    expect(page.locator("h1")).to_have_text("Train")
    page.get_by_test_id("stSidebarNav").get_by_text("Compare").click()
    expect(page.get_by_text("8 of 9 runs chosen")).to_be_visible()


def test_the_report_opens_from_disk_and_asks_for_nothing(browser, page, site, place, tmp_path):
    run = compared.study(place, seeds=1)["seeking"][0]
    run.file("adapter").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (run.file("adapter") / name).write_text("{}")
    visit(page, f"{site}/compare?view=files")
    with page.expect_download(timeout=PATIENCE_MS) as waiting:
        page.get_by_role("button", name="Report as HTML").click()
    file = tmp_path / "report.html"
    waiting.value.save_as(file)
    with page.expect_download(timeout=PATIENCE_MS) as waiting:
        page.get_by_role("button", name="Adapter as zip").click()
    waiting.value.save_as(tmp_path / "adapter.zip")
    assert zipfile.ZipFile(tmp_path / "adapter.zip").namelist()[0] == "adapter/adapter_config.json"
    shoot(page, "compare_files")
    context = browser.new_context(offline=True, viewport={"width": 1100, "height": 900})
    report, asked, said = context.new_page(), [], []
    report.on("request", lambda request: asked.append(request.url))
    report.on("console", lambda message: said.append(message.text))
    report.on("pageerror", lambda error: said.append(str(error)))
    report.goto(file.as_uri())
    expect(report.locator(".js-plotly-plot .main-svg").first).to_be_visible()
    expect(report.get_by_text("How to reproduce")).to_be_visible()
    assert asked == [file.as_uri()]
    assert said == []
    report.screenshot(path=str(tmp_path / "report.png"))
    context.close()


def test_every_view_fits_in_both_themes_and_in_a_narrow_window(browser, site, place):
    compared.study(place, seeds=2)
    compared.run(place, "seeking", name=compared.HOSTILE[:120], student__source=f"/m/{compared.HOSTILE}")
    views = {("light", 900): ("scores", "curves", "answers", "lens", "files"), ("dark", 1280): ("scores", "lens")}
    for (scheme, width), names in views.items():
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        for name in names:
            visit(page, f"{site}/compare?study=study&view={name}")
            too_wide = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
            assert not too_wide, f"{name} scrolls sideways at {width} px"
            shoot(page, f"compare_{name}_{scheme}_{width}")
        context.close()
