"""Train: settings write the draft, runs are submitted in order, and every state is drawn."""

import json

import pytest

from paraknow_core.draft import Draft
from paraknow_core.engines import queue
from paraknow_core.errors import RunError
from paraknow_core.runs import RunFolder
from paraknow_core.spec import RunSpec
from tests.pages import fabricate
from tests.pages.conftest import button, select, words


def number(app, label: str):
    return next(n for n in app.number_input if n.label == label)


def test_empty_says_what_will_appear(open_app):
    app = open_app("train")
    assert app.title[0].value == "Train"
    assert "loss, log and scores will appear here" in app.info[0].value


def test_settings_survive_a_page_switch_and_reach_the_run(place, open_app, submitted):
    app = open_app("train")
    number(app, "Rank r").set_value(4).run()
    select(app, "Structure").set_value("row_column").run()
    next(m for m in app.multiselect if m.label == "Origin").set_value(["ffn"]).run()
    app.switch_page("pages/start.py").run()
    app.switch_page("pages/train.py").run()
    assert (number(app, "Rank r").value, select(app, "Structure").value) == (4, "row_column")
    assert "3 changes" in words(app)
    button(app, "Start transfer").click().run()
    spec = RunFolder(place.runs / submitted[0][0]).spec()
    assert (spec.factorisation.rank, spec.extraction.structure, spec.extraction.origin) == (4, "row_column", ("ffn",))


def test_controls_are_submitted_after_the_method_in_one_go(place, open_app, submitted):
    app = open_app("train")
    for label in ("default LoRA", "random offset"):
        next(c for c in app.checkbox if c.label == label).check().run()
    app.switch_page("pages/sensitivity.py").run()
    app.switch_page("pages/train.py").run()
    button(app, "Start transfer").click().run()
    assert not app.exception
    [ids] = submitted
    methods = [RunFolder(place.runs / run_id).spec().method for run_id in ids]
    assert methods == ["seeking", "default_lora", "random_offset"]
    assert app.query_params["run"] in (ids[0], [ids[0]])


def test_a_refused_value_is_a_sentence_and_the_draft_stays(open_app):
    app = open_app("train")
    app.session_state["draft"] = Draft(spec=RunSpec().with_changes({"finetuning.micro_batch_size": 8}))
    app.run()
    number(app, "Batch size").set_value(9).run()
    assert not app.exception
    assert number(app, "Batch size").value == 64
    assert "batch_size 9 is not a multiple of micro_batch_size 8" in words(app)
    number(app, "Batch size").set_value(16).run()
    assert not app.error


@pytest.mark.parametrize("typed", ["/no/such folder", "a\0b", "owner/name", "..", "x" * 3000, "<script>", "[a](b) $c$"])
def test_whatever_is_typed_as_model_and_task_is_drawn_and_submitted(place, open_app, submitted, typed):
    app = open_app("train")
    changes = {"student.source": typed, "task.source": typed}
    app.session_state["draft"] = Draft(spec=RunSpec().with_changes(changes))
    app.run()
    assert not app.exception
    button(app, "Start transfer").click().run()
    assert not app.exception
    spec = RunFolder(place.runs / submitted[0][0]).spec()
    assert (spec.student.source, spec.task.source) == (typed, typed)


@pytest.mark.parametrize("state", ["queued", "running", "stopping", "stopped", "failed", "lost"])
def test_an_unfinished_run_shows_state_curves_and_what_can_be_done(place, open_app, state):
    run = fabricate.run(place, state)
    app = open_app("train", run.id)
    assert f">{state}</span>" in words(app)
    assert bool(app.get("plotly_chart")) == (state != "queued")
    labels = {b.label: b for b in app.button}
    assert ("Stop and save" in labels) == (state in ("running", "stopping"))
    if state == "stopping":
        assert labels["Stop and save"].disabled
    assert ("Resume" in labels) == (state in ("stopped", "failed", "lost"))


