"""The workspace of made-up runs is one that the product takes for real, and the document says what the planner says."""

import pytest

from benchmarks import _published, _synthetic, scale
from benchmarks._synthetic import BIG, SAME, Size
from paraknow_core.engines import queue
from paraknow_core.engines.service import Service
from paraknow_core.paths import PROJECT_ROOT, Workspace
from paraknow_core.studies.folder import list_studies
from paraknow_core.studies.outcome import outcome
from paraknow_core.studies.preview import preview
from paraknow_core.workbench import reading

SIZE = Size(runs=200, study=40, waiting=20, examples=20)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = Workspace(tmp_path_factory.mktemp("workspace"))
    _synthetic.write(place, SIZE)
    return place


def test_made_up_runs_are_whole(place):
    runs = reading.all_facts(place)
    assert len(runs) == SIZE.runs
    assert not [facts.problem for _, facts in runs if facts.problem]
    states = [reading.status(run).state for run, _ in runs]
    assert states.count("queued") == SIZE.waiting == len(queue.read(place).waiting)
    assert states.count("done") == sum(bool(facts.scores) for _, facts in runs) > SIZE.runs / 2
    assert len(set(reading.titles(place).values())) == SIZE.runs


def test_made_up_studies_are_judged_and_answer_for_one_another(place):
    found = outcome(next(folder for folder in list_studies(place) if "which-arm" in folder.id))
    assert found.state == "done"
    assert all(len(group.seeds) == 2 and group.value is not None for group in found.groups)
    studies = _synthetic.studies(SIZE)
    assert [preview(studies[name], place).already for name in (BIG, SAME)] == [SIZE.study] * 2


@pytest.mark.parametrize(
    "case", ["facts of all runs", "submit one run, put first", "search the table", "take over by content"]
)
def test_a_case_is_measured(place, case, monkeypatch):
    monkeypatch.setattr(Service, "start", Service.start)  # what the benchmark puts in its place is taken away again
    found = scale.measure(place, SIZE, case)
    assert found["first_s"] > 0 and found["again_s"] > 0
    if case == "facts of all runs":
        assert found["opened_again"] == 0


def test_the_document_says_what_the_planner_says_now():
    text = (PROJECT_ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    table = text.partition("<!-- plan -->\n")[2].partition("\n<!-- /plan -->")[0]
    assert table == _published.table(), "put what `python -m benchmarks.scale --plan` prints between the marks"


def test_published_sizes_are_those_that_the_names_say():
    for name, billions in (
        ("meta-llama/Llama-3.1-70B", 70.6),
        ("meta-llama/Llama-2-7b-hf", 6.74),
        ("Qwen/Qwen2.5-7B", 7.62),
    ):
        assert _published.anatomy(name).parameters / 1e9 == pytest.approx(billions, rel=0.01)
