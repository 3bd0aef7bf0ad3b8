"""Compare: what is chosen, what is said about it, and every state a run can be in."""

import json

import pytest

from paraknow_core.workbench.draft import load_draft
from tests.pages import compared, fabricate
from tests.pages.conftest import answer_desk, button, select, words

VIEWS = ("scores", "curves", "answers", "lens", "files")


@pytest.fixture
def compare(place, open_app):
    """Open Compare, optionally with parts of an address."""

    def opened(**query: str):
        app = open_app()
        app.switch_page("pages/compare.py")
        for name, value in query.items():
            app.query_params[name] = value
        app.run()
        assert not app.exception, app.exception
        return app

    return opened


def view(app, name):
    next(c for c in app.get("button_group") if c.key == "compare.view.widget").set_value(name).run()
    assert not app.exception, app.exception
    return words(app)


def in_link(app) -> list[str]:
    value = app.query_params["run"]
    return (value[0] if isinstance(value, list) else value).split(",")


def test_empty_says_what_will_appear_and_the_way_to_it(compare):
    app = compare()
    assert app.title[0].value == "Compare"
    assert "Runs will be compared here" in app.info[0].value
    assert [link.proto.label for link in app.get("page_link")] == ["Start a transfer on Train"]


def test_the_newest_question_is_compared_and_named_in_the_address(place, compare):
    old = compared.run(place, "pissa", finetuning__epochs=9)
    old.path.rename(place.runs / "20200101-000000-old")
    runs = compared.study(place, seeds=3)
    app = compare()
    assert sorted(in_link(app)) == sorted(run.id for same in runs.values() for run in same)
    text = words(app)
    assert "seeking (the method) against default LoRA: +" in text.replace("**", "")
    assert "No difference was found: " in text
    assert "2 comparisons were made" in text
    assert "n = 60 test examples are few" in text
    assert "student, untouched" in text


def test_a_link_shows_what_it_names_and_says_what_it_does_not(place, compare):
    runs = compared.study(place, seeds=1)
    pair = [runs["pissa"][0].id, runs["seeking"][0].id]
    app = compare(run=",".join([*pair, "no-such-run", "../../etc/passwd"]), base="nonsense", view="nonsense")
    assert sorted(in_link(app)) == sorted(pair)
    text = words(app)
    assert "'no-such-run': no run has this id" in text
    assert "etc/passwd" in text
    assert "against PiSSA" in text
    app.run()
    assert "'no-such-run'" in words(app)  # still there after the page was drawn again


@pytest.mark.parametrize("link", ["%00", "\x00", "," * 500, "a" * 5000, "é*`<b>"])
def test_a_wrong_link_is_no_traceback(place, compare, link):
    compared.study(place, seeds=1)
    app = compare(run=link)
    assert len(in_link(app)) == 3


def test_a_study_in_the_address_is_all_runs_of_its_name(place, compare):
    compared.study(place, seeds=1)
    compared.run(place, "olora", name="else")
    app = compare(study="study")
    text = words(app)
    assert "PiSSA" in text and "OLoRA" not in text
    app = compare(study="nothing like it")
    assert "no run has a name that begins with it" in words(app)
    assert "OLoRA" in words(app)


def test_runs_without_scores_are_listed_with_their_state_and_not_compared(place, compare):
    bad = fabricate.run(place, "done")
    bad.file("spec.yaml").write_text("rnak: 3")
    ids = [fabricate.run(place, state).id for state in ("running", "failed", "lost", "queued", "stopped")]
    app = compare(run=",".join([*ids, bad.id]))
    text = words(app)
    assert "no scores: " in text
    for word in ("1 running", "1 failed", "1 lost", "1 queued", "1 stopped", "1 unreadable"):
        assert word in text
    [table] = app.dataframe
    assert {"running 44 %", "failed", "lost", "queued", "stopped"} <= set(table.value["state"])


def test_nothing_finished_leads_to_train(place, compare):
    fabricate.run(place, "running")
    app = compare()
    assert "No run has scores yet" in words(app)
    assert [link.proto.label for link in app.get("page_link")] == ["Start or resume a transfer on Train"]


