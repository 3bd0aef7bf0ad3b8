"""Which runs are there already, and which seeds are missing."""

import json
import time

from paraknow_core.runs.folder import list_runs
from paraknow_core.spec import RunSpec
from paraknow_core.studies import repeats
from paraknow_core.studies.repeats import missing_seeds, there_already
from tests.pages import fabricate


def states(run):
    return run.status().state


def test_a_run_that_is_there_answers_for_a_spec_that_computes_the_same(place):
    control = fabricate.run(place, "done", {"method": "default_lora", "extraction.structure": "random", "name": "x"})
    fabricate.run(place, "failed", {"seed": 1})
    fabricate.run(place, "stopping", {"seed": 1})
    waiting = fabricate.run(place, "queued", {"method": "pissa"})
    running = fabricate.run(place, "running", {"method": "pissa"})
    known = [(run, run.spec()) for run in list_runs(place)]
    wanted = [
        RunSpec().with_changes(c)
        for c in (
            {"method": "default_lora"},
            {"seed": 1},
            {"method": "pissa"},
            {"method": "default_lora", "references": ["student", "teacher"]},
            {"method": "default_lora", "until": "sensitivity"},
        )
    ]
    assert there_already(wanted, known, states) == [control, None, running, None, None]
    known = [(run, spec) for run, spec in known if run != running]
    assert there_already(wanted[2:3], known, states) == [waiting]
    assert there_already(wanted[2:3], known, lambda _: "") == [None]


def test_a_run_whose_data_was_written_since_answers_for_nothing(place, tmp_path):
    file = tmp_path / "data.jsonl"
    file.write_text("{}")
    changes = {"method": "default_lora", "task.source": str(file)}
    run = fabricate.run(place, "done", changes)
    status = json.loads(run.file("status.json").read_text())
    for started, found in ((time.time() + 60, run), (time.time() - 60, None)):
        run.file("status.json").write_text(json.dumps(status | {"started": started}))
        assert there_already([run.spec()], [(run, run.spec())], states) == [found]
    unread = RunSpec().with_changes({"method": "default_lora", "teacher.source": str(tmp_path)})
    other = fabricate.run(place, "done", {"method": "default_lora", "teacher.source": str(tmp_path)})
    assert there_already([unread], [(other, other.spec())], states) == [other]


def test_missing_seeds_are_those_that_make_three_in_every_arm(place):
    arms_ = [RunSpec().with_changes({"seed": 1, "method": method}) for method in ("seeking", "default_lora")]
    runs = [
        fabricate.run(place, "done", {"method": m, "seed": s})
        for m, s in (("seeking", 1), ("default_lora", 1), ("default_lora", 7))
    ]
    known = [(run, run.spec()) for run in runs]
    missing = missing_seeds(arms_, known, states)
    assert [(spec.method, spec.seed) for spec in missing] == [("seeking", 7), ("seeking", 2), ("default_lora", 2)]
    runs += [fabricate.run(place, "queued", {"method": spec.method, "seed": spec.seed}) for spec in missing]
    assert missing_seeds(arms_, [(run, run.spec()) for run in runs], states) == []


def test_each_run_and_each_spec_is_worked_out_once(place, monkeypatch):
    runs = [(fabricate.run(place, "done", {"seed": seed}), RunSpec(seed=seed)) for seed in range(4)]
    asked = []
    monkeypatch.setattr(repeats, "computes", lambda spec, before=repeats.computes: asked.append(spec) or before(spec))
    found = there_already([RunSpec(seed=seed) for seed in range(6)], runs, states)
    assert [run and run.id for run in found] == [*(run.id for run, _ in runs), None, None]
    assert len(asked) == 4 + 6
    asked.clear()
    missing_seeds([RunSpec(), RunSpec(method="pissa")], runs, states)
    tried = 3 + 4  # as many seeds as are wanted, and as there are
    assert len(asked) <= (2 + 4) + (4 + 2 * tried)
