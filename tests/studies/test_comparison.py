"""Comparisons: which runs are one arm, what makes a comparison unclean, and what may be said of several."""

import json
import math
import time
from dataclasses import replace

import pytest

from paraknow_core import studies as comparison
from paraknow_core.demo.tasks import TASKS
from paraknow_core.errors import RunError
from paraknow_core.figures.compare import difference_forest
from paraknow_core.figures.report import html_report
from paraknow_core.ops.statistics import PairedResult
from paraknow_core.paths import Workspace
from paraknow_core.runs.folder import list_runs
from paraknow_core.spec import RunSpec
from paraknow_core.studies import same
from paraknow_core.studies import scores as studies
from tests.pages import compared, fabricate


@pytest.fixture
def place(tmp_path):
    return Workspace(tmp_path)


def groups_of(place):
    return comparison.arms_of([(run, run.spec()) for run in sorted(list_runs(place), key=lambda r: r.id, reverse=True)])


def test_runs_that_differ_in_their_seed_and_name_only_are_one_arm(place):
    runs = compared.study(place)
    found = groups_of(place)
    assert [(g.label, g.seeds) for g in found] == [
        ("seeking (the method)", (0, 1, 2)),
        ("default LoRA", (0, 1, 2)),
        ("PiSSA", (0, 1, 2)),
    ]
    assert [run.spec().seed for run in found[0].runs] == [0, 1, 2]
    assert {run.id for run in found[1].runs} == {run.id for run in runs["default_lora"]}


def test_arms_of_one_method_are_told_apart_by_what_separates_them(place):
    compared.run(place, "seeking", factorisation__rank=4)
    compared.run(place, "seeking", injection__mode="difference")
    compared.run(place, "default_lora", mapping__strategy="top")  # reads no mapping: the same arm as the next one
    compared.run(place, "default_lora", mapping__strategy="last")
    found = {g.label: g for g in groups_of(place)}
    assert set(found) == {
        "seeking (the method), rank 4, residual",
        "seeking (the method), rank 16, difference",
        "default LoRA",
    }
    assert found["default LoRA"].repeats == 1
    assert sorted(g.variant for g in found.values()) == [0, 0, 1]


def test_labels_stay_short_and_different(place):
    for number in range(3):
        compared.run(place, "seeking", student__source="/models/" + "x" * 300 + str(number))
    labels = [g.label for g in groups_of(place)]
    assert len(set(labels)) == 3
    assert max(map(len, labels)) <= 64


def test_other_settings_count_only_where_both_methods_read_them():
    one = RunSpec().with_changes({"injection.mode": "difference", "finetuning.epochs": 2})
    other = RunSpec().with_changes({"method": "default_lora", "seed": 3, "name": "x"})
    own, others, default = map(same.effective, (one, other, RunSpec()))
    assert same.differing(own, others) == ["finetuning.epochs"]
    assert same.differing(own, default) == ["finetuning.epochs", "injection.mode"]


def test_an_older_spec_that_names_the_same_modules_otherwise_is_the_same_arm(place):
    odd, plain = compared.run(place, "seeking"), compared.run(place, "seeking", seed=1)
    text = odd.file("spec.yaml").read_text()
    odd.file("spec.yaml").write_text(text.replace("  - all\n", "  - all\n  - attention\n"))
    [arm] = groups_of(place)
    assert arm.runs == (odd, plain)
    assert comparison.suggest([(run, run.spec()) for run in (odd, plain)]) == [odd, plain]
    assert comparison.computes(odd.spec()) == comparison.computes(plain.spec().with_changes({"seed": 0}))


