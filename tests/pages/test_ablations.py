"""Ablations: the study draft, what it costs, studies in every state, and what is said of their results."""

from dataclasses import replace

import pytest

from paraknow_core.studies import conduct
from paraknow_core.studies.folder import list_studies
from paraknow_core.studies.presets import PRESETS
from paraknow_core.workbench.access import DEMO_VARIABLE
from paraknow_core.workbench.draft import load_draft
from paraknow_core.workbench.study_draft import FILE, StudyDraft, load_study_draft
from tests.marking import mostly_slow
from tests.pages import studied
from tests.pages.conftest import button, select, words


@pytest.fixture
def launched(monkeypatch) -> list:
    """Studies that a page has started; no process is."""
    calls = []
    monkeypatch.setattr(conduct, "launch", lambda folder, *_: calls.append(folder.id))
    return calls


@pytest.fixture
def ablations(place, open_app):
    """Open Ablations, optionally with parts of an address."""

    def opened(**query: str):
        app = open_app()
        app.switch_page("pages/ablations.py")
        for name, value in query.items():
            app.query_params[name] = value
        app.run()
        assert not app.exception, app.exception
        return app

    return opened


def group(app, key):
    return next(one for one in app.get("button_group") if one.key == key)


def by_key(app, key):
    return next(one for one in app.button if one.key == key)


def labels(app) -> list[str]:
    return [link.proto.label.replace("\\", "") for link in app.get("page_link")]


def test_empty_says_what_will_appear_and_how(ablations):
    text = words(ablations())
    assert "Studies will be listed here" in text and "**Start study**" in text
    assert PRESETS["structure"].asks in text
    assert "5 arms × 6 seeds" in text


def test_ticked_factors_are_the_draft_of_every_window(place, ablations):
    app = ablations()
    group(app, "ablations.factor.extraction.structure").set_value(["submatrix", "neuron"]).run()
    group(app, "ablations.arms").set_value(["default_lora", "seeking"]).run()
    assert not app.exception
    study = load_study_draft(place).study
    assert study.factors == {"extraction.structure": ("submatrix", "neuron")}
    assert study.arms == ("seeking", "default_lora")
    assert "2 arms × 2 structures × 6 seeds" in words(app)
    assert "2 arms × 2 structures × 6 seeds" in words(ablations())  # the next window; its strip says so, too
    group(app, "ablations.factor.extraction.structure").set_value([]).run()
    assert load_study_draft(place).study.factors == {}


def test_a_rate_is_tuned_or_varied_and_never_both(place, ablations):
    app = ablations()
    select(app, "Learning rates").set_value(5).run()
    assert load_study_draft(place).study.tuning.points == 5
    rates = group(app, "ablations.factor.finetuning.learning_rate")
    rates.set_value([3e-4, 1e-3]).run() if 1e-3 in rates.options else rates.set_value([3e-4]).run()
    study = load_study_draft(place).study
    assert study.tuning is None and "finetuning.learning_rate" in study.factors
    select(app, "Learning rates").set_value(3).run()
    study = load_study_draft(place).study
    assert study.tuning.points == 3 and study.factors == {}


def test_margin_is_given_in_points_and_without_arms_nothing_is_compared(place, ablations):
    app = ablations()
    next(n for n in app.number_input if n.label == "Margin [points]").set_value(2.5).run()
    assert load_study_draft(place).study.margin == pytest.approx(0.025)
    group(app, "ablations.arms").set_value([]).run()
    assert "nothing would be compared" in words(app)
    assert len(load_study_draft(place).study.arms) == 5


def test_a_preset_is_set_up_in_one_click_and_started_in_the_next(place, ablations, launched):
    app = ablations()
    by_key(app, "ablations.preset.structure").click().run()
    study = load_study_draft(place).study
    assert study.preset == "structure" and load_study_draft(place).own_base
    by_key(app, "ablations.start").click().run()
    assert not app.exception
    [folder] = list_studies(place)
    assert launched == [folder.id] and folder.spec() == study
    assert app.query_params["study"] in (folder.id, [folder.id])


def test_the_base_follows_the_draft_until_it_has_its_own(place, ablations, open_app):
    app = open_app("train")
    next(n for n in app.number_input if n.label == "Rank r").set_value(8).run()
    assert "rank 8" in words(ablations())
    app = ablations()
    by_key(app, "ablations.preset.structure").click().run()
    assert "as its preset or file says" in words(app)
    button(app, "Use the draft").click().run()
    assert not load_study_draft(place).own_base


