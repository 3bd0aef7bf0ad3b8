"""Lessons: the list, a prediction before any result, runs found again, every state, presets by address."""

import json

import pytest

from paraknow_core.engines import queue
from paraknow_core.engines.queue import QueueEngine
from paraknow_core.files.json_file import write_json
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.lifecycle import create_run
from paraknow_core.studies import same
from paraknow_core.studies.lessons import LESSONS, PRESETS
from paraknow_core.workbench.study_draft import load_study_draft
from tests.pages import fabricate
from tests.pages.conftest import button, words
from tests.studies.lessons.outcomes import finish


def open_lesson(open_app, number: object):
    app = open_app()
    app.query_params["lesson"] = str(number)
    app.switch_page("pages/lessons.py").run()
    assert not app.exception, app.exception
    return app


def predict(app, key: str):
    app.radio[0].set_value(key).run()
    button(app, "This is my prediction").click().run()
    assert not app.exception, app.exception
    return app


def test_the_list_names_every_lesson_with_its_cost(open_app):
    text = words(open_app("lessons"))
    for one in LESSONS:
        assert one.title in text
        assert one.question in text
    assert "12 runs, about" in text


@pytest.mark.parametrize("number", ["99", "0", "x" * 5000, "<b>", "2; drop", "１"])
def test_a_number_that_is_none_is_said_and_the_list_is_shown(open_app, number):
    text = words(open_lesson(open_app, number))
    assert "there is none of this number" in text
    assert LESSONS[0].question in text


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda one: str(one.number))
def test_nothing_is_shown_before_a_prediction_and_everything_after_it(place, open_app, lesson):
    finish(place, lesson)
    app = open_lesson(open_app, lesson.number)
    assert not app.get("plotly_chart")
    assert button(app, "This is my prediction").disabled
    predict(app, next(iter(lesson.options)))
    assert app.get("plotly_chart")
    assert app.success or app.warning or app.info
    bars = json.loads(app.get("plotly_chart")[0].proto.spec)
    assert bars["data"][-2]["error_x"]["array"]
    assert "Start over" in [b.label for b in app.button]
    app.switch_page("pages/start.py").run()
    app = app.switch_page("pages/lessons.py")
    app.query_params["lesson"] = str(lesson.number)
    app.run()
    assert app.get("plotly_chart")  # the prediction is kept


def test_run_submits_only_what_is_missing_and_uses_runs_of_other_names(place, open_app, submitted):
    lesson = LESSONS[1]
    label, spec = next(iter(lesson.specs.items()))
    fabricate_done(place, spec.model_copy(update={"name": "made by somebody"}))
    app = predict(open_lesson(open_app, 2), "random")
    assert "4 runs, about" in words(app)
    button(app, "Run the experiment").click().run()
    assert not app.exception
    [ids] = submitted
    assert [RunFolder(place.runs / run_id).spec() for run_id in ids] == [
        one for other, one in lesson.specs.items() if other != label
    ]


def test_a_run_that_computes_the_same_is_used_again_whatever_it_did_not_read(place, open_app, submitted):
    lesson = LESSONS[1]
    control = lesson.specs["default LoRA"].with_changes({"extraction.structure": "random", "mapping.strategy": "top"})
    fabricate_done(place, control)
    assert "4 runs, about" in words(predict(open_lesson(open_app, 2), "random"))
    for one in LESSONS:
        assert len({same.computes(spec) for spec in one.specs.values()}) == len(one.specs)


def test_a_lesson_goes_before_what_waits_and_says_how_long_it_waits(place, open_app):
    write_json(place.settings_file, {"workers": 1})
    going = fabricate.run(place, "running", {"method": "pissa"})
    waiting = [fabricate.run(place, "queued", {"seed": seed}) for seed in range(13)]
    QueueEngine(place).submit(*waiting)
    with queue.changing(place) as order:
        order.working = [going.id]
    assert "The queue is busy. A lesson's turn would be next, after the run going on" in words(open_app("lessons"))
    app = predict(open_lesson(open_app, 4), "4")
    text = words(app)
    assert "Its turn would be next, after the run going on; it goes before 13 runs that wait." in text
    assert "No estimate" in text  # nothing like the run going on has finished here
    fabricate.run(place, "done")  # 93 s, and the one going on has taken 130
    app.run()
    assert "Its turn would be next, after the run going on, in about 10 s; it goes before 13 runs" in words(app)
    button(app, "Run the experiment").click().run()
    assert not app.exception
    order = queue.read(place)
    assert [queue.run_of(place, name).spec() for name in order.waiting[:12]] == list(LESSONS[3].specs.values())
    assert order.waiting[12:] == [run.id for run in waiting]
    assert "Waiting: next, after the run going on, in about 10 s. Lessons go before other runs that wait" in words(app)
    second = predict(open_lesson(open_app, 5), "teacher")
    assert "Its turn would be 13th in line, after the run going on, in about" in words(second)


def test_a_lesson_that_begins_at_once_says_nothing_of_a_queue(place, open_app):
    assert "turn would be" not in words(open_app("lessons"))
    assert "turn would be" not in words(predict(open_lesson(open_app, 4), "4"))


