"""Sensitivity: empty, running, failed, lost, saved, and links that lead nowhere."""

import json
import re
import time

import pytest

from paraknow_core.engines.queue import QueueEngine
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.lifecycle import end
from tests.pages import fabricate
from tests.pages.conftest import answer_desk, button, select, words

ONLY = {"until": "sensitivity"}


def figure(app, index: int) -> dict:
    return json.loads(app.get("plotly_chart")[index].proto.spec)


def test_empty_says_what_will_appear(open_app):
    app = open_app("sensitivity")
    assert app.title[0].value == "Sensitivity"
    assert "A map of the teacher will appear here" in app.info[0].value
    assert not app.get("plotly_chart")


def test_saved_sensitivity_is_drawn_and_a_module_can_be_chosen(place, open_app):
    fabricate.store(place)
    fabricate.run(place, "done", ONLY)
    app = open_app("sensitivity")
    heatmap, module, ranking, groups = (figure(app, i) for i in range(4))
    assert [trace["type"] for trace in heatmap["data"]] == ["heatmap", "scatter", "scatter"]
    assert ranking["data"][0]["type"] == groups["data"][0]["type"] == "bar"
    assert "n = 32 seed samples" in heatmap["layout"]["title"]["subtitle"]["text"]
    select(app, "Module").set_value("model.layers.2.mlp.down_proj").run()
    assert not app.exception
    assert figure(app, 1)["layout"]["title"]["text"] == "layers.2.mlp.down_proj"
    assert figure(app, 1)["layout"]["title"]["text"] != module["layout"]["title"]["text"]


def test_what_is_shown_can_be_switched(place, open_app):
    fabricate.store(place)
    fabricate.run(place, "done", ONLY)
    app = open_app("sensitivity")
    app.get("button_group")[0].set_value("share").run()
    assert not app.exception
    assert figure(app, 0)["layout"]["title"]["text"] == "Share of the model's sensitivity"


def test_two_saved_sensitivities_can_be_chosen_between(place, open_app):
    fabricate.store(place)
    fabricate.store(place, "f" * 32, teacher="bundled:kin")
    old = fabricate.run(place, "done", ONLY)
    new = fabricate.run(place, "done", {**ONLY, "teacher.source": "bundled:kin"}, key="f" * 32)
    app = open_app("sensitivity", new.id)
    assert len(select(app, "Showing").options) == 2
    select(app, "Showing").set_value(old.id).run()
    assert app.query_params["run"] in (old.id, [old.id])
    assert "teacher on" in figure(app, 0)["layout"]["title"]["subtitle"]["text"]


def test_two_measured_in_one_minute_have_labels_of_their_own(place, open_app):
    runs = saved_pair(place, {"sensitivity.seed": 1})
    for number, run in enumerate(runs):
        run.path.rename(place.runs / f"20260101-00000{number}-a{number}a{number}")
    app = open_app("sensitivity")
    for name in ("Showing", "Compare with"):
        options = select(app, name).options
        assert len(set(options)) == len(options) == 2
    assert {label[-4:] for label in select(app, "Showing").options} == {"a0a0", "a1a1"}


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("running", "Stage 2 of 2: sensitivity – 20 of 45 seed samples"),
        ("failed", "line 3: not JSON; correct it"),
        ("lost", "The process is gone; resume measures again"),
        ("stopped", "Resume goes on from there"),
        ("queued", "Not started yet"),
    ],
)
def test_a_run_without_a_product_says_what_it_is_doing(place, open_app, state, said):
    run = fabricate.run(place, state, ONLY)
    app = open_app("sensitivity", run.id)
    progress = " ".join(p.proto.text for p in app.get("progress")).replace("\\", "")
    assert said in words(app) + progress
    labels = {b.label for b in app.button}
    assert ("Stop and save" in labels) == (state == "running")
    assert ("Resume" in labels) == (state in ("failed", "lost", "stopped"))
    assert ("Start" in labels) == (state == "queued")


def test_compute_submits_the_draft_and_shows_the_new_run(place, open_app, submitted):
    app = open_app("sensitivity")
    next(n for n in app.number_input if n.label == "Seed samples").set_value(8).run()
    button(app, "Compute sensitivity").click().run()
    assert not app.exception
    [[run_id]] = submitted
    spec = RunFolder(place.runs / run_id).spec()
    assert (spec.until, spec.sensitivity.samples) == ("sensitivity", 8)
    assert app.query_params["run"] in (run_id, [run_id])


def test_compute_measures_nothing_that_another_window_has_set_unseen(open_app, submitted):
    one, other = open_app("sensitivity"), open_app("sensitivity")
    next(n for n in one.number_input if n.label == "Seed samples").set_value(8).run()
    button(other, "Compute sensitivity").click().run()
    assert "changed in another window" in words(other)
    assert not submitted
    button(other, "Compute sensitivity").click().run()
    assert submitted