def test_stop_asks_the_run_and_resume_submits_it_again(place, open_app, submitted):
    run = fabricate.run(place, "running")
    app = open_app("train", run.id)
    button(app, "Stop and save").click().run()
    assert run.file("stop").exists()
    lost = fabricate.run(place, "lost")
    app = open_app("train", lost.id)
    button(app, "Resume").click().run()
    assert submitted == [[lost.id]]


def test_an_engine_that_refuses_is_a_sentence(place, open_app, monkeypatch):
    def refuse(*_):
        raise RunError("run x: is already running; watch it, or stop it first")

    monkeypatch.setattr(queue, "submit", refuse)
    app = open_app("train")
    button(app, "Start transfer").click().run()
    assert not app.exception
    assert "is already running" in words(app)


def test_a_done_run_shows_scores_beside_student_and_siblings(place, open_app):
    fabricate.run(place, "done", {"method": "default_lora"}, value=0.377)
    fabricate.run(place, "done", {"method": "pissa", "task.source": "bundled:instructions"})
    run = fabricate.run(place, "done")
    app = open_app("train", run.id)
    bars = json.loads(app.get("plotly_chart")[0].proto.spec)
    assert bars["layout"]["yaxis"]["ticktext"] == [
        "student, untouched", "teacher, untouched", "seeking (the method) (this run)", "default LoRA",
    ]  # fmt: skip
    shown = [row[1] for row in bars["data"][0]["customdata"]]
    assert shown[2:] == ["41.0 ± 5.6 % (n = 300)", "37.7 ± 5.5 % (n = 300)"]
    values = {m.label: m.value for m in app.metric}
    assert values["Step-0 identity"] == "3.1 × 10⁻⁶"
    assert (values["Export check"], values["Trainable parameters"], values["Time"]) == ("passed", "119 k", "1 m 33 s")


def test_a_difference_is_paired_and_said_in_words(place, open_app):
    fabricate.run(place, "done", {"method": "default_lora"}, value=0.377)
    run = fabricate.run(place, "done")
    text = words(open_app("train", run.id))
    # Made so that every example the control gets right is right in the run too: 123 - 113 of 300 are gained.
    assert "seeking (the method) against default LoRA" in text
    assert "+3.3" in text
    assert "Not a clean comparison" not in text


def test_an_unclean_comparison_names_what_else_differs_and_a_clean_one_is_preferred(place, open_app):
    other = fabricate.run(place, "done", {"method": "default_lora", "finetuning.learning_rate": 1e-3})
    run = fabricate.run(place, "done")
    text = words(open_app("train", run.id))
    assert "Not a clean comparison with default LoRA: finetuning.learning_rate also differ" in text
    clean = fabricate.run(place, "done", {"method": "default_lora"})
    clean.path.rename(place.runs / "20000101-000000-older")
    assert other.id > "20000101"
    assert "Not a clean comparison" not in words(open_app("train", run.id))


def test_a_done_run_without_controls_says_so(place, open_app):
    run = fabricate.run(place, "done")
    assert "No control has finished" in words(open_app("train", run.id))


def test_the_curve_comes_from_whole_lines_only(place, open_app):
    run = fabricate.run(place, "running")
    chart = json.loads(open_app("train", run.id).get("plotly_chart")[0].proto.spec)
    names = [trace["name"] for trace in chart["data"]]
    assert names == ["training, raw", "training", "validation"]
    assert chart["layout"]["uirevision"] == "step"


def test_a_sensitivity_run_points_to_its_page(place, open_app):
    run = fabricate.run(place, "done", {"until": "sensitivity"})
    app = open_app("train", run.id)
    assert "only measures sensitivity" in words(app)
    assert app.get("page_link")


def test_an_unreadable_spec_is_a_sentence(place, open_app):
    run = fabricate.run(place, "done")
    run.file("spec.yaml").write_text("version: [")
    assert "not valid YAML" in words(open_app("train", run.id))