@pytest.mark.parametrize(
    ("base", "changes", "same"),
    [
        ({"method": "default_lora"}, {"extraction.structure": "random", "mapping.strategy": "top"}, True),
        ({"method": "pissa"}, {"factorisation.split": "sqrt", "teacher.source": "bundled:kin"}, True),
        ({"method": "olora"}, {"extraction.origin": ["ffn"]}, False),
        ({"method": "random_offset"}, {"extraction.structure": "neuron"}, True),
        ({"method": "random_offset"}, {"extraction.seed": 1}, False),
        ({}, {"extraction.structure": "neuron"}, False),
        ({}, {"extraction.seed": 1, "mapping.seed": 2, "sensitivity.seed": 3}, True),
        ({"mapping.strategy": "random"}, {"mapping.seed": 2}, False),
        ({"extraction.structure": "random"}, {"extraction.seed": 2}, False),
        ({"sensitivity.selection": "random"}, {"sensitivity.seed": 2}, False),
        ({"finetuning.max_steps": 5}, {"finetuning.epochs": 9}, True),
        ({}, {"finetuning.epochs": 9}, False),
        ({}, {"name": "x", "finetuning.micro_batch_size": 8}, True),
        ({}, {"until": "extraction"}, False),
        ({"method": "default_lora"}, {"seed": 1}, False),
        ({"method": "default_lora", "task.source": "bundled:open_writing"}, {"teacher.source": "bundled:kin"}, False),
    ],
)
def test_what_a_run_computes_depends_on_what_it_reads(base, changes, same):
    one = RunSpec().with_changes(base)
    other = one.with_changes(changes)
    assert (comparison.computes(one) == comparison.computes(other)) == same


def test_tasks_that_the_teacher_judges_are_known():
    judged = [f"bundled:{name}" for name, info in TASKS.items() if info.scorer == "win_rate"]
    assert list(same._JUDGED) == judged


def states(run):
    return run.status().state


def test_a_run_that_is_there_answers_for_a_spec_that_computes_the_same(place):
    control = fabricate.run(place, "done", {"method": "default_lora", "extraction.structure": "random", "name": "x"})
    fabricate.run(place, "failed", {"seed": 1})
    fabricate.run(place, "stopping", {"seed": 1})
    waiting = fabricate.run(place, "queued", {"method": "pissa"})
    running = fabricate.run(place, "running", {"method": "pissa"})
    known = [(run, run.spec()) for run in list_runs(place)]
    wanted = [
        RunSpec().with_changes(c)
        for c in (
            {"method": "default_lora"},
            {"seed": 1},
            {"method": "pissa"},
            {"method": "default_lora", "references": ["student", "teacher"]},
            {"method": "default_lora", "until": "sensitivity"},
        )
    ]
    assert comparison.there_already(wanted, known, states) == [control, None, running, None, None]
    known = [(run, spec) for run, spec in known if run != running]
    assert comparison.there_already(wanted[2:3], known, states) == [waiting]
    assert comparison.there_already(wanted[2:3], known, lambda _: "") == [None]


def test_a_run_whose_data_was_written_since_answers_for_nothing(place, tmp_path):
    file = tmp_path / "data.jsonl"
    file.write_text("{}")
    changes = {"method": "default_lora", "task.source": str(file)}
    run = fabricate.run(place, "done", changes)
    status = json.loads(run.file("status.json").read_text())
    for started, found in ((time.time() + 60, run), (time.time() - 60, None)):
        run.file("status.json").write_text(json.dumps(status | {"started": started}))
        assert comparison.there_already([run.spec()], [(run, run.spec())], states) == [found]
    unread = RunSpec().with_changes({"method": "default_lora", "teacher.source": str(tmp_path)})
    other = fabricate.run(place, "done", {"method": "default_lora", "teacher.source": str(tmp_path)})
    assert comparison.there_already([unread], [(other, other.spec())], states) == [other]


def test_missing_seeds_are_those_that_make_three_in_every_arm(place):
    arms_ = [RunSpec().with_changes({"seed": 1, "method": method}) for method in ("seeking", "default_lora")]
    runs = [
        fabricate.run(place, "done", {"method": m, "seed": s})
        for m, s in (("seeking", 1), ("default_lora", 1), ("default_lora", 7))
    ]
    known = [(run, run.spec()) for run in runs]
    missing = comparison.missing_seeds(arms_, known, states)
    assert [(spec.method, spec.seed) for spec in missing] == [("seeking", 7), ("seeking", 2), ("default_lora", 2)]
    runs += [fabricate.run(place, "queued", {"method": spec.method, "seed": spec.seed}) for spec in missing]
    assert comparison.missing_seeds(arms_, [(run, run.spec()) for run in runs], states) == []


