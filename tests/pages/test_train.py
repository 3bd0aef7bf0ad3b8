"""Train: settings write the draft, runs are submitted in order, and every state is drawn."""

import json
import threading
import time
from types import SimpleNamespace

import pytest

from paraknow_core.engines import Standing, queue
from paraknow_core.engines.base import SHARED
from paraknow_core.engines.queue import QueueEngine
from paraknow_core.engines.slurm import SlurmEngine
from paraknow_core.engines.workers import WORKER
from paraknow_core.errors import RunError
from paraknow_core.files.json_file import write_json
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.lifecycle import CUT_OFF, ask_to_stop, claim, end, hold, lose
from paraknow_core.runs.processes import this_process
from paraknow_core.settings import load_settings
from paraknow_core.spec import RunSpec
from paraknow_core.training.checkpoints import COMPLETE
from paraknow_core.workbench import errands
from paraknow_core.workbench.access import DEMO_VARIABLE
from paraknow_core.workbench.draft import Draft, load_draft, save_draft
from paraknow_core.workbench.reading import facts, other_settings
from tests.pages import fabricate
from tests.pages.conftest import answer_desk, button, select, words


def number(app, label: str):
    return next(n for n in app.number_input if n.label == label)


def group(app, label: str):
    return next(g for g in app.get("button_group") if g.label == label)


def test_empty_says_what_will_appear(open_app):
    app = open_app("train")
    assert app.title[0].value == "Train"
    assert "loss, log and scores will appear here" in app.info[0].value


def test_settings_survive_a_page_switch_and_reach_the_run(place, open_app, submitted):
    app = open_app("train")
    number(app, "Rank r").set_value(4).run()
    select(app, "Structure").set_value("row_column").run()
    group(app, "Origin by group").set_value(["ffn"]).run()
    app.switch_page("pages/start.py").run()
    app.switch_page("pages/train.py").run()
    assert (number(app, "Rank r").value, select(app, "Structure").value) == (4, "row_column")
    assert "3 changes" in words(app)
    button(app, "Start transfer").click().run()
    spec = RunFolder(place.runs / submitted[0][0]).spec()
    assert (spec.factorisation.rank, spec.extraction.structure, spec.extraction.origin) == (4, "row_column", ("ffn",))


def test_the_origin_is_chosen_as_on_mapping_and_never_all_beside_a_part_of_it(place, open_app):
    app = open_app("train")
    assert group(app, "Origin by group").value == ["attention", "ffn", "embedding"]
    group(app, "Origin by group").set_value(["attention", "ffn"]).run()
    assert app.session_state["draft"].spec.extraction.origin == ("attention", "ffn")
    answer_desk(place, app)  # the student has no head of its own: it is no choice any more
    roles = ["q", "k", "v", "o", "gate", "up", "down", "embed"]
    assert [option.content for option in group(app, "Origin by role").proto.options] == roles
    group(app, "Origin by role").set_value(roles).run()
    assert app.session_state["draft"].spec.extraction.origin == ("all",)
    group(app, "Origin by role").set_value([]).run()
    assert "choose at least one role" in words(app)
    assert app.session_state["draft"].spec.extraction.origin == ("all",)


def test_controls_are_submitted_after_the_method_in_one_go(place, open_app, submitted):
    app = open_app("train")
    assert next(c for c in app.checkbox if c.label == "default LoRA").value  # a method alone says little
    next(c for c in app.checkbox if c.label == "random offset").check().run()
    app.switch_page("pages/sensitivity.py").run()
    app.switch_page("pages/train.py").run()
    button(app, "Start transfer").click().run()
    assert not app.exception
    [ids] = submitted
    methods = [RunFolder(place.runs / run_id).spec().method for run_id in ids]
    assert methods == ["seeking", "default_lora", "random_offset"]
    assert app.query_params["run"] in (ids[0], [ids[0]])


def test_controls_that_are_ticked_before_the_page_is_drawn_again_all_count(place, open_app):
    app = open_app("train")
    for arm in ("pissa", "olora"):
        app.checkbox(key=f"train.arm.{arm}").check()
    app.run()
    assert load_draft(place).arms == ("default_lora", "pissa", "olora")


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


