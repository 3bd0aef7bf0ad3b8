"""What pages keep of files that they have read: a file that changes is read again."""

from pages._ui import reading
from pages._ui.mapping_choice import totals_of
from paraknow_core.sensitivity_store import TOTALS
from tests.pages import fabricate


def test_a_damaged_sensitivity_is_read_again_once_it_is_whole(place):
    file = fabricate.store(place) / TOTALS
    whole = file.read_text()
    file.write_text("{")
    assert totals_of(str(file.parent))["samples"] == 0
    file.write_text(whole)
    assert totals_of(str(file.parent))["samples"] == 32


def test_a_verdict_follows_the_answers_that_it_is_about(place):
    one, other = fabricate.run(place, value=0.6), fabricate.run(place, changes={"method": "default_lora"}, value=0.4)
    before = reading.verdict(one, other)
    ours, theirs = (run.file("predictions.jsonl") for run in (one, other))
    ours.write_text(theirs.read_text() + "\n")
    assert reading.verdict(one, other) != before
