"""The draft file and what Start makes of it."""

import pytest

from paraknow_core.errors import SpecError
from paraknow_core.paths import Workspace
from paraknow_core.spec import RunSpec
from paraknow_core.workbench.draft import FILE, Draft, load_draft, save_draft, stamp


def test_a_draft_comes_back_as_it_was(tmp_path):
    place = Workspace(tmp_path / "cache")
    assert load_draft(place) == Draft()
    assert stamp(place) == (0, 0)
    draft = Draft(
        spec=RunSpec().with_changes({"factorisation.rank": 8, "sensitivity.samples": 4}),
        arms=("default_lora", "pissa"),
        seeds=3,
        held=RunSpec(),
    )
    save_draft(place, draft)
    assert load_draft(place) == draft
    assert stamp(place) != (0, 0)


def test_a_damaged_draft_is_named(tmp_path):
    (tmp_path / FILE).write_text('{"seeds": 0}')
    with pytest.raises(SpecError, match="draft.json: seeds: "):
        load_draft(Workspace(tmp_path))


def test_all_arms_run_with_every_seed():
    draft = Draft(spec=RunSpec(seed=5), arms=("default_lora", "seeking", "pissa"), seeds=2)
    planned = [(spec.method, spec.seed) for spec in draft.planned()]
    assert planned == [(m, s) for s in (5, 6) for m in ("seeking", "default_lora", "pissa")]


def test_arms_are_those_of_a_study_and_the_draft_itself_stays_as_it_is_set_up():
    spec = RunSpec().with_changes({"injection.mode": "difference", "until": "sensitivity"})
    own, default, offset = Draft(spec=spec, arms=("default_lora", "random_offset")).planned()
    assert own == spec.with_changes({"until": "evaluation"})
    assert (default.method, default.injection.mode) == ("default_lora", "difference")
    assert (offset.method, offset.injection.mode) == ("random_offset", "residual")
    assert {default.until, offset.until} == {"evaluation"}