def fabricate_done(place, spec):
    run = create_run(place, spec)
    write_json(run.file("status.json"), {"state": "done"})
    write_json(
        run.file("result.json"),
        {"scores": [{"scorer": "number_match", "value": 0.3, "low": 0.2, "high": 0.4, "n": 10, "unit": "share"}]},
    )
    return run


@pytest.mark.parametrize("state", ["queued", "running"])
def test_while_runs_go_on_their_progress_is_shown(place, open_app, state):
    spec = (
        LESSONS[3].specs["1 sample, draw 1"]
        if "1 sample, draw 1" in LESSONS[3].specs
        else next(iter(LESSONS[3].specs.values()))
    )
    fabricate.run(place, state, {**_changes(spec)})
    if state == "queued":  # somebody has taken it
        [run] = [RunFolder(path) for path in place.runs.iterdir()]
        from paraknow_core.runs.processes import this_process

        write_json(run.file("process.json"), {**this_process(), "attempt": 0})
    app = predict(open_lesson(open_app, 4), "4")
    assert not [b for b in app.button if b.label == "Run the experiment"]
    assert "0 of 12 runs done" in "".join(p.proto.text for p in app.get("progress"))


def test_a_run_that_was_never_put_into_the_queue_does_not_keep_a_lesson_waiting(place, open_app):
    fabricate.run(place, "queued", _changes(next(iter(LESSONS[3].specs.values()))))
    app = predict(open_lesson(open_app, 4), "4")
    assert button(app, "Run the experiment")


def _changes(spec) -> dict:
    return {
        "until": spec.until,
        "sensitivity.samples": spec.sensitivity.samples,
        "name": spec.name,
        "sensitivity.selection": spec.sensitivity.selection,
        "sensitivity.seed": spec.sensitivity.seed,
    }


@pytest.mark.parametrize("state", ["failed", "lost", "stopped"])
def test_a_run_that_ended_badly_is_said_and_can_be_run_again(place, open_app, submitted, state):
    spec = next(iter(LESSONS[3].specs.values()))
    fabricate.run(place, state, _changes(spec))
    app = predict(open_lesson(open_app, 4), "4")
    assert f": {state}." in words(app)
    button(app, "Run the experiment").click().run()
    assert len(submitted[0]) == 12


def test_damaged_results_are_a_sentence(place, open_app):
    lesson = LESSONS[2]
    for run in finish(place, lesson).values():
        run.file("predictions.jsonl").unlink()
        write_json(run.file("result.json"), {"scores": [{"value": "x"}]})
    app = predict(open_lesson(open_app, 3), "kin")
    assert app.error


def test_the_prediction_is_judged_by_the_numbers(place, open_app):
    finish(place, LESSONS[2])
    assert "Only kin" in predict(open_lesson(open_app, 3), "kin").success[0].value
    text = words(predict(open_lesson(open_app, 3), "both"))
    assert "You predicted: Both. The numbers say: Only kin" in text


@pytest.mark.parametrize("number", [1, 2])
def test_a_lesson_goes_on_as_a_study_on_its_own_models_and_task(place, open_app, number):
    lesson = LESSONS[number - 1]
    finish(place, lesson)
    app = predict(open_lesson(open_app, number), next(iter(lesson.options)))
    next(b for b in app.button if b.label.startswith("As a study, with as many seeds")).click().run()
    assert not app.exception, app.exception
    taken = load_study_draft(place).study
    own = next(iter(lesson.specs.values()))
    assert (taken.preset, taken.base.student, taken.base.task.source) == (lesson.study, own.student, own.task.source)
    assert len(taken.seeds) >= 6 and taken.base.until == "evaluation"


def test_a_preset_replaces_an_untouched_draft_and_asks_before_one_that_is_not(place, open_app):
    app = open_app()
    app.query_params["preset"] = "origin-rate"
    app.switch_page("pages/train.py").run()
    assert not app.exception
    assert "5 changes" in words(app) or "changes" in words(app)
    from paraknow_core.workbench import draft as drafts

    kept = drafts.load_draft(place)
    assert kept.spec == PRESETS["origin-rate"].spec
    assert (kept.arms, kept.seeds) == (("default_lora", "pissa", "random_offset"), 3)
    mine = kept.with_spec(kept.spec.with_changes({"factorisation.rank": 3}))
    drafts.save_draft(place, mine)
    app = open_app()
    app.query_params["preset"] = "choice"
    app.run()
    assert drafts.load_draft(place).spec == mine.spec
    button(app, "Keep my draft").click().run()
    assert drafts.load_draft(place).spec == mine.spec
    app.query_params["preset"] = "choice"
    app.run()
    button(app, "Replace the draft").click().run()
    assert drafts.load_draft(place).spec == PRESETS["choice"].spec


@pytest.mark.parametrize("name", ["nope", "x" * 5000, "<b>", "../x"])
def test_an_unknown_preset_is_said_and_changes_nothing(place, open_app, name):
    app = open_app()
    app.query_params["preset"] = name
    app.run()
    assert not app.exception
    app.run()
    assert "draft</span> defaults" in words(app)


def test_every_preset_is_a_valid_draft_that_leads_to_a_page():
    from pathlib import Path

    root = Path(__file__).resolve().parents[2]
    for preset in PRESETS.values():
        assert preset.spec
        assert (root / preset.page).exists()
