"""Study folders in every state, written as their process would leave them, without computing."""

import time
from collections.abc import Callable
from dataclasses import asdict

from paraknow_core.files.json_file import write_json
from paraknow_core.paths import Workspace
from paraknow_core.runs.processes import this_process
from paraknow_core.runs.status import Status
from paraknow_core.studies.folder import StudyFolder
from paraknow_core.studies.study import Cell, StudySpec, parse_study, scored_cells
from tests.pages import compared, fabricate

SHARES = {"default_lora": 0.35, "seeking": 0.6, "random_offset": 0.36}


def spec(**changes) -> StudySpec:
    """A study of two arms, two structures and six seeds."""
    data = {
        "name": "structure",
        "question": "Submatrix or scattered?",
        "arms": ["default_lora", "seeking"],
        "factors": {"extraction.structure": ["submatrix", "neuron"]},
    }
    return parse_study({**data, **changes})


def study(
    place: Workspace,
    state: str = "done",
    asked: StudySpec | None = None,
    of_cell: Callable[[Cell], str] = lambda cell: "done",
) -> StudyFolder:
    """Write a study in a state; `of_cell` says which state each scored run is in, empty: there is none."""
    asked = asked or spec()
    folder = StudyFolder.create(place, asked)
    answers = {}
    for cell in scored_cells(asked):
        word = of_cell(cell)
        if word:
            answers[cell.key] = _run(place, cell, word)
    write_json(folder.file("runs.json"), answers)
    now = time.time()
    process = {"host": this_process()["host"], "pid": 2**22 - 7, "process_started": 1.0}
    process = this_process() if state in ("running", "stopping") else process
    total = sum(1 for _ in scored_cells(asked))
    status = Status(
        state="running" if state == "lost" else state,
        stage="scoring",
        done=len(answers),
        total=total,
        heartbeat=now - 3,
        started=now - 130,
        ended=now - 3 if state in ("done", "failed", "stopped") else 0,
        attempt=1,
        **process,
    )
    if state != "queued":
        write_json(folder.file("status.json"), asdict(status))
    folder.file("log.txt").write_text("scored run 1 of 24\n")
    return folder


def _run(place: Workspace, cell: Cell, state: str) -> str:
    method = cell.spec.method
    if state == "done":
        run = compared.run(place, method, cell.seed, SHARES.get(method, 0.4))
    else:
        run = fabricate.run(place, state)
    run.file("spec.yaml").write_text(cell.spec.to_yaml())
    return run.id
