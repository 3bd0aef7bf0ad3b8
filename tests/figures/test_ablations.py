"""Pictures of studies: what is drawn where, in words too, from no data to many arms."""

from dataclasses import replace

import pytest

from paraknow_core.catalogue import ARMS
from paraknow_core.figures import ablations
from paraknow_core.studies.outcome import Contrast
from paraknow_core.studies.presets import PRESETS
from paraknow_core.studies.study import StudySpec
from tests.marking import mostly_slow
from tests.studies import made

STRUCTURE = PRESETS["structure"].make(None, "pocket")
HOSTILE = "</script><b>a name that goes on for longer than any axis has"


def alt(figure):
    return figure.layout.meta["alt"]


def texts(figure):
    return " | ".join(str(a.text) for a in figure.layout.annotations)


def diamonds(figure):
    return [trace for trace in figure.data if str(trace.marker.symbol).startswith("diamond-")]


def every(outcome, dark=False):
    factors = outcome.study.factors
    return [
        *(ablations.by_factor(outcome, factor, dark) for factor in factors),
        *(
            draw(outcome, dark)
            for draw in (ablations.by_arm, ablations.rate_curves, ablations.forest, ablations.progress_grid)
        ),
    ]


@pytest.mark.parametrize("dark", mostly_slow([False, True], False))
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_drawn_whole_begun_and_empty(name, dark):
    study = PRESETS[name].make(None, "pocket")
    for done in (None, 1, 0):
        for figure in every(made.outcome(study, done), dark):
            assert figure.layout.title.text and figure.layout.height >= 90
            assert alt(figure).endswith(".") and len(alt(figure)) < 2500


def test_scores_by_factor_have_intervals_seeds_and_the_papers_values():
    figure = ablations.by_factor(made.outcome(STRUCTURE), "extraction.structure")
    assert list(figure.layout.xaxis.ticktext)[:2] == ["submatrix", "row column"]
    assert figure.layout.yaxis.title.text == "score [%]"
    lora, seeking = (
        next(t for t in figure.data if t.name == n and t.error_y.array)
        for n in ("default LoRA", "seeking (the method)")
    )
    assert list(lora.y[:2]) == pytest.approx([30, 31]) and lora.error_y.array[0] == pytest.approx(2)
    assert lora.marker.color.upper() == ARMS["default_lora"].colour
    assert all(a < b for a, b in zip(lora.x, seeking.x, strict=True))  # beside each other, never on each other
    seeds = [trace for trace in figure.data if trace.hovertemplate.startswith("one seed")]
    assert len(seeds[0].y) == len(STRUCTURE.seeds) * len(lora.y)
    values = {(round(t.x[0], 3), t.y[0]) for t in diamonds(figure)}
    assert (round(seeking.x[0], 3), 28.22) in values and (round(lora.x[0], 3), 27.00) in values
    assert any("paper (LLaMA-1)" in (t.name or "") for t in diamonds(figure))
    assert "default LoRA, submatrix 30.0 (28.0 to 32.0) %" in alt(figure)


def test_numbers_lie_on_a_logarithmic_axis_in_rising_order():
    study = StudySpec(arms=("default_lora", "seeking"), factors={"sensitivity.samples": (32, 2, 8)})
    figure = ablations.by_factor(made.outcome(study), "sensitivity.samples")
    assert figure.layout.xaxis.type == "log" and list(figure.layout.xaxis.ticktext) == ["2", "8", "32"]
    assert "lines" in next(t.mode for t in figure.data if t.name == "default LoRA" and t.error_y.array)


def test_a_second_factor_parts_the_lines_of_an_arm():
    figure = ablations.by_factor(made.outcome(PRESETS["injection_modes"].make()), "injection.mode")
    lines = [t for t in figure.data if t.name and t.error_y.array]
    assert {t.name for t in lines} >= {"seeking (the method), student kin", "seeking (the method), student stranger"}
    of_seeking = [t for t in lines if t.name.startswith("seeking")]
    assert len({t.marker.symbol for t in of_seeking}) == len(of_seeking)


