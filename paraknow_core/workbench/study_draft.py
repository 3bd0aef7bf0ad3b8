"""The study draft: the study a person is preparing in the browser, one file a workspace, beside the draft of a run."""

from pydantic import ValidationError

from paraknow_core.errors import RunError, SpecError
from paraknow_core.files.atomic import write_atomic
from paraknow_core.files.disk import file_stamp
from paraknow_core.files.json_file import read_json
from paraknow_core.paths import Workspace
from paraknow_core.spec import RunSpec, Strict
from paraknow_core.studies.study import StudySpec

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
    """Read the workspace's study draft; the defaults where there is none.

    Raises:
        SpecError: the file is there but holds no valid draft (of another version, or edited by hand).
    """
    data = read_json(place.root / FILE)
    if data is None:
        return StudyDraft()
    try:
        return StudyDraft.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SpecError(f"{FILE}: {where}: {first['msg']}; the study draft starts from the defaults again") from None


def save_study_draft(place: Workspace, draft: StudyDraft) -> None:
    """Keep the study draft.

    Raises:
        RunError: the workspace cannot be written.
    """
    try:
        write_atomic(place.root / FILE, draft.model_dump_json(indent=1), durable=False)
    except OSError as error:
        reason = error.strerror or "not writable"
        raise RunError(
            f"study draft: cannot be saved ({reason}); it lasts only as long as this window is open"
        ) from None


def stamp(place: Workspace) -> tuple[int, int]:
    """Return what changes whenever the file is written."""
    return file_stamp(place.root / FILE)
