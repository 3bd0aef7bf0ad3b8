"""The whole path, as one person walks it: a pasted spec, two arms, their comparison, and the adapter in plain PEFT."""

import io
import re
import zipfile

import pytest
import torch
from peft import PeftModel
from playwright.sync_api import expect
from transformers import AutoModelForCausalLM

from paraknow_core.paths import PROJECT_ROOT
from paraknow_core.runs.folder import list_runs
from tests.browser.driving import PATIENCE_MS, expect_state, run_in_address, settle, shoot, visit

pytestmark = pytest.mark.browser
STUDENT = PROJECT_ROOT / "paraknow_core" / "demo" / "models" / "stranger"
SPEC = """
task: {sizes: {train: 16, validation: 4, test: 8}}
sensitivity: {samples: 4}
factorisation: {rank: 4, lora_alpha: 4}
finetuning: {max_steps: 3, batch_size: 8, validations: 1, learning_rate: 0.01}
"""


def paste(page, text: str, outcome: str) -> None:
    """Import a text as the draft's spec."""
    page.get_by_test_id("stPopover").get_by_role("button", name="Spec").click()
    page.get_by_label("Import YAML").fill(text)
    page.get_by_role("button", name="Import", exact=True).click()
    expect(page.get_by_test_id("stAlert").get_by_text(outcome)).to_be_visible()  # in the menu, where it was pasted
    page.keyboard.press("Escape")
    settle(page)


def test_from_start_over_two_arms_to_their_comparison_and_an_adapter_that_plain_peft_loads(page, site, place, tmp_path):
    visit(page, site)
    expect(page.get_by_text("Runs will be listed here")).to_be_visible()
    paste(page, SPEC.replace("rank", "rnak"), "unknown key 'rnak' under factorisation")
    expect(page.get_by_test_id("strip")).to_contain_text("draft defaults")
    shoot(page, "start_bad_yaml")
    paste(page, SPEC, "Imported: it changes")
    expect(page.get_by_test_id("strip")).to_contain_text(re.compile(r"draft \d+ changes"))
    page.get_by_test_id("stSidebarNav").get_by_text("Train").click()
    expect(page.locator("h1")).to_have_text("Train")
    settle(page)
    page.get_by_role("button", name="Start transfer").click()
    run = run_in_address(page, place)
    expect_state(page, "done")
    [control] = [other for other in list_runs(place) if other != run]
    expect(page.get_by_text(re.compile("seeking .the method. against default LoRA"))).to_be_visible(timeout=PATIENCE_MS)
    page.get_by_role("link", name="Compare it with other runs").click()
    expect(page.locator("h1")).to_have_text("Compare")
    settle(page)
    assert run.id in page.url and control.id in page.url
    expect(page.get_by_text(re.compile("against default LoRA"))).to_be_visible()
    shoot(page, "compare_two_arms")
    page.get_by_text("Report and files", exact=True).click()
    settle(page)
    page.get_by_role("combobox", name="Run").click()
    page.get_by_role("option").filter(has_text="seeking, seed 0").click()
    settle(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Adapter as zip").click()
    with zipfile.ZipFile(io.BytesIO(download.value.path().read_bytes())) as archive:
        archive.extractall(tmp_path / "taken")
    [config] = (tmp_path / "taken").rglob("adapter_config.json")
    student = AutoModelForCausalLM.from_pretrained(STUDENT, dtype=torch.float32)
    tokens = torch.arange(3, 40)[None]
    with torch.inference_mode():
        before = student(tokens).logits
        adapted = PeftModel.from_pretrained(student, config.parent)
        after = adapted(tokens).logits
    assert (after - before).abs().max() > 1e-3