def test_a_stopped_measurement_is_still_shown(place, open_app):
    fabricate.store(place)
    fabricate.run(place, "done", ONLY)
    run = fabricate.run(place, "running", ONLY, key=None)
    app = open_app("sensitivity")
    end(run, "stopped", "")
    app.run()
    assert "Resume goes on from there" in words(app)


def test_more_seed_samples_than_the_task_has_are_not_measured(place, open_app):
    app = open_app("sensitivity")
    next(n for n in app.number_input if n.label == "Seed samples").set_value(100_000).run()
    answer_desk(place, app)
    assert "100000 seed samples asked for" in words(app)
    assert button(app, "Compute sensitivity").disabled


def test_a_failed_measurement_advises_only_what_the_page_offers(place, open_app):
    run = fabricate.run(place, "failed", ONLY)
    app = open_app("sensitivity", run.id)
    assert "change it in the draft and start anew" in words(app)
    assert "duplicate" not in words(app).lower()
    assert "duplicate the run and change it" in words(open_app("train", fabricate.run(place, "failed").id))


BAD_LINKS = ["nothing-like-this", "../../etc/passwd", "a\0b", "x" * 5000, ".hidden", "📈 [x](y)"]


@pytest.mark.parametrize(
    ("page", "name"), [*(("sensitivity", name) for name in BAD_LINKS), ("train", "../.."), ("train", "a\0b")]
)
def test_a_bad_link_is_a_sentence_and_the_page_still_works(place, open_app, page, name):
    fabricate.store(place)
    fabricate.run(place, "done", ONLY)
    app = open_app(page, name)
    assert len(app.error) == 1
    assert "runs list" not in words(app)  # that is a command
    assert button(app, "Compute sensitivity" if page == "sensitivity" else "Start transfer")


def test_a_result_that_names_a_folder_outside_is_not_followed(place, open_app):
    fabricate.store(place).rename(place.root / "elsewhere")
    run = fabricate.run(place, "done", ONLY, key="../elsewhere")
    app = open_app("sensitivity", run.id)
    assert "measured no sensitivity" in words(app)


def test_one_seed_sample_is_one_sample(place, open_app):
    fabricate.store(place, samples=1)
    fabricate.run(place, "done", {**ONLY, "sensitivity.samples": 1})
    app = open_app("sensitivity")
    assert "1 sample ·" in select(app, "Showing").options[0]
    assert "n = 1 seed sample" in figure(app, 0)["layout"]["title"]["subtitle"]["text"]
    assert "1 seed samples" not in words(app)


def test_a_store_that_lost_its_maps_is_a_sentence(place, open_app):
    folder = fabricate.store(place)
    fabricate.run(place, "done", ONLY)
    (folder / "reductions.safetensors").unlink()
    app = open_app("sensitivity")
    assert "compute the sensitivity again" in words(app)


def saved_pair(place, other: dict, **store) -> tuple[RunFolder, RunFolder]:
    """Two saved sensitivities; the second run's spec differs in `other`, its store in `store`."""
    fabricate.store(place)
    fabricate.store(place, "f" * 32, **store)
    first = fabricate.run(place, "done", ONLY)
    return first, fabricate.run(place, "done", {**ONLY, **other}, key="f" * 32)


def charts(app) -> list[str]:
    """The titles of all charts on the page."""
    figures = [json.loads(chart.proto.spec)["layout"] for chart in app.get("plotly_chart")]
    return [layout["title"]["text"] for layout in figures]


def captions(app) -> str:
    return " ".join(c.value for c in app.caption).replace("\\", "")


def test_the_desk_marks_the_layers_that_the_draft_keeps(place, open_app):
    fabricate.store(place)
    fabricate.run(place, "done", ONLY)
    app = open_app("sensitivity")
    answer_desk(place, app)
    ranking = figure(app, 2)
    assert "hatched: not kept for stranger" in ranking["layout"]["title"]["subtitle"]["text"]
    assert ranking["data"][0]["marker"]["pattern"]["shape"].count("/") == 2  # six layers, four are kept
    assert "Only reductions were kept" in captions(app)
    assert "not measured for this student" in captions(app)


def test_a_second_sensitivity_is_compared(place, open_app):
    first, second = saved_pair(place, {"task.source": "bundled:multiple_choice"})
    app = open_app("sensitivity", first.id)
    select(app, "Compare with").set_value(second.id).run()
    answer_desk(place, app)
    assert app.query_params["with"] in (second.id, [second.id])
    assert {"Where they differ", "Module by module", "Layers", "The same layers on top?"} <= set(charts(app))
    assert "ρ 1.00" in words(app)  # both fabricated alike
    assert "Of the 4 most sensitive layers, 4 are the same" in words(app)
    assert "Comparison as CSV" in {b.proto.label for b in app.get("download_button")}
    select(app, "Compare with").set_value("").run()
    assert "with" not in app.query_params
    assert "Where they differ" not in charts(app)