def test_choosing_none_and_the_suggestion_again(place, compare):
    compared.study(place, seeds=1)
    app = compare()
    button(app, "Choose none").click().run()
    assert "Tick runs in the table" in words(app)
    button(app, "Newest and its siblings").click().run()
    assert "against default LoRA" in words(app)


def test_the_table_shows_only_settings_that_differ_and_filters(place, compare):
    compared.study(place, seeds=1)
    compared.run(place, "seeking", factorisation__rank=4)
    app = compare()
    assert {"factorisation.rank", "arm", "score"} <= set(app.dataframe[0].value.columns)
    assert "finetuning.epochs" not in app.dataframe[0].value.columns
    select(app, "Method").set_value("PiSSA").run()
    assert list(app.dataframe[0].value["arm"]) == ["PiSSA"]
    assert "factorisation.rank" not in app.dataframe[0].value.columns
    assert "hidden by the filters" in words(app)
    next(t for t in app.text_input if t.label == "Find").set_value("no such text").run()
    assert "No run matches" in words(app)
    button(app, "Clear the filters").click().run()
    assert len(app.dataframe[0].value) == 4


def test_two_arms_of_one_method_and_another_base(place, compare):
    compared.run(place, "seeking", 0, 0.6, factorisation__rank=4)
    compared.run(place, "seeking", 0, 0.3)
    ids = [run.name for run in place.runs.iterdir()]
    app = compare(run=",".join(ids))
    assert "factorisation.rank also differs" in words(app)
    base = select(app, "Difference to")
    other = next(option for option in base.options if option != base.value and "rank 4" in option)
    base.select(other).run()
    assert "against seeking (the method), rank 4" in words(app)


def test_the_papers_values_are_shown_when_asked_and_marked_as_another_setting(place, compare):
    compared.study(place, seeds=1)
    app = compare()
    assert "LLaMA" not in words(app)
    next(c for c in app.get("button_group") if c.key == "compare.paper.widget").set_value("show").run()
    assert "Other models, data and scale" in words(app)


def test_a_score_that_is_no_average_is_said_not_to_be_paired(place, compare):
    runs = compared.study(place, seeds=1)
    for same in runs.values():
        result = same[0].result()
        result["scores"] = [{"scorer": "perplexity", "value": 9.1, "low": 8.0, "high": 10.0, "n": 60, "unit": "ppl"}]
        same[0].file("result.json").write_text(json.dumps(result))
    assert "not paired" in words(compare())


def test_runs_of_two_tasks_share_no_example(place, compare):
    one, other = compared.run(place, "seeking"), compared.run(place, "default_lora", task__source="bundled:mcq")
    text = other.file("predictions.jsonl").read_text().replace('"test/', '"mcq/')
    other.file("predictions.jsonl").write_text(text)
    app = compare(run=f"{one.id},{other.id}")
    assert "share no test example" in words(app)
    assert "task.source also differs" in words(app)
    assert "share no test example" in view(app, "answers")


def test_seeds_that_share_no_example_still_have_a_score(place, compare):
    runs = compared.study(place, seeds=2)
    file = runs["seeking"][0].file("predictions.jsonl")
    file.write_text(file.read_text().replace('"test/', '"other/'))
    app = compare()
    assert not app.exception
    assert "share no test example" in words(app)
    assert "seeking (the method)" in words(app)


def test_answers_are_sorted_into_gained_lost_and_same(place, compare):
    compared.study(place, seeds=1)
    app = compare(view="answers")
    text = words(app)
    kinds = next(c for c in app.get("button_group") if c.key == "compare.kind.widget")
    counts = {label.split(" (")[0]: int(label.split("(")[1].rstrip(")")) for label in kinds.options}
    assert counts["all"] == compared.N == counts["gained"] + counts["lost"] + counts["same"]
    assert text.count('class="pk-chip pk-gained"') == min(8, counts["gained"])
    assert "&lt;b&gt;apples&lt;/b&gt;" in text and "<b>apples" not in text
    kinds.set_value("all").run()
    button(app, "Next").click().run()
    assert "page 2 of 8" in words(app)
    next(t for t in app.text_input if t.key == "compare.find").set_value("Tom has 7 ").run()
    assert words(app).count('<article class="pk-answer">') == 1
    next(t for t in app.text_input if t.key == "compare.find").set_value("zebra").run()
    assert "No example is like this" in words(app)


