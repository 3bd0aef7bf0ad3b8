"""The study draft: the study a person is preparing in the browser, one file a workspace, beside the draft of a run."""

from paraknow_core.files.disk import file_stamp
from paraknow_core.paths import Workspace
from paraknow_core.spec import RunSpec, Strict
from paraknow_core.studies.study import StudySpec
from paraknow_core.workbench.draft import read_draft, write_draft

FILE = "study_draft.json"


class StudyDraft(Strict):
    """The study that is edited.

    Attributes:
        study: all of it.
        own_base: whether its base is its own (a preset's, an imported file's), and not the draft of a run as it is.
    """

    study: StudySpec = StudySpec()
    own_base: bool = False

    def on(self, draft: RunSpec) -> StudySpec:
        """Return the study that would be started while this is the draft of a run."""
        return self.study if self.own_base else self.study.model_copy(update={"base": draft})


def load_study_draft(place: Workspace) -> StudyDraft:
    """Read the workspace's study draft; see `read_draft`."""
    return read_draft(place.root / FILE, StudyDraft, "study draft")


def save_study_draft(place: Workspace, draft: StudyDraft) -> None:
    """Keep the workspace's study draft; see `write_draft`."""
    write_draft(place.root / FILE, draft, "study draft")


def stamp(place: Workspace) -> tuple[int, int]:
    """Return what changes whenever the file is written."""
    return file_stamp(place.root / FILE)
