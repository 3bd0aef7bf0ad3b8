"""Sensitivity: empty, running, failed, lost, saved, and links that lead nowhere."""

import json

import pytest

from paraknow_core.runs import RunFolder
from tests.pages import fabricate
from tests.pages.conftest import button, select, words

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


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("running", "Stage 2 of 2: sensitivity – 20 of 45 seed samples"),
        ("failed", "line 3: not JSON; correct it"),
        ("lost", "The process is gone; resume continues from its last save."),
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


BAD_LINKS = ["nothing-like-this", "../../etc/passwd", "a\0b", "x" * 5000, ".hidden", "📈 [x](y)"]


@pytest.mark.parametrize(
    ("page", "name"), [*(("sensitivity", name) for name in BAD_LINKS), ("train", "../.."), ("train", "a\0b")]
)
def test_a_bad_link_is_a_sentence_and_the_page_still_works(place, open_app, page, name):
    fabricate.store(place)
    fabricate.run(place, "done", ONLY)
    app = open_app(page, name)
    assert len(app.error) == 1
    assert button(app, "Compute sensitivity" if page == "sensitivity" else "Start transfer")


def test_a_result_that_names_a_folder_outside_is_not_followed(place, open_app):
    fabricate.store(place).rename(place.root / "elsewhere")
    run = fabricate.run(place, "done", ONLY, key="../elsewhere")
    app = open_app("sensitivity", run.id)
    assert "measured no sensitivity" in words(app)


def test_a_store_that_lost_its_maps_is_a_sentence(place, open_app):
    folder = fabricate.store(place)
    fabricate.run(place, "done", ONLY)
    (folder / "reductions.safetensors").unlink()
    app = open_app("sensitivity")
    assert "compute the sensitivity again" in words(app)
