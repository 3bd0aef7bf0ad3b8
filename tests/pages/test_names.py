"""The one name of a run, its note and its star: the same in every list, and editable where a run is looked at."""

import json

import pytest

from pages._ui.frame import run_panel
from paraknow_core.demo.tasks import TASKS
from paraknow_core.engines.queue import QueueEngine
from paraknow_core.errors import DataError
from paraknow_core.runs.labels import Label, label_of, set_label
from tests.pages import fabricate
from tests.pages.conftest import button, select, words


@pytest.fixture
def ablation(place):
    """Four runs of one question: two origins, two ranks; one is running and one waits."""
    changes = [
        {"extraction.origin": [origin], "factorisation.rank": rank, "seed": 1}
        for origin in ("all", "ffn")
        for rank in (8, 16)
    ]
    states = ("done", "failed", "running", "queued")
    runs = [fabricate.run(place, state, change) for state, change in zip(states, changes, strict=True)]
    QueueEngine(place).submit(runs[3])
    return runs


NAMES = ["all modules, r 8, seed 1", "all modules, r 16, seed 1", "ffn only, r 8, seed 1", "ffn only, r 16, seed 1"]


def links(app) -> list[str]:
    return [link.proto.label for link in app.get("page_link") if "run=" in link.proto.query_string]


def test_runs_of_an_ablation_have_one_name_in_every_list(place, open_app, ablation):
    assert sorted(links(open_app())) == sorted(name.replace("+", r"\+") for name in NAMES)
    app = open_app("train", ablation[0].id)
    options = select(app, "Run").options
    pair = "teacher → stranger · word problems"
    assert sorted(options) == sorted(
        [
            f"{NAMES[0]} · 41.0 ± 5.6 % · {pair}",
            f"{NAMES[1]} · failed · {pair}",
            f"{NAMES[2]} · running · {pair}",
            f"{NAMES[3]} · queued · {pair}",
        ]
    )
    rows = [html.proto.body for html in app.get("html") if "queue-row" in html.proto.body]
    assert [name in row for name, row in zip(NAMES[2:], rows, strict=True)] == [True, True]
    assert f'<span class="pk-name">{NAMES[0]}</span>' in words(app)
    pills = next(p for p in app.get("button_group") if p.label == "Beside it")
    assert {f"{NAMES[1]} *", f"{NAMES[2]} *"} <= {option.content for option in pills.proto.options}
    table = open_app("compare").dataframe[0].value
    assert sorted(table["name"]) == sorted(NAMES)


def test_a_name_a_note_and_a_star_are_given_on_train_and_seen_everywhere(place, open_app, ablation):
    run = ablation[0]
    app = open_app("train", run.id)
    button(app, "Star").click().run()
    assert label_of(run.path).starred
    next(t for t in app.text_input if t.label == "Name").set_value("the good one")
    next(t for t in app.text_area if t.label == "Note").set_value("rank 8 is enough\n<b>see</b> report")
    button(app, "Save").click().run()
    assert not app.exception
    assert label_of(run.path) == Label("the good one", "rank 8 is enough\n<b>see</b> report", True)
    assert '<span class="pk-name">★ the good one</span>' in words(app)
    assert '<div class="pk-note">rank 8 is enough\n&lt;b&gt;see&lt;/b&gt; report</div>' in words(app)
    assert any(option.startswith("★ the good one · 41.0") for option in select(app, "Run").options)
    assert "★ the good one" in links(open_app())
    app = open_app("compare")
    assert "★ the good one" in set(app.dataframe[0].value["name"])
    next(t for t in app.text_input if t.label == "Find").set_value("is enough").run()
    assert list(app.dataframe[0].value["run"]) == [run.id]
    app = open_app("train", run.id)
    button(app, "Unstar").click().run()
    next(t for t in app.text_input if t.label == "Name").set_value("")
    button(app, "Save").click().run()
    assert f'<span class="pk-name">{NAMES[0]}</span>' in words(app)


def test_what_the_command_line_says_is_seen_at_the_next_draw(place, open_app, ablation):
    app = open_app("train", ablation[1].id)
    set_label(ablation[1].path, name="from elsewhere", starred=True)
    app.run()
    assert '<span class="pk-name">★ from elsewhere</span>' in words(app)


def test_a_hostile_label_is_text(place, open_app):
    run = fabricate.run(place, "done")
    run.file("label.json").write_text(
        json.dumps({"name": "<script>x</script> [a](b)", "note": "<img src=x>\u202e", "starred": True})
    )
    for page in ("start", "train", "compare", "playground", "sensitivity"):
        assert not open_app(page).exception
    text = words(open_app("train", run.id))
    assert "&lt;script&gt;x" in text
    assert "<img" not in text.replace("&lt;", "")
    assert any(r"\<script\>" in label for label in links(open_app()))


def test_in_a_classroom_only_ones_own_runs_are_labelled(place, open_app, submitted, monkeypatch):
    monkeypatch.setenv("PARAKNOW_DEMO", "1")
    other = fabricate.run(place, "done", {"seed": 7})
    app = open_app("train", other.id)
    labels = [b.label for b in app.button]
    assert "Star" not in labels
    assert "Save" not in labels
    with pytest.raises(DataError, match="only runs that you have started yourself"):
        run_panel.keep_label(other, name="mine")
    assert label_of(other.path) == Label()
    button(app, "Start transfer").click().run()
    assert button(app, "Star")
    button(app, "Star").click().run()
    assert label_of(place.runs / submitted[0][0]).starred


def test_every_bundled_task_has_names_that_tell_its_runs_apart(place, open_app):
    for task in TASKS:
        fabricate.run(place, "done", {"task.source": f"bundled:{task}"})
    found = links(open_app())
    assert len(set(found)) == len(TASKS)