def test_settings_of_another_window_are_not_started_unseen(place, ablations, launched):
    app, other = ablations(), ablations()
    group(other, "ablations.arms").set_value(["default_lora", "seeking"]).run()
    by_key(app, "ablations.start").click().run()
    assert not launched and "changed in another window" in words(app)
    by_key(app, "ablations.start").click().run()
    assert len(launched) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "nothing was pasted"), ("armz: [seeking]", "armz"), ("arms: [nonsense]", "arms"), ("a: [", "not valid YAML")],
)
def test_a_bad_study_is_named_and_changes_nothing(place, ablations, text, message):
    app = paste(ablations(), text)
    assert message in words(app)
    assert load_study_draft(place) == StudyDraft()


def test_an_imported_study_keeps_what_cannot_be_ticked(place, ablations):
    app = paste(ablations(), "arms: [default_lora, seeking]\nfactors: {finetuning.epochs: [1, 2]}\n")
    assert "it is the study draft now" in "".join(str(s.value) for s in app.success)
    assert load_study_draft(place).study.factors == {"finetuning.epochs": (1, 2)}
    assert not load_study_draft(place).own_base
    button(app, "Leave it out").click().run()
    assert load_study_draft(place).study.factors == {}


def paste(app, text: str):
    next(area for area in app.text_area if area.key == "ablations.import.text").set_value(text)
    next(b for b in app.button if b.label == "Import" and "ablations" in b.form_id).click().run()
    assert not app.exception, app.exception
    return app


def test_a_damaged_draft_is_said_and_starts_anew(place, open_app):
    (place.root / FILE).write_text('{"study": {"arms": 3}}')
    assert "starts from the defaults again" in words(open_app())  # on whatever page it is read first


def test_demo_mode_refuses_what_is_too_large(place, ablations, launched, monkeypatch):
    monkeypatch.setenv(DEMO_VARIABLE, "1")
    app = ablations()
    by_key(app, "ablations.start").click().run()
    assert not launched and "in demo mode at most" in words(app)


STATES = ("queued", "running", "stopping", "stopped", "failed", "lost", "done")


@pytest.mark.parametrize("state", mostly_slow(STATES, "running", "done"))
def test_a_study_in_every_state_is_listed_and_drawn(place, ablations, state):
    folder = studied.study(place, state, of_cell=lambda cell: "done" if cell.seed < 2 else "")
    assert "structure" in words(ablations())
    app = ablations(study=folder.id)
    text = words(app)
    assert f'pk-{state}">{state}</span>' in text
    assert "scored: 8 of 24 done" in "".join(bar.proto.text for bar in app.get("progress")).replace("\\", "")
    offered = {b.label for b in app.button}
    assert ("Resume" in offered) == (state in ("stopped", "failed", "lost"))
    assert ("Stop and save" in offered) == (state in ("queued", "running", "stopping"))
    assert "Submatrix or scattered?" in text


def test_results_say_a_verdict_of_each_arm_with_what_it_rests_on(place, ablations):
    folder = studied.study(place)
    app = ablations(study=folder.id, view="arms")
    table = words(app)
    assert "6 seeds × 60 examples, smallest detectable" in table
    assert "judged against" in table and ": better" in table
    assert {"seed 0", "seed 5", "Compare these runs"} <= set(labels(app))
    for view in ("verdict", "factors", "rates"):
        group(app, "ablations.view.widget").set_value(view).run()
        assert not app.exception
    assert "margin 1 point, declared before the start" in words(app)


def test_where_a_gain_comes_from_is_drawn_and_said_or_what_it_needs(place, ablations, monkeypatch):
    from numpy.random import default_rng

    from paraknow_core.studies.attribution import CHAIN, attribute
    from paraknow_core.workbench.views import ablations as view

    folder = studied.study(place, asked=studied.spec(factors={}))
    assert "is drawn for studies that have these arms, too: spectrum" in words(ablations(study=folder.id))
    draws = default_rng(0)
    found = attribute({name: draws.random((6, 20)).round() for name, _ in CHAIN}, 0.01)
    read = view.outcome_of
    monkeypatch.setattr(view, "outcome_of", lambda folder: replace(read(folder), attribution=[found]))
    folder.file("rates.json").write_text("{}")  # else what was read before is remembered
    app = ablations(study=folder.id)
    assert found.paragraph in words(app)
    assert any("waterfall" in chart.proto.id for chart in app.get("plotly_chart"))