def test_one_run_has_no_one_to_be_compared_with(place, compare):
    compared.run(place, "seeking")
    app = compare()
    assert any("Choose runs of a second arm" in info.value for info in app.info)
    assert "Choose at least two finished runs" in view(app, "answers")
    for name in ("curves", "files"):
        view(app, name)


def test_curves_of_runs_without_metrics_are_said_to_be_missing(place, compare):
    run = compared.run(place, "seeking")
    run.file("events.jsonl").unlink()
    assert "there are no curves" in words(compare(view="curves"))


def test_the_lens_waits_fails_in_words_and_offers_sensitivity(place, compare, monkeypatch):
    compared.study(place, seeds=1)
    app = compare(view="lens")
    assert "Reading the adapter of seeking (the method), seed 0" in words(app)
    answer_desk(place, app)
    assert "has no adapter/" in words(app)
    next(c for c in app.get("button_group") if c.key == "compare.lens.widget").set_value("sensitivity").run()
    assert "will appear here" in words(app)
    monkeypatch.setattr(
        "paraknow_core.workbench.desk.kinds.lens.sensitivity_change",
        lambda *_: {
            "samples": 4,
            "loss_before": 2.0,
            "loss_after": 1.0,
            "modules": [
                {"module": "layers.0.q", "role": "q", "layer": 0, "before": 1.0, "after": 3.0},
                {"module": "embed", "role": "embed", "layer": None, "before": 1.0, "after": 1.0},
            ],
        },
    )
    button(app, "Measure before and after").click().run()
    answer_desk(place, app)
    text = words(app)
    assert "2 before, 4 after" in text.replace(".00", "")
    assert "embed -1.00" in text  # half of all before, a quarter after


@pytest.mark.parametrize(("by", "maps"), [("layer", 0), ("module", 2)])
def test_edits_are_offered_drawn_and_said(place, compare, monkeypatch, by, maps):
    def effect(mean):
        return {"nats": {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}}

    asked = []

    def check(_place, _settings, question):
        asked.append(question)
        units = [
            {"name": f"layers.{n}.q", "layer": n, "role": "q", "sensitivity": 1.0 + n, "norm": 1.0}
            | {"twin": effect(0.3 * n), "without": effect(0.0)}
            for n in range(5)
        ]
        agreement = {"nats": {"rho": 1.0, "low": 0.4, "high": 1.0, "units": 5}}
        return {"by": by, "examples": 20, "scorer": "number_match", "units": units, "agreement": agreement}

    compared.study(place, seeds=1)
    monkeypatch.setattr("paraknow_core.workbench.desk.kinds.lens.causal_check", check)
    app = compare(view="lens")
    next(c for c in app.get("button_group") if c.key == "compare.lens.widget").set_value("causal").run()
    assert "will appear here" in words(app)
    next(c for c in app.get("button_group") if c.key == "compare.causal.by.widget").set_value(by).run()
    button(app, "Edit and test").click().run()
    answer_desk(place, app)
    assert (asked[0].by, asked[0].examples) == (by, 200)
    assert "+1.00 (95 % interval +0.40 to +1.00, 5 " in words(app)
    assert "what is more sensitive costs more" in words(app)
    assert len(app.get("plotly_chart")) == 1 + maps


def test_weights_are_drawn_and_said(place, compare, monkeypatch):
    compared.study(place, seeds=1)
    record = {
        "module": "layers.0.q",
        "role": "q",
        "layer": 0,
        "shape": [4, 4],
        "weight": 2.0,
        "change": 1.0,
        "trained": 1.0,
        "in_share": 0.5,
        "out_share": None,
        "in_chance": 0.25,
        "out_chance": 0.0,
        "in_cosine": 0.9,
        "out_cosine": None,
    }
    monkeypatch.setattr("paraknow_core.workbench.desk.kinds.lens.adapter_change", lambda *_: {"modules": [record]})
    app = compare(view="lens")
    answer_desk(place, app)
    assert "moved by 0.500 of their norm" in words(app)
    for show, sentence in (("inputs", "a random subspace of its size would hold 25.0 %"), ("outputs", "B₀ = 0")):
        next(c for c in app.get("button_group") if c.key == "compare.lens.widget").set_value(show).run()
        assert sentence in words(app)