def test_the_suggestion_is_the_newest_run_with_all_that_ask_the_same(place):
    compared.run(place, "pissa", finetuning__epochs=9)
    runs = compared.study(place, seeds=2)
    known = [(run, run.spec()) for same in runs.values() for run in same]
    odd = [(run, run.spec()) for run in list_runs(place) if run.spec().finetuning.epochs == 9]
    assert {run.id for run in comparison.suggest([*known, *odd])} == {run.id for run, _ in known}
    assert comparison.suggest([]) == []


def test_differences_are_paired_adjusted_and_said(place):
    compared.study(place)
    found = groups_of(place)
    base = found[1]
    rows = {c.arm.label: c for c in comparison.contrasts(found, base, "number_match")}
    assert set(rows) == {"seeking (the method)", "PiSSA"}
    method = rows["seeking (the method)"]
    shares = [{p["id"]: p["score"] for p in g.runs[0].predictions() if p["scorer"] == "number_match"} for g in found]
    assert method.result.n == compared.N
    assert shares[0].keys() == shares[1].keys()
    by_hand = [studies.score_of(run, "number_match")["value"] for g in found[:2] for run in g.runs]
    assert method.result.difference == pytest.approx(sum(by_hand[:3]) / 3 - sum(by_hand[3:]) / 3)
    assert method.p_adjusted == pytest.approx(min(1, 2 * method.result.p_value))  # the smaller of two
    assert method.says.startswith("+")
    assert "Holm-adjusted p" in method.says
    assert rows["PiSSA"].says.startswith("No difference was found: ")
    assert comparison.contrasts(found, base, "rouge_l")[0].result.difference == pytest.approx(
        method.result.difference / 4
    )


