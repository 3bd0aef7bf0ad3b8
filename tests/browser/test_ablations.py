"""Ablations in a real browser: from Start to a study of real, tiny runs and its verdict; links, the grid, widths."""

import re

import pytest
from playwright.sync_api import expect

from paraknow_core.spec import RunSpec
from paraknow_core.studies.folder import list_studies
from paraknow_core.workbench.draft import Draft, save_draft
from tests.browser.driving import PATIENCE_MS, settle, shoot, visit, wait_for
from tests.pages import compared, studied

pytestmark = [pytest.mark.browser, pytest.mark.slow]

TINY = {
    "task.sizes": {"train": 24, "validation": 8, "test": 12},
    "task.max_new_tokens": 8,
    "sensitivity.samples": 2,
    "finetuning.batch_size": 8,
    "finetuning.max_steps": 2,
    "factorisation.rank": 4,
}


def pill(page, row: str, name: str) -> None:
    """Tick a value of a factor, or take its tick away."""
    page.locator(f".st-key-ablations-row-{row.replace(' ', '-')}").get_by_role("button", name=name, exact=True).click()
    settle(page)


def test_from_start_to_a_verdict_on_submatrix_or_scattered(page, site, place):
    save_draft(place, Draft(spec=RunSpec().with_changes(TINY)))
    visit(page, site)
    page.get_by_test_id("stSidebarNav").get_by_text("Ablations").click()
    expect(page.locator("h1")).to_have_text("Ablations")
    settle(page)
    for name in ("PiSSA", "OLoRA", "random offset"):
        pill(page, "Arms", name)
    for name in ("submatrix", "neuron"):
        pill(page, "Structure", name)
    expect(page.get_by_text("2 arms × 2 structures × 6 seeds").first).to_be_visible()
    page.get_by_role("spinbutton", name="Seeds").fill("2")
    page.get_by_role("spinbutton", name="Seeds").press("Enter")
    settle(page)
    expect(page.get_by_text("nothing can be more than undecided")).to_be_visible()
    page.get_by_role("button", name="Start study").click()
    page.wait_for_url(re.compile(r"[?&]study="))
    wait_for(lambda: list_studies(place))
    [folder] = list_studies(place)
    expect(page.get_by_text("Results", exact=True)).to_be_visible()
    expect(page.locator('[data-testid="headline"]').get_by_text("done", exact=True)).to_be_visible(timeout=PATIENCE_MS)
    expect(page.get_by_text(re.compile("Difference to default LoRA")).first).to_be_visible()
    shoot(page, "ablations_verdict")
    page.get_by_role("radio", name="Arms and runs").click()
    settle(page)
    table = page.get_by_test_id("arms")
    expect(table).to_contain_text("2 seeds × 12 examples, smallest detectable")
    expect(table).to_contain_text("undecided")
    assert not re.search(r": (better|worse|equivalent)", table.inner_text())
    shoot(page, "ablations_arms")
    assert folder.state() == "done" and not folder.failed_runs()
    with page.expect_download(timeout=PATIENCE_MS) as waiting:
        page.get_by_role("button", name="Report as HTML").click()
    assert waiting.value.suggested_filename.endswith(".html")
    page.get_by_role("link", name="Compare these runs").click()
    expect(page.locator("h1")).to_have_text("Compare")
    # Default LoRA does not read the structure: its two groups share their runs.
    expect(page.get_by_text("6 of 6 runs chosen")).to_be_visible()


def test_back_reload_and_a_click_in_the_grid(page, site, place):
    compared.study(place, seeds=1)
    folder = studied.study(place, "stopped", of_cell=lambda cell: "done" if cell.seed < 2 else "")
    visit(page, f"{site}/ablations")
    page.locator('[class*="st-key-ablations-open"] button').click()
    page.wait_for_url(re.compile(f"study={folder.id}"))
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    page.reload()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("heading", name="New study")).to_be_visible()
    page.go_forward()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    settle(page)
    page.get_by_text("Runs, arm by seed").click()
    plot = page.locator(".js-plotly-plot").first
    expect(plot).to_be_visible()
    settle(page)
    plot.locator(".scatterlayer path.point").first.click(force=True)
    page.wait_for_url(re.compile("/train"))
    expect(page.locator("h1")).to_have_text("Train")


def test_vary_this_on_train_leads_to_the_draft(page, site):
    visit(page, f"{site}/train")
    page.locator(".st-key-vary-factorisation-rank button[kind='tertiary']").first.click()  # the second is for touch
    with page.expect_popup() as opened:  # links in texts open a window of their own
        page.get_by_role("link", name="See it on Ablations").click()
    ablations = opened.value
    expect(ablations.locator("h1")).to_have_text("Ablations", timeout=PATIENCE_MS)
    expect(ablations.get_by_text(re.compile("5 arms × 7 ranks × 6 seeds")).first).to_be_visible(timeout=PATIENCE_MS)


def test_every_view_fits_in_both_themes_and_in_a_narrow_window(browser, site, place):
    folder = studied.study(place, of_cell=lambda cell: "failed" if cell.seed == 5 else "done")
    looks = {
        ("light", 400): ("", "verdict", "arms"),
        ("dark", 1280): ("", "verdict", "factors"),
        ("light", 1600): ("",),
    }
    for (scheme, width), views in looks.items():
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        for view in views:
            visit(page, f"{site}/ablations" + (f"?study={folder.id}&view={view}" if view else ""))
            too_wide = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
            assert not too_wide, f"{view or 'the draft'} scrolls sideways at {width} px"
            shoot(page, f"ablations_{view or 'draft'}_{scheme}_{width}")
        context.close()
