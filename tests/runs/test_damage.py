"""The commands on runs, in a workspace whose files were damaged by hand: a sentence, never a traceback."""

import pytest

from paraknow_core.cli import main
from paraknow_core.runs.folder import list_runs
from tests.damage import DAMAGES, damage
from tests.pages import fabricate


@pytest.mark.parametrize("file", ["spec.yaml", "status.json", "result.json", "lock", "log.txt", "extra"])
def test_damaged_runs_are_listed_shown_and_deleted(workspace, capsys, file):
    runs = []
    for kind in DAMAGES:
        run = fabricate.run(workspace, "done", {"name": kind})
        damage(run.file(file), kind)
        runs.append(run)
    assert main(["runs", "list"]) == 0
    assert capsys.readouterr().out.count("\n") >= len(runs)
    for run in runs:
        assert main(["runs", "show", run.id]) in (0, 2)
        said = capsys.readouterr()
        assert "Traceback" not in said.err and (said.out or said.err.count("\n") == 1)
        if file == "result.json" and run.read_result()[1]:
            assert "result.json is damaged" in said.out
        assert main(["runs", "delete", run.id, "--yes"]) == 0
    assert list_runs(workspace) == []
