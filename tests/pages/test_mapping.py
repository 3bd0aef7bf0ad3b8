"""Mapping & extraction: empty, measuring, loaded, changed, held, extracted, and pairs that do not fit."""

import json
import re
import shutil
from types import SimpleNamespace

import numpy
import pytest

from pages._ui.mapping import overview as mapping_overview
from paraknow_core.files.json_file import write_json
from paraknow_core.paths import Workspace
from paraknow_core.runs.folder import RunFolder
from paraknow_core.settings import Settings
from paraknow_core.spec import RunSpec
from paraknow_core.workbench.draft import load_draft
from tests.pages import fabricate
from tests.pages.conftest import answer_desk, button, select, words

SAMPLES = {"sensitivity.samples": 2}
PAIR = dict.fromkeys(("teacher_module", "teacher_shape", "placed_shape")) | {
    "student_module": "m",
    "student_shape": [2, 2],
    "role": "q",
    "action": "skip",
    "reason": "",
}


@pytest.fixture(scope="session")
def measured(tmp_path_factory) -> Workspace:
    """A workspace where the bundled teacher was really measured, on two seed samples."""
    from paraknow_core.context import Context
    from paraknow_core.sensitivity.measure import sensitivity

    place = Workspace(tmp_path_factory.mktemp("measured"))
    sensitivity(Context(RunSpec().with_changes(SAMPLES), Settings(threads=2), place))
    return place


@pytest.fixture
def loaded(place, measured, open_app):
    """The page over the measured teacher; `changes` go into the draft before it is opened."""

    def opened(changes=None, page="mapping"):
        shutil.copytree(measured.root, place.root, dirs_exist_ok=True)
        save(place, RunSpec().with_changes({**SAMPLES, **(changes or {})}))
        app = open_app(page)
        answer_desk(place, app)
        return app

    yield opened
    # Answers hang on nothing but the question: what one test asked, the next need not work out again.
    shutil.copytree(place.root / "desk", measured.root / "desk", dirs_exist_ok=True)


def save(place, spec, held=None) -> None:
    write_json(
        place.root / "draft.json", {"spec": spec.model_dump(mode="json"), "held": held and held.model_dump(mode="json")}
    )