def test_start_runs_nothing_that_another_window_has_set_unseen(open_app, submitted, place):
    one, other = open_app("train"), open_app("train")
    number(one, "Rank r").set_value(4).run()
    button(other, "Start transfer").click().run()
    assert "changed in another window" in words(other)
    assert (submitted, number(other, "Rank r").value) == ([], 4)
    button(other, "Start transfer").click().run()
    assert RunFolder(place.runs / submitted[0][0]).spec().factorisation.rank == 4
    assert "changed in another window" not in words(other)


def test_a_change_of_the_same_click_is_no_other_windows(open_app, submitted, place):
    app = open_app("train")
    number(app, "Rank r").set_value(4)
    button(app, "Start transfer").click().run()
    assert RunFolder(place.runs / submitted[0][0]).spec().factorisation.rank == 4
    next(c for c in app.checkbox if c.label == "PiSSA").check().run()
    button(app, "Start transfer").click().run()
    assert len(submitted[1]) == 3


def test_more_seed_samples_than_the_task_has_are_refused_before_anything_is_queued(place, open_app, submitted):
    app = open_app("train")
    many = {"sensitivity.samples": 100_000}
    number(app, "Seed samples").set_value(100_000).run()
    answer_desk(place, app)
    assert "100000 seed samples asked for, but the train split of task word_problems has" in words(app)
    assert button(app, "Start transfer").disabled
    select(app, "Method").set_value("default_lora").run()  # measures nothing
    assert not button(app, "Start transfer").disabled
    next(c for c in app.checkbox if c.label == "random offset").check().run()
    answer_desk(place, app)
    assert button(app, "Start transfer").disabled
    app = open_app("train", fabricate.run(place, "failed", many).id)
    button(app, "Resume").click().run()
    assert "100000 seed samples asked for" in words(app)
    assert not submitted


