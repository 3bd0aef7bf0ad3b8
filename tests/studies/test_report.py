"""The methods of a study in words: every sentence is there when it is true, and only then."""

import hashlib
from dataclasses import replace
from io import BytesIO
from types import SimpleNamespace

import pandas
import pytest

from paraknow_core.errors import RunError
from paraknow_core.studies.presets import PRESETS
from paraknow_core.studies.report import methods_text, records_parquet, records_table
from paraknow_core.studies.study import StudySpec, scored_cells, tuning_cells
from tests.studies import made

STRUCTURE = PRESETS["structure"].make(None, "pocket")
PLAIN = StudySpec(arms=("default_lora", "seeking"))


def with_groups(outcome, **changes):
    """Return an outcome whose last group is another."""
    *rest, last = outcome.groups
    return replace(outcome, groups=[*rest, replace(last, **changes)])


def test_a_whole_study_says_what_was_done():
    text = methods_text(made.outcome(STRUCTURE))
    for part in (
        "Seeking (the method) was compared with default LoRA on the task word problems",
        "teacher: teacher, student: stranger.",
        "Varied was the structure: submatrix; row column;",
        "same in all: rank 16, modules (all), batches of 16, 48 optimiser steps, 9,000 training tokens.",
        "Each arm trained as many parameters as default LoRA.",
        "6 seeds set initialisation, blocks and mappings drawn at random, and the order of the data.",
        "paired by seed and by test example (400 a run)",
        "by the validation loss after training (1 seed); the test split had no part in it",
        "lies within 1.0 points either way, the margin declared before the runs",
        "judged by itself, and not with the other points",
        "The spread of seeds is pooled over arms (10 degrees of freedom).",
        "The smallest effect that such a study detects in four of five cases is 2.6 points.",
        "shown for 1 pair and 1 task alone",
        "Pocket size: 400 test examples",
        "Hu et al., ICLR 2022",
    ):
        assert part in text, part
    for part in ("edge", "failed", "not finished", "not tuned", "Not of equal budget", "Holm", "cannot", "differed"):
        assert part not in text, part


@pytest.mark.parametrize(
    ("outcome", "said", "unsaid"),
    [
        (made.outcome(PLAIN), "Learning rates were not tuned (all 0.000300)", "chosen from a grid"),
        (
            made.outcome(PRESETS["learning_rates"].make(None, "pocket")),
            "The learning rate was varied, not chosen",
            "were not tuned",
        ),
        (
            made.outcome(PLAIN.model_copy(update={"seeds": (0, 1, 2)})),
            "With 3 seeds no test over seeds can reach 5 %, so that everything is undecided.",
            "not finished",
        ),
        (made.outcome(PLAIN, done=0), "Nothing is judged yet", "sign-flip"),
        (made.outcome(PLAIN, done=0), "Learning rates", "as many parameters"),
        (
            with_groups(made.outcome(PLAIN), keeps_student=False),
            "Changed before the first step, unlike the others: the student of seeking (the method).",
            "edge",
        ),
        (
            made.outcome(PRESETS["origin"].make(None, "pocket", {"hold": ["steps", "parameters"]})),
            "same in all: batches of 16",
            "rank 16",
        ),
        (with_groups(made.outcome(PLAIN), rate=1e-2), "not tuned (all 0.0100)", "0.000300"),
        (made.outcome(PLAIN, done=4), "The study is not finished: 4 scored runs of 12 are missing.", "With 4 seeds"),
        (
            with_groups(made.outcome(PLAIN), states=dict.fromkeys(range(5), "done") | {5: "failed"}),
            "1 scored run of 12 failed and is left out.",
            "not finished",
        ),
        (
            with_groups(made.outcome(PLAIN), equal=False, note="3 times the parameters"),
            "Not of equal budget: seeking (the method) (3 times the parameters).",
            "as many parameters",
        ),
        (
            with_groups(made.outcome(PLAIN), budget={"steps": 24}),
            "The number of optimiser steps differed: 24 to 48.",
            "48 optimiser steps",
        ),
        (
            with_groups(made.outcome(STRUCTURE), rate_at_edge=True),
            "At the edge of its grid lies the best rate of seeking (the method),",
            "not tuned",
        ),
        (
            with_groups(made.outcome(PLAIN), verdict=made.verdict(comparisons=4)),
            "after Holm's correction for 4 comparisons",
            "other points",
        ),
        (
            with_groups(made.outcome(PLAIN), verdict=made.verdict(smallest_detectable=None)),
            "all else is undecided",
            "smallest effect",
        ),
        (
            made.outcome(StudySpec(arms=("default_lora", "difference"))),
            "Changed before the first step, unlike the others: the student of seeking, difference.",
            "order of the data was",
        ),
        (
            made.outcome(PLAIN.model_copy(update={"base": PLAIN.base.with_changes({"finetuning.seed": 7})})),
            "the order of the data was seed 7's in all",
            "and the order of the data.",
        ),
        (made.outcome(PRESETS["table1"].make()), "shown for 1 pair and 4 tasks alone", "on the task"),
        (
            made.outcome(PRESETS["teacher_scale"].make()),
            "The smaller bundled teacher has the student's own size",
            "for 1 pair",
        ),
        (
            made.outcome(PLAIN, versions={"torch": ["2.13.0"], "peft": ["0.21.1", "0.21.2"]}),
            "Made with torch 2.13.0, peft 0.21.1 and 0.21.2.",
            "Varied",
        ),
        (made.outcome(StudySpec(arms=("default_lora",))), "Only one arm was run: default LoRA", "same point"),
    ],
)
def test_sentences_follow_from_the_outcome(outcome, said, unsaid):
    text = methods_text(outcome)
    assert said in text
    assert unsaid not in text


class Run:
    """A run folder with two records, or with a linked file."""

    def __init__(self, path, number):
        self.path, self.id = path / str(number), str(number)
        self.path.mkdir()

    def predictions(self):
        for name, score in (("a", 1.0), ("b", 0.0)):
            yield {"scorer": "number_match", "id": name, "prompt": "2 + 2", "output": "4", "score": score}


def folder(tmp_path):
    study = PRESETS["structure"].make(None, "pocket", {"seeds": [0, 1]})
    cells = [*list(tuning_cells(study))[:2], *list(scored_cells(study))[:5]]
    runs = [Run(tmp_path, number) for number in range(len(cells))]
    states = ["done"] * (len(cells) - 2) + ["failed", "done"]
    found = [
        SimpleNamespace(cell=cell, run=run, state=state)
        for cell, run, state in zip(cells, [*runs[:-1], None], states, strict=True)
    ]
    return SimpleNamespace(id="made", cells=lambda: found)


def test_records_are_one_row_a_run_and_example(tmp_path):
    place = folder(tmp_path)
    table = pandas.read_parquet(BytesIO(records_parquet(place)))
    assert len(table) == 3 * 2  # tuning, failed and waiting runs have no scores
    assert list(table["example"][:2]) == ["a", "b"] and list(table["score"][:2]) == [1.0, 0.0]
    assert table["prompt_sha256"][0] == hashlib.sha256(b"2 + 2").hexdigest()
    assert list(table["extraction.structure"].unique()) == ["submatrix", "row column", "neuron"]
    assert {"group", "arm", "seed", "rate", "run", "scorer", "output"} <= set(table.columns)


def test_records_of_a_study_without_runs_or_with_a_link_are_refused(tmp_path):
    with pytest.raises(RunError, match="no run is done yet"):
        records_parquet(SimpleNamespace(id="made", cells=list))
    place = folder(tmp_path)
    (tmp_path / "2" / "predictions.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="link"):
        records_table(place)