def test_rates_show_loss_choice_and_divergence():
    outcome = made.outcome(StudySpec(arms=("default_lora", "pissa"), tuning={"points": 5}))
    figure = ablations.rate_curves(outcome)
    line = next(t for t in figure.data if t.name == "PiSSA")
    assert len(line.x) == 4 and figure.layout.xaxis.type == "log"
    assert list(line.marker.line.width) == [2.4, 0, 0, 0]
    lost = [t for t in figure.data if t.marker.symbol == "x-thin-open"]
    assert len(lost) == 2 and lost[1].x[0] < line.x[0]
    assert "nats per token" in figure.layout.yaxis.title.text
    assert "chosen rates: default LoRA 0.000169; PiSSA" in alt(figure)


def test_equal_curves_of_an_arm_are_drawn_once():
    outcome = made.outcome(STRUCTURE)
    names = [t.name for t in ablations.rate_curves(outcome).data if t.name]
    assert sum(name.startswith("default LoRA") for name in names) == 1


def test_rates_as_a_factor_are_drawn_by_score():
    outcome = made.outcome(PRESETS["learning_rates"].make(None, "pocket"))
    assert "Score by learning rate" in ablations.rate_curves(outcome).layout.title.text


def test_differences_lie_around_zero_with_margin_word_and_the_papers_gain():
    outcome = made.outcome(STRUCTURE)
    figure = ablations.forest(outcome)
    band, zero = figure.layout.shapes
    assert (band.x0, band.x1) == (-1.0, 1.0) and zero.x0 == 0
    assert "+1.4 (-0.3 to +3.1): undecided" in texts(figure)
    rows = figure.layout.yaxis.ticktext
    assert len(rows) == len(outcome.groups) / 2 and "default LoRA" not in " ".join(rows)
    assert [round(t.x[0], 2) for t in diamonds(figure)][-2:] == [1.22, 1.63]
    assert figure.layout.xaxis.title.text == "difference [points]"


def test_differences_of_perplexities_are_in_their_own_unit_without_the_papers_values():
    outcome = made.outcome(STRUCTURE)
    groups = [replace(g, unit="ppl", verdict_unit=g.verdict and "nats per token") for g in outcome.groups]
    outcome = replace(outcome, groups=groups)
    figure = ablations.forest(outcome)
    assert "nats per token" in figure.layout.xaxis.title.text and not diamonds(figure)
    scores = ablations.by_factor(outcome, "extraction.structure")
    assert scores.layout.yaxis.title.text == "score [ppl, lower is better]" and not diamonds(scores)


def test_progress_shows_each_runs_state_and_leads_to_it():
    outcome = made.outcome(StudySpec(arms=("default_lora", "seeking"), seeds=(3, 5)), done=1)
    failed = replace(outcome.groups[1], states={3: "failed", 5: "running"})
    figure = ablations.progress_grid(replace(outcome, groups=[outcome.groups[0], failed]))
    words, targets = figure.data[1], figure.data[-1]
    assert list(words.text) == ["done", "waiting", "failed", "running"]
    assert list(targets.customdata[0]) == ["default_lora", 3, "2026-0-3"]
    assert targets.customdata[3][2] == ""
    assert list(figure.layout.xaxis.ticktext) == ["3", "5"]
    assert "1 done" in alt(figure) and "1 failed" in alt(figure)


def test_scores_by_arm_have_the_untouched_models_and_the_papers_values_within_the_axis():
    student = {"value": 0.3, "low": 0.28, "high": 0.32, "unit": "share", "n": 400}
    outcome = made.outcome(PRESETS["table1"].make(None, "pocket"), references={"student": student})
    figure = ablations.by_arm(outcome)
    assert list(figure.layout.yaxis.ticktext) == ["default LoRA", "seeking (the method)", "random offset"]
    assert "student, untouched" in texts(figure)
    assert [(t.x[0], t.y[0]) for t in diamonds(figure)][1] == (18.73, 1.3)
    low, high = figure.layout.xaxis.range
    assert all(low < trace.x[0] < high for trace in diamonds(figure))
    shown = [trace.name for trace in figure.data if trace.showlegend]
    assert shown == ["paper (LLaMA-1), GSM8K", "paper (Llama-2), GSM8K"]


