"""What untouched models score is computed once, also where two runs want it at the same moment."""

import threading
import time
from types import SimpleNamespace

from paraknow_core.context import Silent
from paraknow_core.training import evaluation


def test_of_two_runs_one_scores_the_untouched_model_and_the_other_waits(workspace, monkeypatch):
    kept: list[list[dict]] = []
    computed: list[int] = []

    def compute(_context, _model, _folder):
        computed.append(1)
        time.sleep(0.3)
        kept.append([{"scorer": "exact_match", "value": 0.5}])
        return kept[0]

    monkeypatch.setattr(evaluation, "reference_key", lambda *_: "key")
    monkeypatch.setattr(evaluation, "_saved_scores", lambda *_: kept[0] if kept else None)
    monkeypatch.setattr(evaluation, "_score_reference", compute)
    context = SimpleNamespace(place=workspace, report=Silent(), student=None, teacher=None)
    found: list[list[dict]] = []
    runs = [
        threading.Thread(target=lambda: found.append(evaluation.reference_scores(context, "student"))) for _ in range(2)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert computed == [1]
    assert found == [kept[0]] * 2
    assert not list(workspace.evaluations.glob(".*"))