def test_failed_runs_are_named_and_the_rest_is_judged(place, ablations):
    folder = studied.study(place, of_cell=lambda cell: "failed" if cell.seed == 3 else "done")
    app = ablations(study=folder.id)
    assert any("Failed: seeking (the method), neuron, seed 3" in label for label in labels(app))
    assert "failed, and is left out" in words(app)


def test_few_seeds_stay_undecided(place, ablations):
    folder = studied.study(place, asked=studied.spec(seeds=[0, 1]))
    text = words(ablations(study=folder.id, view="arms"))
    assert ": undecided" in text and ": better" not in text
    assert "undecided" in words(ablations(study=folder.id))


def test_nothing_scored_yet_says_what_will_appear(place, ablations):
    folder = studied.study(place, "running", of_cell=lambda cell: "")
    assert "appear here as soon as the first runs are scored" in words(ablations(study=folder.id))


def test_stop_resume_and_delete(place, ablations, launched):
    folder = studied.study(place, "running", of_cell=lambda cell: "")
    app = ablations(study=folder.id)
    by_key(app, "ablations.stop").click().run()
    assert folder.file("stop").exists()
    folder = studied.study(place, "stopped", of_cell=lambda cell: "")
    app = ablations(study=folder.id)
    by_key(app, "ablations.resume").click().run()
    assert launched == [folder.id]
    by_key(app, "ablations.delete").click().run()
    assert folder.id not in [other.id for other in list_studies(place)]
    assert "Studies" in words(app)


def test_a_study_becomes_the_draft(place, ablations):
    folder = studied.study(place, "done", of_cell=lambda cell: "")
    app = ablations(study=folder.id)
    by_key(app, "ablations.copy").click().run()
    assert load_study_draft(place).study == folder.spec()
    assert "New study" in words(app)


@pytest.mark.parametrize("link", ["nonsense", "../../etc/passwd", "\x00", "a" * 5000])
def test_a_wrong_link_is_said_and_all_studies_are_shown(place, ablations, link):
    app = ablations(study=link)
    assert "no study has this id" in words(app) and "New study" in words(app)


def test_a_damaged_study_is_listed_with_why(place, ablations):
    folder = studied.study(place, "done", of_cell=lambda cell: "")
    folder.file("study.yaml").write_text("arms: 3")
    assert "study.yaml" in words(ablations())
    assert "study.yaml" in words(ablations(study=folder.id))


def test_vary_this_adds_a_factor_with_all_its_values(place, open_app):
    app = open_app("train")
    next(b for b in app.button if b.key == "vary:extraction.structure").click().run()
    next(b for b in app.button if b.key == "vary:method").click().run()
    assert not app.exception
    study = load_study_draft(place).study
    assert set(study.factors["extraction.structure"]) >= {"submatrix", "row_column", "neuron", "random"}
    assert "See it on Ablations" in app.toast[-1].value
    assert "5 arms × " in words(app)  # in the strip
    assert load_draft(place).spec.extraction.structure == "submatrix"


def test_compare_opens_the_runs_of_a_study(place, open_app):
    folder = studied.study(place, asked=studied.spec(seeds=[0, 1]))
    app = open_app()
    app.switch_page("pages/compare.py")
    app.query_params["study"] = folder.id
    app.run()
    assert not app.exception
    assert "8 of 8 runs chosen" in words(app)


def test_a_study_that_goes_on_says_where_its_runs_are_what_waits_and_what_it_met(place, ablations):
    folder = studied.study(
        place, "running", of_cell=lambda cell: ("done", "running")[cell.seed] if cell.seed < 2 else ""
    )
    run = next(one for one in folder.cells() if one.state == "running").run
    lost = f"run {run.id}: SLURM job 5 lost its node; submitted again, 1 of at most 3 times"
    folder.file("events.jsonl").write_text(f'{{"event": "warning", "message": "{lost}"}}\n')
    text = words(ablations(study=folder.id))
    assert "**Runs** :gray[4 going on, 16 to come, about" in text
    assert text.count('data-testid="study-run"') == 4
    assert ", seed 1: SLURM job 5 lost its node; submitted again, 1 of at most 3 times" in text
    assert "runs by" in words(ablations())  # who would execute the draft