def test_a_study_that_goes_on_says_how_many_seeds_it_has():
    assert "1 of 6 seeds" in ablations.forest(made.outcome(STRUCTURE, 1)).layout.title.subtitle.text.replace(
        "<br>", " "
    )


def test_many_arms_and_long_names_stay_apart_and_text():
    own = [{"name": f"own_{n}", "label": f"{n} {HOSTILE}"[:60], "arm": "seeking"} for n in range(24)]
    study = StudySpec(arms=("default_lora", *own), factors={"factorisation.rank": (4, 8)}, seeds=(0,))
    outcome = made.outcome(study)
    for figure in every(outcome):
        assert "<b>" not in str(figure.to_json()).replace("\\u003c", "<")
    forest = ablations.forest(outcome)
    assert len(forest.layout.yaxis.ticktext) == 48 and forest.layout.height > 2000
    assert alt(forest).endswith("and 36 more.")


def test_without_data_a_picture_says_what_will_be_there():
    empty = made.outcome(STRUCTURE, done=0)
    for draw in (lambda o: ablations.by_factor(o, "extraction.structure"), ablations.rate_curves, ablations.forest):
        assert "appear here" in texts(draw(empty))
    assert "tunes no rates" in texts(ablations.rate_curves(made.outcome(StudySpec(), done=0)))


@pytest.mark.parametrize("dark", [False, True])
def test_the_steps_of_a_gain_lead_from_nothing_to_it(dark):
    figure = ablations.waterfall(made.attribution(scale="better", structure="worse"), dark)
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert [round(bar.base[0], 1) for bar in bars] == [0, 1.0, 0.6, 2.6, 0, 0]
    assert [round(bar.base[0] + bar.x[0], 1) for bar in bars] == [1.0, 0.6, 2.6, 3.1, 3.1, 2.2]
    assert bars[1].error_x.array[0] == pytest.approx(1.7)  # the step's own interval, at its end
    assert len({bar.marker.color for bar in bars[:3]}) == 3 and bars[1].marker.pattern.shape == "/"
    assert "scale: spectrum matched against<br>default LoRA" in figure.layout.yaxis.ticktext[0]
    assert "structure -0.4 (-2.1 to +1.3): worse" in alt(figure)
    nats = ablations.waterfall(made.attribution(), dark, "nats per token")
    assert nats.layout.xaxis.title.text == "difference [nats per token]" and nats.data[0].x[0] == pytest.approx(0.01)


def test_values_of_a_factor_are_drawn_against_the_base_runs_or_said_to_be_missing():
    contrast = Contrast(
        *("extraction.structure", "seeking", f"row column, {HOSTILE}", "b", "a", "submatrix"),
        *(made.verdict(0.02, "better"), "share"),
    )
    figure = ablations.levels(made.outcome(STRUCTURE, contrasts=[contrast]), "extraction.structure")
    assert figure.layout.title.text.replace("<br>", " ").startswith(
        "By structure: difference to submatrix, within each arm"
    )
    assert "better" in texts(figure) and "</script>" not in str(figure.layout.yaxis.ticktext)
    empty = ablations.levels(made.outcome(STRUCTURE, 0), "extraction.structure")
    assert "as soon as two values share a seed" in texts(empty)


def test_an_arm_that_is_the_method_itself_says_so_in_place_of_a_difference():
    found = made.outcome(StudySpec(arms=("default_lora", "random_offset", "seeking")))
    group = replace(found.groups[1], verdict=None, vacuous="is the method itself here")
    figure = ablations.forest(replace(found, groups=[found.groups[0], group, found.groups[2]]))
    assert "is the method itself here" in texts(figure) and "no shared seeds yet" not in texts(figure)