def test_examples_that_a_run_would_refuse_keep_start_closed_until_they_are_left_out(
    place, open_app, submitted, tmp_path
):
    pairs = [(f"say {i}", "yes") for i in range(40)] + [("long " * 600, "no")]
    lines = [
        json.dumps({"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]})
        for q, a in pairs
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    given = {"task.source": str(tmp_path / "data.jsonl"), "sensitivity.samples": 4}
    save_draft(place, load_draft(place).with_spec(load_draft(place).spec.with_changes(given)))
    app = open_app("train")
    answer_desk(place, app)
    app.run()
    assert "task.too_long: leave_out does without" in words(app)
    assert button(app, "Start transfer").disabled
    spec = load_draft(place).spec.with_changes({"task.too_long": "leave_out"})
    save_draft(place, load_draft(place).with_spec(spec))
    app = open_app("train")
    answer_desk(place, app)
    app.run()
    assert not button(app, "Start transfer").disabled


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
    assert button(app, "Stop and save").disabled
    assert "it saves at the next step" in words(app)
    lost = fabricate.run(place, "lost")
    app = open_app("train", lost.id)
    button(app, "Resume").click().run()
    assert submitted == [[lost.id]]


def test_a_run_that_was_cut_off_says_what_it_has_saved(place, open_app):
    run = fabricate.run(place, "lost")
    checkpoint = run.file("checkpoints") / "checkpoint-20"
    checkpoint.mkdir(parents=True)  # torn: its mark is missing
    assert "no step was saved, so resume starts again from the first one" in words(open_app("train", run.id))
    (checkpoint / COMPLETE).touch()
    assert "resume continues from its last save, step 20" in words(open_app("train", run.id))
    end(run, "stopped", CUT_OFF)
    assert "Ended before it could save; resume continues from its last save" in words(open_app("train", run.id))


def test_an_engine_that_refuses_is_a_sentence(place, open_app, monkeypatch):
    def refuse(*_, **__):
        raise RunError("run x: is already running; watch it, or stop it first")

    monkeypatch.setattr(QueueEngine, "submit", refuse)
    app = open_app("train")
    button(app, "Start transfer").click().run()
    assert not app.exception
    assert "is already running" in words(app)


def test_a_done_run_shows_scores_beside_student_and_siblings(place, open_app):
    fabricate.run(place, "done", {"method": "default_lora"}, value=0.377)
    fabricate.run(place, "done", {"method": "pissa", "task.source": "bundled:instructions"})
    run = fabricate.run(place, "done")
    app = open_app("train", run.id)
    assert bars(app) == ["student, untouched", "teacher, untouched", "seeking (the method) (this run)", "default LoRA"]
    chart = json.loads(app.get("plotly_chart")[0].proto.spec)
    shown = [row[1] for row in chart["data"][0]["customdata"]]
    assert shown[2:] == ["41.0 ± 5.6 % (n = 300)", "37.7 ± 5.5 % (n = 300)"]
    values = {m.label: m.value for m in app.metric}
    assert values["Step-0 identity"] == "3.1 × 10⁻⁶"
    assert (values["Export check"], values["Trainable parameters"], values["Time"]) == ("passed", "119 k", "1 m 33 s")


@pytest.mark.parametrize(
    ("check", "shown"),
    [
        ({"max_abs": 2e-6, "tolerance": 1e-5, "passed": True}, "passed"),  # of a run that did not check merging
        ({"max_abs": 2e-6, "tolerance": 1e-5, "passed": True, "merged_max_abs": 3e-6, "merges": True}, "passed"),
        ({"max_abs": 2e-6, "tolerance": 1e-5, "passed": True, "merged_max_abs": 1.3, "merges": False}, "not merged"),
        ({"max_abs": 1.0, "tolerance": 1e-5, "passed": False, "merged_max_abs": 1.3, "merges": False}, "not passed"),
        ({}, "–"),
    ],
)
def test_the_export_check_says_whether_merging_is_right_too(place, open_app, check, shown):
    run = fabricate.run(place, "done")
    run.file("result.json").write_text(json.dumps({**run.result(), "export_check": check}))
    [metric] = [m for m in open_app("train", run.id).metric if m.label == "Export check"]
    assert metric.value == shown
    assert ("merged, 1.3" in metric.help) == (check.get("merged_max_abs") == 1.3)


def test_a_difference_is_paired_and_said_in_words(place, open_app):
    fabricate.run(place, "done", {"method": "default_lora"}, value=0.377)
    run = fabricate.run(place, "done")
    text = words(open_app("train", run.id))
    # Made so that every example the control gets right is right in the run too: 123 - 113 of 300 are gained.
    assert "seeking (the method) against default LoRA" in text
    assert "+3.3" in text
    assert "Not a clean comparison" not in text


def bars(app) -> list[str]:
    names = json.loads(app.get("plotly_chart")[0].proto.spec)["layout"]["yaxis"]["ticktext"]
    return [name.replace("<br>", " ") for name in names]  # where a long one is broken


@pytest.mark.parametrize(
    ("unlike", "why"),
    [
        ({"finetuning.learning_rate": 1e-3}, "finetuning.learning_rate also differs"),
        ({"factorisation.rank": 8, "task.sizes.test": 40}, "factorisation.rank, task.sizes.test also differ"),
        ({"extraction.origin": ["ffn"]}, "extraction.origin also differs"),
    ],
)
def test_unlike_runs_are_no_bars_beside_each_other_and_are_counted(place, open_app, unlike, why):
    fabricate.run(place, "done", {"method": "default_lora", **unlike})
    fabricate.run(place, "done", {"seed": 3, **unlike})
    run = fabricate.run(place, "done")
    app = open_app("train", run.id)
    assert bars(app)[2:] == ["seeking (the method) (this run)"]
    assert "2 more finished runs are left out, because more than method and seed differs" in words(app)
    assert f"Not a clean comparison with default LoRA: {why}" in words(app)
    assert "seeking (the method) against" not in words(app)
    clean = fabricate.run(place, "done", {"method": "default_lora", "extraction.structure": "random"})
    clean.path.rename(place.runs / "20000101-000000-older")
    app = open_app("train", run.id)
    assert bars(app)[2:] == ["seeking (the method) (this run)", "default LoRA"]
    assert "Not a clean comparison" not in words(app)
    assert "2 more finished runs are left out" in words(app)


def test_runs_on_other_content_under_the_same_name_are_no_bars_beside_each_other(place, open_app):
    runs = [fabricate.run(place, "done", {"method": method}) for method in ("default_lora", "seeking")]
    for run, test in zip(runs, "ab", strict=True):
        run.file("result.json").write_text(json.dumps(run.result() | {"fingerprints": {"test": test, "student": "s"}}))
    app = open_app("train", runs[1].id)
    assert bars(app)[2:] == ["seeking (the method) (this run)"]
    assert "1 more finished run is left out" in words(app)
    assert "the content of test also differs" in words(app)


def test_a_control_of_another_seed_says_so_and_one_of_the_same_seed_is_preferred(place, open_app):
    fabricate.run(place, "done", {"method": "default_lora", "seed": 5})
    run = fabricate.run(place, "done")
    app = open_app("train", run.id)
    assert bars(app)[3] == "default LoRA, seed 5"
    assert "Not a clean comparison with default LoRA: its seed is 5" in words(app)
    same = fabricate.run(place, "done", {"method": "default_lora"})
    same.path.rename(place.runs / "20000101-000000-older")
    assert bars(open_app("train", run.id))[3] == "default LoRA"


def test_one_button_runs_the_seeds_that_are_missing(place, open_app, submitted):
    control = fabricate.run(place, "done", {"method": "default_lora", "seed": 1})
    fabricate.run(place, "done", {"method": "default_lora"})
    run = fabricate.run(place, "done")
    app = open_app("train", run.id)
    assert "repeat with at least three" in words(app)
    button(app, "Run seeds 1 and 2").click().run()
    specs = [RunFolder(place.runs / name).spec() for name in submitted[0]]
    assert [(s.method, s.seed) for s in specs] == [("seeking", 1), ("seeking", 2), ("default_lora", 2)]
    assert all(s.with_changes({"seed": 0, "method": "seeking"}) == run.spec() for s in specs)
    assert "Run seeds 1 and 2" in [b.label for b in app.button]  # what nobody put into the queue does not count
    for name in submitted[0]:
        write_json(place.runs / name / "process.json", {**this_process(), "attempt": 0})
    app = open_app("train", control.id)
    assert "3 seeds of each are there or in the queue" in words(app)


def test_what_is_there_already_is_not_run_again_unless_asked(place, open_app, submitted):
    fabricate.run(place, "done", {"method": "default_lora"})
    fabricate.run(place, "done", {"extraction.structure": "neuron", "name": "mine"})
    app = open_app("train")
    select(app, "Structure").set_value("row_column").run()  # default LoRA does not read it
    next(c for c in app.checkbox if c.label == "random offset").check().run()
    text = words(app).replace("*", "")
    assert "2 of 3 runs to start: 3 arms, seed 0. Already run: default LoRA, seed 0." in text
    button(app, "Start transfer").click().run()
    assert [RunFolder(place.runs / name).spec().method for name in submitted[0]] == ["seeking", "random_offset"]
    number(app, "Number of seeds").set_value(2).run()
    next(c for c in app.checkbox if c.label == "Run it again").check().run()
    assert "6 runs: 3 arms, 2 seeds (0 to 1)" in words(app).replace("*", "")
    button(app, "Start transfer").click().run()
    assert len(submitted[1]) == 6


def test_nothing_is_started_twice(place, open_app, submitted):
    for method in ("seeking", "default_lora"):
        fabricate.run(place, "running", {"method": method})
    app = open_app("train")
    text = words(app).replace("*", "")
    assert "Nothing to start. Already running: seeking and default LoRA, seed 0." in text
    assert button(app, "Start transfer").disabled
    next(c for c in app.checkbox if c.label == "Run them again").check().run()
    assert not button(app, "Start transfer").disabled
    assert not submitted


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


def test_a_waiting_run_says_how_many_are_before_it_and_can_be_taken_out(place, open_app):
    first, second = fabricate.run(place, "queued"), fabricate.run(place, "queued", {"seed": 1})
    QueueEngine(place).submit(first, second)
    app = open_app("train", second.id)
    text = words(app)
    assert "Waiting: 2nd in line. It begins by itself" in text
    assert "0 going on, 2 waiting" in text
    assert text.index("next") < text.rindex("2nd in line")
    button(app, "Take out of the queue").click().run()
    assert not app.exception
    assert second.status().state == "stopped"
    assert "Taken out of the queue before it began" in words(app)
    button(app, "Resume").click().run()
    assert queue.read(place).waiting == [first.id, second.id]


def test_a_waiting_run_says_when_its_turn_will_be(place, open_app):
    fabricate.run(place, "done", {"seed": 5})  # 93 s, of which a teacher that is measured takes none
    going = fabricate.run(place, "running")
    waiting = [fabricate.run(place, "queued", {"seed": seed}) for seed in (1, 2, 3)]
    QueueEngine(place).submit(*waiting)
    with queue.changing(place) as order:
        order.working = [going.id]
    (place.root / "settings.yaml").write_text("workers: 1\n")
    assert "Waiting: next, after the run going on, in about 10 s" in words(open_app("train", waiting[0].id))
    assert "Waiting: 3rd in line, after the run going on, in about 2 m 50 s" in words(open_app("train", waiting[2].id))
    (place.root / "settings.yaml").write_text("workers: 2\n")
    assert "Waiting: 3rd in line, after the run going on, in about 1 m 20 s" in words(open_app("train", waiting[2].id))


def test_the_place_in_line_is_the_same_beside_the_run_and_in_the_queue(place, open_app):
    going, *waiting = [fabricate.run(place, "running"), *(fabricate.run(place, "queued") for _ in range(2))]
    QueueEngine(place).submit(*waiting)
    with queue.changing(place) as order:
        order.working = [going.id]
    text = words(open_app("train", waiting[1].id))
    assert "Waiting: 2nd in line, after the run going on" in text
    assert text.count("2nd in line") == 2
    assert "Waiting: next, after the run going on" in words(open_app("train", waiting[0].id))


def test_a_page_stays_with_the_run_that_it_has_shown(place, open_app):
    run = fabricate.run(place, "running")
    fabricate.run(place, "queued")
    app = open_app("train")
    assert f"<code>{run.id}</code>" in words(app)
    end(run, "stopped", "")
    app.run()
    assert f"<code>{run.id}</code>" in words(app)
    fabricate.run(place, "running", {"seed": 1})
    app.run()
    assert f"<code>{run.id}</code>" in words(app)


def test_a_page_stays_with_an_ended_run_until_it_is_left(place, open_app):
    run = fabricate.run(place, "stopped")
    app = open_app("train")
    other = fabricate.run(place, "running")
    app.run()
    assert f"<code>{run.id}</code>" in words(app)
    app.switch_page("pages/start.py").run()
    app.switch_page("pages/train.py").run()
    assert f"<code>{other.id}</code>" in words(app)


def test_the_queue_is_reordered_by_its_buttons(place, open_app):
    runs = [fabricate.run(place, "queued", {"seed": seed}) for seed in range(12)]
    QueueEngine(place).submit(*runs)
    app = open_app("train")
    assert "and 4 more after them" in words(app)
    next(b for b in app.button if b.key == f"queue:up:{runs[2].id}").click().run()
    next(b for b in app.button if b.key == f"queue:cancel:{runs[0].id}").click().run()
    assert not app.exception
    assert queue.read(place).waiting[:3] == [runs[2].id, runs[1].id, runs[3].id]


def test_a_run_that_no_queue_knows_can_be_started(place, open_app, submitted):
    run = fabricate.run(place, "queued")
    app = open_app("train", run.id)
    assert "not in the queue" in words(app)
    button(app, "Start").click().run()
    assert submitted == [[run.id]]


def test_a_run_that_no_queue_knows_counts_as_never_started(place, open_app):
    fabricate.run(place, "done")
    fabricate.run(place, "queued", {"method": "pissa"})
    text = words(open_app("train"))
    assert "no run active" in text
    assert "will be added when done" not in words(open_app("train", fabricate.run(place, "done").id))


def test_runs_that_cannot_be_put_into_the_queue_leave_nothing_behind(place, open_app, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(QueueEngine, "submit", full)
    app = open_app("train")
    button(app, "Start transfer").click().run()
    assert "No space left on device" in words(app)
    assert not list(place.runs.iterdir())


def test_a_stopping_run_can_be_ended(place, open_app):
    run = fabricate.run(place, "stopping")
    button(open_app("train", run.id), "End now").click().run()
    assert list(queue.read(place).ending) == [run.id]


def test_a_stopping_run_whose_process_computes_others_is_said_to_be_only_asked(place, open_app):
    run = fabricate.run(place, "stopping")
    assert "End now does not wait" in words(open_app("train", run.id))
    pack = "until it was clicked for all that go on there"
    for marks in ({SHARED: True}, {SHARED: True, WORKER: True}):
        claim(run, {**this_process(), **marks}, 0)
        text = words(open_app("train", run.id))
        assert "End now only asks, too" in text
        assert (pack in text) == (WORKER in marks)
        assert "does not wait" not in text


def test_seeds_and_arms_are_planned_and_said_before_they_start(place, open_app, submitted):
    app = open_app("train")
    assert "2 runs: 2 arms, seed 0" in words(app).replace("*", "")
    next(c for c in app.checkbox if c.label == "default LoRA").uncheck().run()
    assert "1 run, seed 0" in words(app).replace("*", "")
    number(app, "Number of seeds").set_value(3).run()
    next(c for c in app.checkbox if c.label == "PiSSA").check().run()
    text = words(app).replace("*", "")
    assert "6 runs: 2 arms, 3 seeds (0 to 2)" in text
    assert "The time is a guess by the models' sizes: no run of this pair and task has finished" in text
    button(app, "Start transfer").click().run()
    specs = [RunFolder(place.runs / name).spec() for name in submitted[0]]
    assert [(s.method, s.seed) for s in specs] == [(m, s) for s in range(3) for m in ("seeking", "pissa")]


def test_an_estimate_comes_from_earlier_runs_and_is_compared_with_what_was_measured(place, open_app):
    fabricate.run(place, "done")
    text = words(open_app("train"))
    assert "judging by 1 earlier run of this pair and task" in text
    later = fabricate.run(place, "done")
    status = json.loads(later.file("status.json").read_text())
    later.file("status.json").write_text(json.dumps({**status, "started": status["ended"] + 3600}))
    assert "Estimated before it began, from 2 earlier runs" in words(open_app("train", later.id))


def test_back_to_the_papers_recipe_changes_the_recipe_alone(open_app):
    app = open_app("train")
    assert button(app, "Back to the paper's recipe").disabled
    number(app, "Learning rate").set_value(0.01).run()
    number(app, "At most steps").set_value(50).run()
    number(app, "Test examples").set_value(40).run()
    assert app.session_state["draft"].spec.finetuning.max_steps == 50
    button(app, "Back to the paper's recipe").click().run()
    spec = app.session_state["draft"].spec
    assert spec == RunSpec().with_changes({"task.sizes.test": 40})
    assert number(app, "At most steps").value == 0


def test_a_run_is_duplicated_into_the_draft(place, open_app):
    run = fabricate.run(place, "failed", {"factorisation.rank": 3, "name": "mine"})
    app = open_app("train", run.id)
    button(app, "Duplicate and tweak").click().run()
    assert not app.exception
    assert app.session_state["draft"].spec == run.spec()
    assert number(app, "Rank r").value == 3


def test_a_run_is_deleted_for_good_but_not_in_a_classroom(place, open_app, monkeypatch):
    run, other = fabricate.run(place, "lost"), fabricate.run(place, "stopped")
    app = open_app("train", run.id)
    button(app, "Delete for good").click().run()
    assert not app.exception
    assert not run.path.exists()
    assert f"<code>{other.id}</code>" in words(app)
    monkeypatch.setenv("PARAKNOW_DEMO", "1")
    app = open_app("train", other.id)
    assert "Delete for good" not in [b.label for b in app.button]
    assert number(app, "Number of seeds").max == 3


def test_what_only_a_method_with_a_teacher_reads_makes_no_comparison_unclean(place, open_app):
    teacher_only = {"injection.mode": "difference", "mapping.strategy": "top"}
    control = fabricate.run(place, "done", {"method": "default_lora", **teacher_only})
    run = fabricate.run(place, "done")
    assert "Not a clean comparison" not in words(open_app("train", run.id))
    assert other_settings(facts(run), facts(control)) == []
    reseeded = fabricate.run(place, "done", {"method": "default_lora", "seed": 7})
    assert other_settings(facts(run), facts(reseeded)) == ["seed"]
    difference = fabricate.run(place, "done", {"method": "random_offset", **teacher_only})
    assert other_settings(facts(run), facts(difference)) == ["injection.mode", "mapping.strategy"]


def test_siblings_are_drawn_beside_a_run_clean_ones_first(place, open_app):
    clean = fabricate.run(place, "done", {"method": "default_lora"})
    unclean = fabricate.run(place, "done", {"method": "pissa", "finetuning.learning_rate": 1e-3})
    fabricate.run(place, "failed", {"method": "olora"}).file("events.jsonl").write_text('{"event": "started"}\n')
    fabricate.run(place, "done", {"task.source": "bundled:instructions"})
    run = fabricate.run(place, "running")
    app = open_app("train", run.id)
    pills = next(p for p in app.get("button_group") if p.label == "Beside it")
    assert [option.content for option in pills.proto.options] == [
        "default LoRA, lr 0.0003, seed 0",
        "PiSSA, lr 0.001, seed 0 *",
    ]
    assert "more than method and seed" in pills.proto.help
    chart = json.loads(app.get("plotly_chart")[0].proto.spec)
    assert "default LoRA, lr 0.0003, seed 0, training" in [trace["name"] for trace in chart["data"]]
    assert app.session_state[f"train.beside:{run.id}"] == [clean.id]
    assert unclean.id not in app.session_state[f"train.beside:{run.id}"]
    assert "Left of fine-tuning" in words(app)


def test_hostile_names_and_rubbish_in_the_folder_are_drawn(place, open_app):
    run = fabricate.run(place, "running", {"name": "<b>x</b> [a](b) $c$ | " + "w" * 90})
    run.file("events.jsonl").write_bytes(
        b'\xff\xfe\n{"event": "metrics", "step": 1e400}\n{"event": "metrics", "step": 2}\n'
    )
    run.file("log.txt").write_bytes(b"\x00\xff" * 100)
    app = open_app("train", run.id)
    assert "&lt;b&gt;x" in words(app)
    assert "<b>x" not in words(app)


def test_a_long_list_of_runs_offers_the_newest_and_the_one_that_is_shown(place, open_app, monkeypatch):
    runs = [fabricate.run(place, "done", {"seed": seed}) for seed in range(4)]
    for seed, run in enumerate(runs):
        run.path.rename(place.runs / f"2026010{seed + 1}-000000-run-{seed}")
    monkeypatch.setattr("paraknow_core.workbench.reading.MOST_LISTED", 2)
    app = open_app("train", run="20260101-000000-run-0")
    assert len(select(app, "Run").options) == 3
    assert select(app, "Run").value == "20260101-000000-run-0"
    assert "The newest 2 of 4" in words(app)


def test_a_person_chooses_where_runs_are_executed_and_is_told_before_the_start(place, open_app):
    app = open_app("train")
    assert "2 runs" in words(app) and "Executed by: Chosen for you" in popovers(app)
    select(app, "Engine").set_value("slurm").run()
    next(t for t in app.text_input if t.label == "Time limit").set_value("soon")
    button(app, "Save settings").click().run()
    assert "settings: 'slurm.time': 'soon' given" in words(app) and not place.settings_file.exists()
    next(t for t in app.text_input if t.label == "Time limit").set_value("2:00:00")
    next(t for t in app.text_input if t.label == "Partition").set_value("long")
    button(app, "Save settings").click().run()
    assert load_settings(place).slurm.partition == "long"
    assert "2 runs by SLURM, partition long" in words(app) and "Executed by: SLURM" in popovers(app)


def popovers(app) -> str:
    return " ".join(one.proto.popover.label for one in app.get("popover")).replace("\\", "")


def test_only_people_at_this_machine_choose_where_runs_are_executed(open_app, monkeypatch):
    monkeypatch.setenv(DEMO_VARIABLE, "1")
    app = open_app("train")
    assert "Only whoever started the workbench can change it" in words(app)
    assert not [box for box in app.selectbox if box.label == "Engine"]


def test_a_run_at_a_cluster_says_what_it_waits_for_and_why_it_was_lost(place, open_app, monkeypatch):
    run, other = fabricate.run(place, "queued"), fabricate.run(place, "queued", {"seed": 1})
    for number, one in enumerate((run, other)):
        hold(one, "slurm", job=str(number))
    monkeypatch.setattr(
        SlurmEngine,
        "standing",
        lambda engine, run: Standing("waiting", message="not known at the moment: the login is refused; log in anew"),
    )
    text = words(open_app("train", run.id))
    assert "Waiting at SLURM: not known at the moment: the login is refused; log in anew." in text
    assert "0 going on, 2 waiting" in text and text.count("log in anew") == 3
    lose(run, "SLURM job 0 on node1 lost its node (NODE_FAIL); resume continues from its last save, step 8", job="0")
    app = open_app("train", run.id)
    assert "lost its node (NODE_FAIL); resume continues from its last save" in words(app)
    assert "It was killed" not in words(app) and button(app, "Resume")
    lose(other, "SLURM job 1 ran out of memory (OUT_OF_MEMORY); raise settings.slurm.memory", wanted=True, job="1")
    assert "ran out of memory (OUT_OF_MEMORY); raise settings.slurm.memory" in words(open_app("train", other.id))


def test_a_cluster_that_does_not_answer_keeps_no_click_waiting(place, open_app, monkeypatch):
    answer, run = threading.Event(), fabricate.run(place, "queued")
    hold(run, "slurm", job="7")

    def stop(engine, run, grace_s=None):
        ask_to_stop(run)
        answer.wait(60)
        raise RunError("engine slurm: the login is refused; log in to the cluster anew")

    monkeypatch.setattr(SlurmEngine, "standing", lambda engine, run: Standing("waiting"))
    monkeypatch.setattr(SlurmEngine, "stop", stop)
    monkeypatch.setattr("paraknow_core.workbench.errands.PATIENCE_S", 0.1)
    app = open_app("train", run.id)
    button(app, "Stop and save").click().run()
    assert "SLURM is being asked to stop it." in words(app) and button(app, "Stop and save").disabled
    assert run.file("stop").exists()
    answer.set()
    while errands.is_going(run):
        time.sleep(0.01)
    app.run()
    assert "Engine slurm: the login is refused; log in to the cluster anew." in words(app)
    assert not button(app, "Stop and save").disabled


def test_a_run_that_was_to_stop_and_is_silent_at_a_cluster_can_be_ended(place, open_app, monkeypatch):
    run, ended = fabricate.run(place, "lost"), []
    run.file("stop").touch()
    hold(run, "slurm", job="7", asked=True)
    monkeypatch.setattr(
        SlurmEngine, "standing", lambda engine, run: Standing("working", message="SLURM job 7 is running")
    )
    monkeypatch.setattr(SlurmEngine, "stop", lambda engine, run, grace_s=None: ended.append(grace_s))
    app = open_app("train", run.id)
    assert "nothing is heard of it, but SLURM job 7 is running" in words(app) and CUT_OFF not in words(app).lower()
    button(app, "End now").click().run()
    assert ended == [0]
    lose(run, CUT_OFF, wanted=True, job="7")
    app = open_app("train", run.id)
    assert CUT_OFF in words(app).lower() and not [one for one in app.button if one.label == "End now"]


def test_a_full_disk_is_said_before_and_beside_a_run(place, open_app, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(total=1e9, used=1e9, free=2e6))
    assert "free some space" in words(open_app("train"))
    run = fabricate.run(place, "failed")
    assert words(open_app("train", run.id)).count("so runs cannot save: free some space") == 2
