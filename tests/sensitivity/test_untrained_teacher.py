"""An untrained teacher is measured and cut like any other: held whole or streamed, of any family, in a whole run."""

import pytest
import torch

from paraknow_core.adapters.export import step0_identity
from paraknow_core.errors import RunError
from paraknow_core.files.json_file import read_json
from paraknow_core.methods import method, wanted
from paraknow_core.methods.mapping import map_layers
from paraknow_core.methods.plan import plan_transfer
from paraknow_core.methods.start import start_adapter
from paraknow_core.paths import workspace
from paraknow_core.pipeline import execute
from paraknow_core.runs.lifecycle import create_run
from paraknow_core.sensitivity.measure import sensitivity
from paraknow_core.settings import Settings
from tests.marking import mostly_slow

UNTRAINED = {"teacher.untrained": 7}


@pytest.fixture
def measured(make_context, tiny, tmp_path):
    """Return `measured(family, streaming, **changes)`: a context in a workspace of its own, and its store."""

    def get(family, streaming, keep="full", **changes):
        place = workspace(tmp_path / f"{streaming}{keep}{sorted(changes)}")
        context = make_context(tiny(family), {**UNTRAINED, "sensitivity.samples": 2, **changes}, place=place)
        context.settings = Settings(threads=1, dtype="float32", streaming=streaming, keep=keep)
        return context, sensitivity(context, wanted(context))

    return get


@pytest.mark.parametrize("family", mostly_slow(["llama", "gpt2"], "llama"))
def test_streamed_and_held_whole_give_the_same_numbers_and_a_sound_start(family, measured, tiny, tmp_path):
    own = {"teacher.source": tiny(family)}
    whole, other = measured(family, "never", **own), measured(family, "always", **own)
    assert other[1].totals["plan"]["way"] == "streamed" and whole[1].totals["plan"]["way"] == "resident"
    assert whole[1].totals["teacher"].endswith("(untrained, seed 7)")
    for name, parameter in whole[1].totals["parameters"].items():
        sums = [store.full(name, "pt") for _, store in (whole, other)]
        torch.testing.assert_close(*sums, rtol=1e-4, atol=1e-5 * parameter["sum"], msg=name)
    context, store = other
    plan = plan_transfer(context, map_layers(context.spec.mapping, context, store))
    started = start_adapter(context, method("seeking"), store, plan, tmp_path)
    samples = context.encode(context.task.split("test")[:3], context.student)
    assert step0_identity(started.peft_model, context.student.load(), samples)["evaluation"]["passed"]
    assert read_json(tmp_path / "extraction.json")["teacher"].endswith("(untrained, seed 7)")


def test_it_is_another_teacher_than_the_trained_one(measured):
    numbers = [measured("llama", "never", **{"teacher.untrained": seed})[1].totals["key"] for seed in (None, 7, 8)]
    assert len(set(numbers)) == 3


@pytest.mark.parametrize("name", mostly_slow(["least_sensitive", "permuted", "spectrum_matched"], "least_sensitive"))
def test_controls_need_no_more_than_reductions(name, measured, tmp_path):
    results = []
    for streaming, keep in (("never", "full"), ("always", "reductions")):
        context, store = measured("llama", streaming, keep, method=name)
        assert store.has_full == (keep == "full")
        plan = plan_transfer(context, map_layers(context.spec.mapping, context, store))
        folder = tmp_path / f"start {streaming}"
        folder.mkdir()
        start_adapter(context, method(name), store, plan, folder)
        record = read_json(folder / "extraction.json")
        results.append({m: (e["top_left"], e["teacher_layer"]) for m, e in record["modules"].items()})
        values = torch.tensor([e["singular_values"] for e in record["modules"].values()])
        assert values.isfinite().all() and values.max() > 0
    assert results[0] == results[1]


def test_what_the_usual_methods_keep_has_the_same_name_as_ever(make_context, tiny):
    """So that a sensitivity of which only reductions were kept goes on answering."""
    keys = {request.key.split()[0] for request in wanted(make_context(tiny("llama")))}
    assert keys == {"submatrix", "row_column"}
    least = {request.key.split()[0] for request in wanted(make_context(tiny("llama"), {"method": "least_sensitive"}))}
    assert least == keys | {"least_sensitive"}


def test_a_run_with_both_controls_says_so_and_resumes_only_with_the_same_samples(make_context, tiny, tmp_path):
    other = tmp_path / "other.jsonl"
    lines = [f'{{"question": "say {n}", "answer": "{n} it is"}}\n' for n in range(6)]
    other.write_text("".join(lines))
    changes = {"until": "extraction", "sensitivity.task": str(other), "sensitivity.samples": 3}
    place = workspace(tmp_path / "workspace")
    run = create_run(place, make_context(tiny("llama"), UNTRAINED | changes).spec)
    result = execute(run, place, Settings(threads=1, dtype="float32"))
    assert "the seed samples are of the task other, not of the run's own" in result["warnings"]
    totals = read_json(run.file("sensitivity.json"))
    assert (totals["task"], totals["sample_ids"]) == ("other", ["other:1", "other:2", "other:3"])
    assert read_json(run.file("extraction.json"))["teacher"].endswith("(untrained, seed 7)")
    said = [event["message"] for event in run.events() if event["event"] == "untrained"]
    assert len(said) == 1 and "making its random weights takes" in said[0] and "of the workspace's disk" in said[0]
    other.write_text("".join(reversed(lines)))
    with pytest.raises(RunError, match=r"resume: .*the examples of sensitivity\.task"):
        execute(run, place, Settings(threads=1, dtype="float32"))