def test_a_question_that_cannot_be_written_is_a_sentence_of_the_table(place, monkeypatch):
    def full(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(mapping_overview.desk, "ask", full)
    choice = SimpleNamespace(
        plan_id="p",
        by_layer=[[{**PAIR, "layer": 0}]],
        energy=lambda: {"spec": RunSpec(), "store": "key", "structure": "submatrix", "mode": "block", "rank": 1},
    )
    assert "Read-only file system" in mapping_overview._ask_on(choice)


def figures(app) -> dict[str, dict]:
    found = (json.loads(chart.proto.spec) for chart in app.get("plotly_chart"))
    return {figure["layout"]["title"]["text"]: figure for figure in found}


def subtitle(figure) -> str:
    return figure["layout"]["title"]["subtitle"]["text"]


def group(app, label):
    return next(g for g in app.get("button_group") if g.label == label)


def overview(app):
    return next(d.value for d in app.dataframe if "ratio" in d.value.columns)


def test_without_a_measurement_it_says_what_will_appear_and_offers_it(place, open_app, submitted):
    app = open_app("mapping")
    assert app.title[0].value == "Mapping & extraction"
    answer_desk(place, app)
    assert "the block that would be injected will appear here" in words(app)
    assert "known once the teacher's sensitivity was measured" in words(app)
    links = figures(app)["Which layer goes where"]["data"]
    assert not [t for t in links if t.get("mode") == "lines"]
    button(app, "Compute sensitivity").click().run()
    assert not app.exception
    [[run_id]] = submitted
    assert RunFolder(place.runs / run_id).spec().until == "sensitivity"
    assert "Not started yet" in words(app)


def test_a_strategy_that_needs_no_measurement_is_drawn_without(place, open_app):
    save(place, RunSpec().with_changes({"mapping.strategy": "last"}))
    app = open_app("mapping")
    answer_desk(place, app)
    links = [t for t in figures(app)["Which layer goes where"]["data"] if t.get("mode") == "lines"]
    assert len(links) == 4
    assert not app.error


@pytest.mark.parametrize(("state", "said"), [("running", "Stop and save"), ("failed", "Resume"), ("lost", "Resume")])
def test_a_measurement_on_its_way_is_followed(place, open_app, state, said):
    fabricate.run(place, state, {"until": "sensitivity"})
    app = open_app("mapping")
    answer_desk(place, app)
    assert button(app, said)
    assert "Compute sensitivity" not in {b.label for b in app.button}


def test_everything_is_shown_at_once_from_the_saved_sensitivity(place, loaded):
    app = loaded()
    assert "S from teacher on word problems, 2 seed samples" in words(app)
    drawn = figures(app)
    assert {
        "Captured share of S, against every offset",
        "Singular values of the block",
        "Cosine with the student's own weight",
    } <= set(drawn)
    assert "best of" in subtitle(drawn["Captured share of S, against every offset"])
    table = overview(app)
    assert len(table) == 29
    assert (table["captured"] > table["area"]).all()
    assert (table["percentile"] == 100).all()
    assert "184 k, 737 kB" in words(app)
    assert "unchanged" in words(app)
    assert not (place.runs.exists() and list(place.runs.iterdir()))


def test_a_rank_that_fits_nowhere_is_refused_in_one_sentence(place, loaded, submitted):
    app = loaded({"factorisation.rank": 5000})
    assert "s = 16 / 5,000 = 0.0032" in words(app)
    assert "rank 5,000 does not fit model.embed_tokens; choose 1 to 128, or another origin" in words(app)
    assert len(app.error) == 1
    assert "Trainable share" not in words(app)
    assert not [d for d in app.dataframe if "ratio" in d.value.columns]
    button(app, "Extract only").click().run()
    answer_desk(place, app)
    button(app, "Extract only").click().run()
    assert "rank 5000 does not fit" in words(app)


def test_a_held_rank_that_fits_nowhere_is_left_out(place, loaded):
    save(place, RunSpec().with_changes(SAMPLES))
    app = loaded()
    held = RunSpec().with_changes({**SAMPLES, "factorisation.rank": 5000})
    save(place, RunSpec().with_changes(SAMPLES), held)
    app.run()
    answer_desk(place, app)
    assert "Held choice: rank 5,000 does not fit" in words(app)
    assert "Trainable share" in words(app)


def test_structure_rank_and_mode_change_the_preview_without_a_run(place, loaded):
    app = loaded()
    before = overview(app)
    group(app, "Structure").set_value("random").run()
    answer_desk(place, app)
    density = next(f for title, f in figures(app).items() if title.startswith("Taken from"))
    assert density["data"][0]["type"] == "heatmap"
    assert "single weights" in subtitle(density)
    after = overview(app)
    assert abs((after["captured"] / after["area"]).mean() - 1) < 0.1
    assert (before["captured"] > after["captured"]).mean() > 0.9
    next(n for n in app.number_input if n.label == "Rank r").set_value(4).run()
    assert not (place.root / "desk" / "questions").exists() or not list((place.root / "desk" / "questions").iterdir())
    assert "rank 4:" in json.dumps(figures(app)["Singular values of the block"], ensure_ascii=False)
    assert (overview(app)["retained"] < after["retained"]).all()
    group(app, "Injection mode").set_value("difference").run()
    answer_desk(place, app)
    assert "Singular values of the block − student's weight" in figures(app)
    assert "changed, " in words(app)
    assert load_draft(place).spec.injection.mode == "difference"


def test_strategies_change_the_links_and_manual_starts_from_what_is_shown(place, loaded):
    app = loaded({"mapping.strategy": "last"})
    group(app, "Strategy").set_value("manual").run()
    answer_desk(place, app)
    spec = load_draft(place).spec.mapping
    assert (spec.strategy, spec.layers) == ("manual", (2, 3, 4, 5))
    group(app, "Strategy").set_value("top").run()
    answer_desk(place, app)
    assert load_draft(place).spec.mapping.layers == ()
    assert not app.error


def test_layers_that_were_not_compared_are_offered_to_be(place, loaded, submitted):
    app = loaded({"mapping.strategy": "cka"})
    assert "worked out from the hidden states of both models" in words(app)
    assert "How alike the layers are" not in figures(app)
    assert not [t for t in figures(app)["Which layer goes where"]["data"] if t.get("mode") == "lines"]
    button(app, "Compute similarity").click().run()
    assert not app.exception
    spec = RunFolder(place.runs / submitted[0][0]).spec()
    assert (spec.until, spec.mapping.strategy, spec.name) == ("extraction", "cka", "Layer similarity")
    assert "Not started yet" in words(app)


@pytest.mark.parametrize("strategy", ["cka", "stitch"])
def test_compared_layers_are_mapped_and_drawn(place, loaded, strategy):
    from paraknow_core.context import Context
    from paraknow_core.methods.mapping import matched_layers
    from paraknow_core.sensitivity.saved_similarity import saved_similarity
    from paraknow_core.sensitivity.similarity import similarity

    similarity(Context(RunSpec().with_changes(SAMPLES), Settings(threads=2), place))
    app = loaded({"mapping.strategy": strategy})
    assert "Compute similarity" not in {b.label for b in app.button}
    [file] = place.similarity.glob("*.json")
    table = saved_similarity(place, file.stem)[strategy]
    drawn = figures(app)["How alike the layers are"]
    assert "of 2 seed samples" in subtitle(drawn)
    framed = sorted((frame["y0"] + 0.5, frame["x0"] + 0.5) for frame in drawn["layout"]["shapes"])
    layers = matched_layers(table)
    assert framed == list(enumerate(layers))
    links = [t for t in figures(app)["Which layer goes where"]["data"] if t.get("mode") == "lines"]
    assert [
        f"teacher layer {t} → student layer {s}" in link["hovertemplate"]
        for link, (s, t) in zip(links, enumerate(layers), strict=True)
    ] == [True] * 4
    assert len(overview(app)) == 29
    assert not app.error


@pytest.mark.parametrize("structure", ["coherent_window", "coherent_scattered", "even_slice"])
def test_coherent_structures_are_shown(loaded, structure):
    app = loaded({"extraction.structure": structure})
    table = overview(app)
    assert len(table) == 29
    assert table["captured"].notna().all()
    assert any(title.startswith("Taken from") for title in figures(app))
    assert not app.error
    assert not app.exception


def test_groups_and_roles_are_kept_in_step(place, loaded):
    app = loaded()
    group(app, "Origin by group").set_value(["attention", "embedding"]).run()
    answer_desk(place, app)
    assert load_draft(place).spec.extraction.origin == ("attention", "embedding")
    assert group(app, "Origin by role").value == ["q", "k", "v", "o", "embed"]
    assert len(overview(app)) == 17
    group(app, "Origin by role").set_value(["q"]).run()
    answer_desk(place, app)
    assert group(app, "Origin by group").value == []
    group(app, "Origin by role").set_value([]).run()
    assert "choose at least one role" in app.error[0].value
    assert load_draft(place).spec.extraction.origin == ("q",)


def cells(app, name: str) -> list[list[str]]:
    """The rows of a table that is drawn as a whole."""
    body = next(e.proto.body for e in app.get("html") if f'data-testid="{name}"' in e.proto.body)
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", body)]


def test_two_choices_are_held_side_by_side_swapped_and_dropped(place, loaded):
    app = loaded()
    button(app, "Hold this choice").click().run()
    assert "Both choices are the same so far" in words(app)
    group(app, "Structure").set_value("row_column").run()
    answer_desk(place, app)
    assert load_draft(place).held.extraction.structure == "submatrix"
    head, *named = cells(app, "differences")
    assert head == ["setting", "this choice", "held choice"]
    assert named == [["extraction.structure", "row_column", "submatrix"]]
    head, *compared = cells(app, "measures")
    assert head == ["", "This choice", "Held choice"]
    assert [row[1:] for row in compared[:2]] == [["29", "29"], ["184 k, 737 kB", "184 k, 737 kB"]]
    lines = [subtitle(json.loads(c.proto.spec)) for c in app.get("plotly_chart")]
    assert {line.split(":")[0] for line in lines if "choice:" in line} == {"This choice", "Held choice"}
    button(app, "Swap").click().run()
    answer_desk(place, app)
    assert load_draft(place).held.extraction.structure == "row_column"
    button(app, "Drop").click().run()
    assert load_draft(place).held is None
    assert button(app, "Swap").disabled


def test_a_module_is_chosen_for_the_pictures(place, loaded):
    app = loaded()
    select(app, "Student module").set_value("model.layers.1.mlp.down_proj").run()
    answer_desk(place, app)
    assert any(title.startswith("Taken from") and title.endswith("mlp.down_proj") for title in figures(app))


def test_another_measurement_of_the_teacher_is_used_and_said(place, loaded, submitted):
    app = loaded({"sensitivity.samples": 3})
    assert "another measurement: teacher on word problems, 2 seed samples" in words(app)
    assert len(overview(app)) == 29
    button(app, "Compute sensitivity").click().run()
    assert RunFolder(place.runs / submitted[0][0]).spec().sensitivity.samples == 3


def test_a_task_that_cannot_be_read_is_said_and_not_measured(loaded):
    app = loaded({"task.source": "/no such file.jsonl"})
    assert "seed samples cannot be read" in words(app)
    assert "Compute sensitivity" not in {b.label for b in app.button}
    assert len(overview(app)) == 29


def test_a_mapping_of_another_pair_is_named_and_can_be_fitted(place, loaded):
    app = loaded({"mapping.strategy": "manual", "mapping.layers": [0, 17]})
    assert "2 entries, but the student has 4 layers" in words(app)
    button(app, "Fit to this pair").click().run()
    answer_desk(place, app)
    assert load_draft(place).spec.mapping.layers == (0, None, None, None)
    assert not app.error
    assert len(overview(app)) == 8
    assert any("modules receive nothing" in e.label for e in app.expander)


def test_the_method_of_the_draft_is_said_where_it_is_a_control(place, loaded):
    app = loaded({"method": "random_offset"})
    assert "a window of the student's shape at a random place" in words(app)
    assert overview(app)["percentile"].min() < 100
    button(app, "Use seeking").click().run()
    answer_desk(place, app)
    assert load_draft(place).spec.method == "seeking"
    assert overview(app)["percentile"].min() == 100


@pytest.mark.parametrize("source", ["/no/such <b>folder</b>", "bundled:nothing"])
def test_a_model_that_is_not_there_is_a_sentence(place, open_app, source):
    save(place, RunSpec().with_changes({"teacher.source": source}))
    app = open_app("mapping")
    answer_desk(place, app)
    assert len(app.error) == 1
    assert button(app, "Start transfer")


def test_start_transfer_starts_what_train_would_and_leads_there(place, loaded, submitted):
    app = loaded({"seed": 4})
    start = button(app, "Start transfer")
    assert start.help.replace("\\", "").startswith("Puts 2 runs into the queue: seeking and default LoRA, seed 4.")
    start.click().run()
    assert not app.exception
    [ids] = submitted
    assert [RunFolder(place.runs / name).spec().method for name in ids] == ["seeking", "default_lora"]
    assert app.title[0].value == "Train"
    assert app.query_params["run"] in (ids[0], [ids[0]])


def test_start_transfer_says_why_nothing_can_start(place, loaded, submitted):
    app = loaded({"factorisation.rank": 4096})
    button(app, "Start transfer").click().run()
    assert app.title[0].value == "Mapping & extraction"
    assert any("rank 4096 does not fit" in error.value for error in app.error)
    assert not submitted


def test_start_transfer_starts_nothing_twice(place, loaded, submitted):
    app = loaded()
    assert not button(app, "Start transfer").disabled
    spec = load_draft(place).spec
    for method in ("seeking", "default_lora"):
        fabricate.run(place, "done", {**spec.model_dump(mode="json"), "method": method})
    app.run()
    assert button(app, "Start transfer").disabled
    assert "Already run: seeking and default LoRA, seed 0" in button(app, "Start transfer").help.replace("\\", "")


def test_extract_only_submits_a_run_and_shows_where_the_adapter_lies(place, loaded, submitted):
    app = loaded()
    button(app, "Extract only").click().run()
    [[run_id]] = submitted
    run = RunFolder(place.runs / run_id)
    assert run.spec().until == "extraction"
    assert "Not started yet" in words(app)
    fabricated = fabricate.run(place, "done", {"until": "extraction"})
    (fabricated.file("init_adapter")).mkdir()
    (fabricated.file("init_adapter") / "adapter_model.safetensors").write_bytes(b"0" * 2_000_000)
    (fabricated.file("extraction.json")).write_text("{}")
    app.query_params["run"] = fabricated.id
    app.run()
    assert not app.exception
    assert f"runs/{fabricated.id}/init_adapter/" in words(app)
    assert {"extraction.json", "init_adapter.zip"} <= {b.label for b in app.get("download_button")}
    button(app, "Close").click().run()
    assert "init_adapter/" not in words(app)


def test_reductions_alone_say_what_they_cannot_show(place, measured, open_app):
    """A streamed measurement keeps what the run's student needs, and no S."""
    from paraknow_core.context import Context
    from paraknow_core.methods import wanted
    from paraknow_core.sensitivity.measure import sensitivity

    spec = RunSpec().with_changes({"sensitivity.samples": 1})
    place.root.mkdir(exist_ok=True)
    context = Context(spec, Settings(threads=2, keep="reductions"), place)
    sensitivity(context, wanted(context))
    save(place, spec)
    app = open_app("mapping")
    answer_desk(place, app)
    assert "Only its reductions were kept" in words(app)
    assert "what other offsets hold cannot be shown" in words(app)
    assert any(title.startswith("Taken from") for title in figures(app))
    assert overview(app)["percentile"].isna().all()
    assert overview(app)["captured"].notna().all()
    group(app, "Structure").set_value("neuron").run()
    answer_desk(place, app)
    assert "made for other students or structures" in words(app)
    assert not app.exception


def test_the_table_in_numbers_is_what_a_run_writes(place, loaded):
    """The preview is the extraction itself: same places, masses and energies as extraction.json."""
    from paraknow_core.context import Context
    from paraknow_core.methods import method
    from paraknow_core.methods.base import MethodInputs
    from paraknow_core.methods.mapping import map_layers
    from paraknow_core.methods.plan import plan_transfer
    from paraknow_core.sensitivity.measure import sensitivity

    table = overview(loaded()).set_index("student module")
    context = Context(RunSpec().with_changes(SAMPLES), Settings(), place)
    store = sensitivity(context)
    student = dict(context.student.load().named_parameters())
    plan = plan_transfer(context, map_layers(context.spec.mapping, context, store))
    for update in method("seeking").start(MethodInputs(context, student, store, plan)):
        row, record = table.loc[update.module.name.removeprefix("model.")], update.record
        assert row["taken at"] == "{}, {}".format(*record["top_left"])
        got = numpy.array([row["captured"], row["area"], row["cosine"], row["retained"]])
        want = [
            100 * record["captured_mass"],
            100 * record["area_fraction"],
            record["cosine_with_student"],
            100 * record["retained_energy"],
        ]
        numpy.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
