"""Studies from the pages: started and resumed as a detached process, stopped, deleted. The folder is the protocol."""

from paraknow_core.paths import Workspace
from paraknow_core.runs import lifecycle
from paraknow_core.runs.processes import process_identity, start_detached
from paraknow_core.studies.folder import StudyFolder
from paraknow_core.studies.study import StudySpec


def start(place: Workspace, study: StudySpec) -> StudyFolder:
    """Make the folder of a study, which freezes its spec, and start its process.

    Raises:
        OSError: the workspace cannot be written.
    """
    folder = StudyFolder.create(place, study)
    resume(folder)
    return folder


def resume(folder: StudyFolder) -> None:
    """Start a process for a study that none works on; what is done is not done again.

    Raises:
        RunError: it is going on.
        OSError: the workspace cannot be written.
    """
    [attempt] = lifecycle.requeue(folder)
    with folder.file("log.txt").open("ab") as log:
        process = start_detached(folder.place, "study", "run", str(folder.path), log=log)
    lifecycle.claim(folder, process_identity(process.pid), attempt)
