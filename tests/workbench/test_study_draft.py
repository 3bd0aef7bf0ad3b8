"""The study draft: kept in a file, on the draft of a run where it has no base of its own."""

import pytest

from paraknow_core.errors import RunError, SpecError
from paraknow_core.paths import Workspace
from paraknow_core.spec import RunSpec
from paraknow_core.studies.study import StudySpec
from paraknow_core.workbench.study_draft import FILE, StudyDraft, load_study_draft, save_study_draft, stamp


def test_kept_and_read_again(tmp_path):
    place = Workspace(tmp_path)
    assert load_study_draft(place) == StudyDraft()
    before, draft = stamp(place), StudyDraft(study=StudySpec(factors={"factorisation.rank": (4, 8)}), own_base=True)
    save_study_draft(place, draft)
    assert load_study_draft(place) == draft and stamp(place) != before


def test_its_base_is_the_draft_of_a_run_until_it_has_its_own():
    draft = RunSpec().with_changes({"factorisation.rank": 8})
    assert StudyDraft().on(draft).base == draft
    assert StudyDraft(own_base=True).on(draft).base == RunSpec()


@pytest.mark.parametrize("text", ['{"study": {"arms": ["nonsense"]}}', '{"other": 1}'])
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(SpecError, match=f"{FILE}: .*starts from the defaults again"):
        load_study_draft(Workspace(tmp_path))


def test_a_workspace_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be saved"):
        save_study_draft(Workspace(tmp_path / "file"), StudyDraft())