def test_a_trained_run_offers_its_adapter_and_the_command_that_merges_it(place, compare, tmp_path, monkeypatch):
    def merging(app) -> list[str]:
        return [code.value for code in app.code if "--merged" in code.value]

    run = compared.run(place, "seeking")
    assert not merging(compare(view="files"))
    run.file("adapter").mkdir()
    app = compare(view="files")
    assert "Adapter as zip" in {b.label for b in app.get("download_button")}
    assert merging(app) == [f"python -m paraknow_core runs export {run.id} --merged --out {run.id}-merged"]
    monkeypatch.setattr("pages._ui.compare.files.LARGEST", -1)
    app = compare(view="files")
    assert "Adapter as zip" not in {b.label for b in app.get("download_button")}
    assert f"too large to hand through the browser; it lies in {place.root.name}/runs/{run.id}/adapter/" in words(app)
    monkeypatch.undo()
    monkeypatch.setenv("PARAKNOW_DEMO", "1")
    assert not merging(compare(view="files"))  # a class has no command line here
    monkeypatch.delenv("PARAKNOW_DEMO")
    run.file("adapter").rmdir()
    (tmp_path / "outside").mkdir()
    run.file("adapter").symlink_to(tmp_path / "outside")
    app = compare(view="files")
    assert "Adapter as zip" not in {b.label for b in app.get("download_button")}
    assert not merging(app)


def test_files_behind_links_are_not_offered(place, compare, tmp_path):
    run = compared.run(place, "seeking")
    run.file("predictions.jsonl").rename(tmp_path / "outside")
    run.file("predictions.jsonl").symlink_to(tmp_path / "outside")
    app = compare(view="files")
    assert "predictions.jsonl is a link" in words(app)
    assert not {"Report as HTML", "Records as CSV"} & {b.label for b in app.get("download_button")}


def test_duplicate_and_tweak_makes_the_runs_spec_the_draft(place, compare):
    compared.run(place, "seeking", factorisation__rank=7)
    app = compare(view="files")
    button(app, "Duplicate and tweak").click().run()
    assert not app.exception
    assert load_draft(place).spec.factorisation.rank == 7


def test_in_demo_mode_a_run_of_ones_own_files_is_not_made_the_draft(place, compare, monkeypatch):
    compared.run(place, "seeking", teacher__source="/home/somebody/model")
    monkeypatch.setenv("PARAKNOW_DEMO", "1")
    app = compare(view="files")
    button(app, "Duplicate and tweak").click().run()
    assert "in demo mode only bundled models" in words(app)


def test_hostile_names_and_long_lists_break_nothing(place, compare):
    for number in range(7):
        compared.run(place, "seeking", number, name=compared.HOSTILE[:120], student__source=f"/m/{compared.HOSTILE}")
    compared.run(place, "default_lora", student__source=f"/m/{compared.HOSTILE}")
    app = compare()
    for name in VIEWS:
        assert "<script>" not in view(app, name)


def test_a_damaged_record_file_is_a_sentence_or_left_out(place, compare):
    runs = compared.study(place, seeds=1)
    runs["pissa"][0].file("predictions.jsonl").write_text('{"scorer": "number_match"\n[]\n"x"\n')
    app = compare()
    assert "not paired" in words(app)
    view(app, "answers")


def test_a_long_list_shows_the_newest_and_what_is_chosen_and_finds_the_others(place, compare, monkeypatch):
    monkeypatch.setattr("paraknow_core.workbench.views.compare.MOST_ROWS", 3)
    runs = [compared.run(place, "pissa", seed, name="old" if seed == 0 else "new") for seed in range(6)]
    for seed, run in enumerate(runs):
        run.path.rename(place.runs / f"2026010{seed + 1}-000000-run-{seed}")
    app = compare(run="20260101-000000-run-0")
    assert [name[-1] for name in app.dataframe[0].value["run"]] == ["5", "4", "3", "0"]
    assert "Listed are the newest of 6 that match" in words(app)
    app.text_input(key="compare.filter.text.widget").set_value("OLD").run()
    assert [name[-1] for name in app.dataframe[0].value["run"]] == ["0"]
    assert "Listed are" not in words(app)