def test_perplexities_are_paired_by_the_nats_of_each_example(place):
    for method, nats in (("seeking", 2.0), ("default_lora", 2.5)):
        run = compared.run(place, method)
        lines = [{"scorer": "perplexity", "id": f"t/{i}", "score": nats + 0.1 * (i % 3)} for i in range(30)]
        run.file("predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        score = {"scorer": "perplexity", "value": math.exp(nats), "low": 1.0, "high": 20.0, "n": 30, "unit": "ppl"}
        run.file("result.json").write_text(json.dumps({**run.result(), "scores": [score]}))
    found = groups_of(place)
    [row] = comparison.contrasts(found, found[1], "perplexity")
    assert row.result.difference == pytest.approx(-0.5)
    assert row.unit == "nats per token"
    assert row.says.startswith("-0.500 nats per token")
    assert any("lower is better" in part for part in row.cautions)


def test_nats_that_are_all_alike_have_no_interval_anywhere(place):
    for method in ("seeking", "default_lora"):
        run = compared.run(place, method)
        lines = [{"scorer": "perplexity", "id": f"t/{i}", "score": 2.0 + 0.1 * (i % 3)} for i in range(30)]
        run.file("predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        score = {"scorer": "perplexity", "value": 8.2, "low": 1.0, "high": 20.0, "n": 30, "unit": "ppl"}
        run.file("result.json").write_text(json.dumps({**run.result(), "scores": [score]}))
    found = groups_of(place)
    [row] = comparison.contrasts(found, found[1], "perplexity")
    assert (row.result.difference, row.result.low, row.result.high) == (0.0, None, None)
    assert row.says == "No difference was seen, and nothing bounds one (30 examples, all alike)."
    assert difference_forest([row]).data
    assert "<td class=n>none</td>" in html_report(found)


def test_what_stands_in_the_way_is_said(place):
    compared.run(place, "seeking", 0, 0.6, factorisation__rank=4)
    compared.run(place, "default_lora", 1, 0.4, n=40)
    found = groups_of(place)
    [row] = comparison.contrasts(found, found[1], "number_match")
    words = "; ".join(row.cautions)
    for part in ("factorisation.rank also differs", "only 40 of 60 test examples", "are few", "no seed is shared"):
        assert part in words
    compared.run(place, "seeking", 1, 0.6, factorisation__rank=4)
    found = groups_of(place)
    [row] = comparison.contrasts(found, found[1], "number_match")
    assert row.seeds == 1
    assert "only 1 of 2 seeds are in both arms" in row.cautions


def amend(run, **parts):
    result = run.result()
    for name, values in parts.items():
        result[name] = {**(result.get(name) or {}), **values}
    run.file("result.json").write_text(json.dumps(result))


def test_a_file_that_changed_between_seeds_makes_another_arm(place):
    first, second = compared.run(place, "default_lora", 0), compared.run(place, "default_lora", 1)
    amend(first, fingerprints={"teacher": "1" * 64})
    amend(second, fingerprints={"teacher": "2" * 64})  # default LoRA reads no teacher
    [whole] = groups_of(place)
    assert whole.seeds == (0, 1)
    amend(second, fingerprints={"train": "c" * 64, "student": "d" * 64})
    assert {g.label for g in groups_of(place)} == {
        "default LoRA, student aaaaaa",
        "default LoRA, student dddddd, train cccccc",
    }
    for run in (first, second):  # older runs say nothing of their content
        run.file("result.json").write_text(json.dumps({**run.result(), "fingerprints": None}))
    assert [g.seeds for g in groups_of(place)] == [(0, 1)]


def test_content_and_machine_are_compared_over_all_seeds(place):
    runs = compared.study(place, seeds=2)
    found = groups_of(place)
    before = "; ".join(part for row in comparison.contrasts(found, found[1], "number_match") for part in row.cautions)
    assert "not the same" not in before and "computed with" not in before
    for run in runs["seeking"]:
        amend(run, fingerprints={"train": "1" * 64}, machine={"device": "cuda", "dtype": "bfloat16"})
    for run in runs["default_lora"]:
        amend(run, fingerprints={"train": "2" * 64}, machine={"device": "cpu", "dtype": "float32"})
    found = groups_of(place)
    rows = comparison.contrasts(found, found[1], "number_match")
    assert "the training examples are not the same" in rows[0].cautions
    assert "computed with another device and dtype, which may change numbers" in rows[0].cautions
    assert "not the same" not in "; ".join(rows[1].cautions)
    amend(runs["seeking"][1], machine={"device": "cpu", "dtype": "float32"})
    amend(runs["seeking"][0], machine={"device": "cpu", "dtype": "float32"})
    amend(runs["default_lora"][1], machine={"device": "mps"})  # only the second seed
    rows = comparison.contrasts(groups_of(place), found[1], "number_match")
    assert "computed with another device, which may change numbers" in rows[0].cautions


def test_an_arm_that_shares_no_example_leaves_the_others_their_differences(place):
    runs = compared.study(place, seeds=1)
    rename_examples(runs["pissa"][0])
    found = groups_of(place)
    rows = {c.arm.label: c for c in comparison.contrasts(found, found[1], "number_match")}
    assert "share no test example" in rows["PiSSA"].says
    assert rows["PiSSA"].result is None
    assert rows["seeking (the method)"].result.n == compared.N


def rename_examples(run):
    file = run.file("predictions.jsonl")
    file.write_text(file.read_text().replace('"test/', '"other/'))


def test_scores_come_with_their_seeds_and_the_untouched_models_once(place):
    compared.study(place, seeds=2)
    found = groups_of(place)
    rows = comparison.score_rows(found, "rouge_l")
    assert [row["method"] for row in rows][:3] == ["seeking", "default_lora", "pissa"]
    assert [len(row["points"]) for row in rows[:3]] == [2, 2, 2]
    assert rows[0]["value"] == pytest.approx(sum(rows[0]["points"]) / 2)
    assert all(row["method"] == "student" for row in rows[3:])
    assert comparison.scorers(found) == ["number_match", "rouge_l"]
    assert comparison.scored_by(found, "perplexity") == []
    with pytest.raises(RunError, match="was not scored by perplexity"):
        comparison.score_rows(found, "perplexity")


def test_settings_that_differ_leave_out_what_a_method_does_not_read(place):
    compared.run(place, "seeking", factorisation__rank=4)
    compared.run(place, "default_lora")
    found = comparison.settings_that_differ(groups_of(place))
    assert dict(found) == {"factorisation.rank": [4, 16], "method": ["seeking", "default_lora"]}


def test_answers_side_by_side_are_gained_lost_or_the_same():
    def record(name, score, output):
        return {"id": name, "scorer": "s", "score": score, "output": output, "prompt": "p", "reference": "r"}

    one = [record("a", 0, "x"), record("b", 1, "x"), record("c", 1, "x"), record("gone", 1, "x"), {"id": "a"}]
    other = [record("c", 1, "y"), record("b", 0, "y"), record("a", 1, None)]
    rows = comparison.side_by_side(one, other, "s")
    assert [(row["id"], row["kind"]) for row in rows] == [("a", "gained"), ("b", "lost"), ("c", "same")]
    assert (rows[0]["output_a"], rows[0]["output_b"]) == ("x", "")
    assert [row["kind"] for row in comparison.side_by_side(one, other, "s", lower_is_better=True)] == [
        "lost",
        "gained",
        "same",
    ]


def test_answers_to_another_example_of_the_same_id_do_not_stand_side_by_side():
    one = [{"id": str(i), "scorer": "s", "score": 0, "prompt": f"p{i}", "reference": "r"} for i in range(3)]
    other = [dict(one[0]), {**one[1], "prompt": "another"}, {"id": "2", "scorer": "s", "score": 1}]
    assert [row["id"] for row in comparison.side_by_side(one, other, "s")] == ["0", "2"]


def test_published_gains_stand_only_beside_the_same_question(place):
    compared.study(place, seeds=1)
    found = groups_of(place)
    lora = next(g for g in found if g.method == "default_lora")
    pissa = next(g for g in found if g.method == "pissa")
    rows = comparison.contrasts(found, lora, "number_match")
    assert comparison.published(rows, lora, "number_match")[0] == ("seeking (the method)", "GSM8K, 13B → 7B", 1.47)
    assert comparison.published(rows, pissa, "number_match") == []
    assert comparison.published(rows, lora, "perplexity") == []


@pytest.mark.parametrize(
    ("p", "text"), [(None, "–"), (0.0001, "< 0.001"), (0.0123, "0.012"), (0.21, "0.21"), (1.0, "1.00")]
)
def test_p_values_as_people_write_them(p, text):
    assert comparison.p_text(p) == text


def test_an_interval_beside_zero_is_not_enough_after_several_comparisons():
    arm = comparison.Arm("k", "m", "seeking", 0, RunSpec(), (), ())
    result = PairedResult(0.3, 0.09, 0.51, 60, 0.03, "2 seeds")
    contrast = comparison.Contrast(arm, "share", 60, 2, result)
    [alone] = comparison.adjust([contrast])
    assert alone.says.startswith("+30.0 points")
    first, other = comparison.adjust([contrast, replace(contrast, result=replace(result, p_value=0.9))])
    assert first.p_adjusted == pytest.approx(0.06)
    assert first.says.startswith("Not told from chance: +30.0 points")
    assert "Holm-adjusted p = 0.060" in first.says
    assert other.p_adjusted == pytest.approx(0.9)
    assert first.result == result  # what is said of it changes nothing in it


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.0213, "share", "+2.1"), (-0.0001, "share", "+0.0"), (None, "share", "–"), (-0.5, "nats per token", "-0.500")],
)
def test_differences_carry_their_sign(value, unit, text):
    assert comparison.points_text(value, unit) == text