def test_models_of_different_depth_are_compared_by_relative_depth(place, open_app):
    first, second = saved_pair(place, {"teacher.source": "bundled:stranger"}, layers=4, teacher="bundled:stranger")
    app = open_app("sensitivity", first.id)
    button(app, r"Compare with the student \(stranger\)").click().run()
    answer_desk(place, app)
    assert not app.exception
    assert "They have 6 and 4 layers" in words(app)
    difference = next(c for c in app.get("plotly_chart") if "Where they differ" in c.proto.spec)
    assert json.loads(difference.proto.spec)["layout"]["yaxis"]["ticktext"] == [
        "0–25 %",
        "25–50 %",
        "50–75 %",
        "75–100 %",
    ]
    select(app, "Module").set_value("model.layers.5.mlp.up_proj").run()
    assert "stranger has no model.layers.5.mlp.up_proj" in words(app)


def test_the_student_and_fewer_samples_can_be_measured_beside(place, open_app, submitted, monkeypatch):
    fabricate.store(place)
    fabricate.run(place, "done", ONLY)
    submit = QueueEngine.submit

    def at_the_same_time(*given, **more) -> None:
        fabricate.run(place, "queued")  # in another window
        submit(*given, **more)

    monkeypatch.setattr(QueueEngine, "submit", at_the_same_time)
    app = open_app("sensitivity")
    button(app, r"Measure the student too \(stranger\)").click().run()
    button(app, "Measure with 2, 4, 8, 16 samples").click().run()
    assert not app.exception
    specs = [RunFolder(place.runs / run).spec() for runs in submitted for run in runs]
    assert [spec.teacher.source for spec in specs] == ["bundled:stranger"] + 4 * ["bundled:teacher"]
    assert [spec.sensitivity.samples for spec in specs] == [32, 2, 4, 8, 16]
    assert {spec.until for spec in specs} == {"sensitivity"}
    assert "5 measurements are under way or waiting" in captions(app)
    assert charts(app)[0] == "Sensitivity by layer and module"


def test_sets_of_seed_samples_are_a_stability_curve(place, open_app):
    first, _ = saved_pair(place, {"sensitivity.samples": 8}, samples=8)
    app = open_app("sensitivity", first.id)
    assert "Stability" in charts(app)
    curve = figure(app, charts(app).index("Stability"))
    assert curve["layout"]["xaxis"]["ticktext"] == ["8", "32"]


def test_progress_says_what_is_left_and_what_was_predicted(place, open_app):
    run = fabricate.run(place, "running", ONLY)
    plan = {"way": "resident", "device": "cpu", "needs": {"resident": {"seconds": 45.0, "memory": 9e8, "disk": 0}}}
    event = {"event": "plan", "time": time.time() - 4000, "plan": plan}
    run.file("events.jsonl").write_text(json.dumps(event) + "\n")
    app = open_app("sensitivity", run.id)
    said = captions(app).replace("*", "")
    assert "About 1 h 23 m left" in said  # 20 of 45 samples took 4000 s
    assert "predicted: 45 s, 900 MB of memory; resident on cpu" in said


def test_the_whole_s_can_be_zoomed_and_the_block_is_drawn(place, open_app):
    """Keeps S whole: a region is read by the desk, and the number inputs choose it."""
    folder = fabricate.store(place)
    fabricate.whole(folder)
    fabricate.run(place, "done", ONLY)
    app = open_app("sensitivity")
    select(app, "Module").set_value("model.layers.2.mlp.down_proj").run()
    answer_desk(place, app)
    assert "Frame: what" in captions(app)
    assert len(figure(app, 1)["layout"]["shapes"]) == 1
    for label, value in (("First row", 150), ("Last row", 20), ("First column", 300), ("Last column", 399)):
        next(n for n in app.number_input if n.label == label).set_value(value)
    button(app, "Zoom").click().run()
    answer_desk(place, app)
    assert "rows 20–150, columns 300–399 of 192 x 512" in figure(app, 1)["layout"]["title"]["subtitle"]["text"]
    button(app, "Back to the whole").click().run()
    assert "rows" not in figure(app, 1)["layout"]["title"]["subtitle"]["text"]


def test_what_it_will_take_is_said_before_it_is_started(place, open_app):
    app = open_app("sensitivity")
    button(app, "What will it take?").click().run()
    answer_desk(place, app)
    assert re.search(r"About [\d.]+ (s|m)\b.* of memory for 32 seed samples", captions(app))
    button(app, "Hide the estimate").click().run()
    assert "seed samples," not in captions(app)
