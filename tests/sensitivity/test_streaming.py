"""Sensitivity layer by layer against the whole model in memory; kept choices against the whole sensitivity."""

import json
import os
import shutil
import subprocess
import sys
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from paraknow_core.context import Context, Model, Silent
from paraknow_core.errors import DataError, ModelError, NumericError, RunError
from paraknow_core.methods import method, wanted
from paraknow_core.methods.mapping import map_layers
from paraknow_core.methods.plan import plan_transfer
from paraknow_core.methods.start import start_adapter
from paraknow_core.paths import PROJECT_ROOT, workspace
from paraknow_core.runs.writer import StopRequested
from paraknow_core.sensitivity import measure as stage
from paraknow_core.sensitivity import streaming
from paraknow_core.sensitivity.build import StoreBuilder
from paraknow_core.sensitivity.measure import measure, plan_for, sensitivity
from paraknow_core.sensitivity.store import FULL
from paraknow_core.settings import Settings
from paraknow_core.spec import ModelSpec
from tests.marking import mostly_slow
from tests.tiny_models import FAMILIES, edit_weights

CASES = [
    *((family, {}) for family in FAMILIES),
    ("llama", {"tie_word_embeddings": True, "pad_token_id": 2}),
    ("llama", {"shard_size": "20KB", "dtype": "bfloat16"}),
    ("llama", {"num_hidden_layers": 5, "hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 1}),
    ("gpt2", {"tie_word_embeddings": False}),
    ("opt", {"word_embed_proj_dim": 16}),
    ("opt", {"do_layer_norm_before": False}),
    ("gemma2", {"sliding_window": 8}),
    ("gemma3_text", {"sliding_window": 8, "pad_token_id": 2}),
    ("qwen2", {"tie_word_embeddings": True}),
]
# Plain and tied, transposed and fused weights, layers that look at a window.
QUICK = [("llama", {}), ("gpt2", {}), ("phi3", {}), ("gemma2", {"sliding_window": 8})]


def seed_samples(lengths=(17, 30, 30, 9)):
    """Random tokens, among them one that some models take for filling; the second half is supervised."""
    generator = torch.Generator().manual_seed(3)
    made = []
    for number, length in enumerate(lengths):
        ids = torch.randint(0, 259, (length,), generator=generator).tolist()
        ids[2] = 2
        labels = [-100] * (length // 2) + ids[length // 2 :]
        made.append(SimpleNamespace(id=str(number), input_ids=ids, labels=labels))
    return made


def measured(folder, work, *, streaming, full=True, report=None, **settings):
    """Measure a teacher on the seed samples and return its store's files."""
    chosen = Settings(threads=1, device="cpu", streaming=streaming, keep="full" if full else "reductions", **settings)
    teacher = Model(ModelSpec(source=folder), chosen, workspace(work))
    work.mkdir(exist_ok=True)
    plan = plan_for(teacher, chosen, seed_samples())
    measure(teacher, seed_samples(), work, report or Silent(), {}, plan=plan, full=full)
    return work / "store"


def assert_same(found, expected, *, relative=1e-6, element=1e-5):
    """Compare sums of each tensor, and each element with the tensor's largest.

    Where softmax makes a gradient vanish (biases of keys), what is left is rounding; it is compared with the model's
    typical sum.
    """
    assert set(found) == set(expected)
    typical = sorted(t.double().sum().item() for t in expected.values())[len(expected) // 2]
    for name, want in expected.items():
        total = want.double().sum().item()
        assert found[name].double().sum().item() == pytest.approx(total, rel=relative, abs=1e-6 * typical), name
        room = max(element * want.max().item(), 1e-6 * typical)
        assert (found[name] - want).abs().max().item() <= room, name


@pytest.mark.parametrize(
    ("family", "overrides"), mostly_slow(CASES, *QUICK), ids=lambda v: v if isinstance(v, str) else ",".join(v)
)
def test_streamed_is_what_the_whole_model_gives(family, overrides, tiny, tmp_path):
    folder = tiny(family, **overrides)
    expected = measured(folder, tmp_path / "whole", streaming="never")
    found = measured(folder, tmp_path / "streamed", streaming="always")
    assert_same(load_file(found / FULL), load_file(expected / FULL))
    totals, wanted = (json.loads((store / "sensitivity.json").read_text()) for store in (found, expected))
    assert totals["losses"] == pytest.approx(wanted["losses"], rel=1e-6)
    assert totals["layers"] == pytest.approx(wanted["layers"], rel=1e-6)
    assert totals["modules"].keys() == wanted["modules"].keys()
    assert (totals["plan"]["way"], wanted["plan"]["way"]) == ("streamed", "resident")
    reductions = load_file(found / "reductions.safetensors")
    wanted_reductions = load_file(expected / "reductions.safetensors")
    typical = sorted(tensor.max().item() for tensor in wanted_reductions.values())[len(wanted_reductions) // 2]
    for name, tensor in wanted_reductions.items():  # the same room as above: some weights' S is rounding alone
        room = 1e-6 * max(tensor.max().item(), typical)
        torch.testing.assert_close(reductions[name], tensor, rtol=1e-4, atol=room)


@pytest.mark.parametrize(
    ("family", "overrides"),
    mostly_slow(
        [("llama", {"tie_word_embeddings": True}), ("phi", {"tie_word_embeddings": True}), ("gpt2", {})],
        ("phi", {"tie_word_embeddings": True}),
    ),
)
def test_sixteen_bits_and_a_tied_output_layer_with_a_bias(family, overrides, tiny, tmp_path):
    folder = tiny(family, **overrides)
    expected = measured(folder, tmp_path / "whole", streaming="never", dtype="bfloat16")
    found = measured(folder, tmp_path / "streamed", streaming="always", dtype="bfloat16")
    assert_same(load_file(found / FULL), load_file(expected / FULL), relative=0.05, element=0.2)


def test_a_checkpoint_that_is_not_whole_is_refused_before_it_is_read(tiny, tmp_path):
    def broken(name, change):
        folder = tmp_path / name
        shutil.copytree(tiny("llama", tie_word_embeddings=name == "tied"), folder)
        edit_weights(folder, change)
        return str(folder)

    for name, change, says in (
        ("lacks", lambda t: {k: v for k, v in t.items() if k != "model.norm.weight"}, "lacks model.norm.weight"),
        ("unknown", lambda t: t | {"lm_head.bias": torch.zeros(259)}, "holds unknown lm_head.bias"),
        ("shape", lambda t: t | {"model.layers.1.input_layernorm.weight": torch.ones(31)}, "has shape \\(31,\\)"),
        ("tied", lambda t: t | {"lm_head.weight": torch.ones(259, 32)}, "ties the embeddings, but the file holds"),
    ):
        with pytest.raises(ModelError, match=says):
            measured(broken(name, change), tmp_path / f"work-{name}", streaming="always")


@pytest.mark.parametrize("family", mostly_slow(FAMILIES, "gpt2", "qwen2"))
def test_samples_of_different_lengths_go_through_a_layer_together(family, tiny, tmp_path, monkeypatch):
    folder = tiny(family)
    expected = measured(folder, tmp_path / "whole", streaming="never")
    monkeypatch.setattr(streaming, "BATCH_WEIGHTS", 1)
    monkeypatch.setattr(streaming, "BATCH_TOKENS", 61)
    batches = []
    original = streaming.Stream.run
    monkeypatch.setattr(streaming.Stream, "run", lambda self: (batches.extend(self.batches), original(self))[1])
    found = measured(folder, tmp_path / "streamed", streaming="always")
    assert batches == [[3, 0], [1, 2]]  # of like length, as many as fit
    assert_same(load_file(found / FULL), load_file(expected / FULL), relative=1e-5, element=1e-4)


DYNAMIC_ROPE = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "original_max_position_embeddings": 16,
    "factor": 4.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 3.0, 4.0, 5.0],
}


@pytest.mark.parametrize(
    ("family", "overrides", "wanted"),
    mostly_slow(
        [
            ("gemma3_text", {"use_bidirectional_attention": True}, [[0], [1], [2], [3]]),
            ("phi3", {"rope_parameters": LONG_ROPE, "original_max_position_embeddings": 16}, [[0], [1, 2], [3]]),
            ("llama", {"rope_parameters": DYNAMIC_ROPE, "max_position_embeddings": 16}, [[0], [1, 2], [3]]),
        ],
        ("llama", {"rope_parameters": DYNAMIC_ROPE, "max_position_embeddings": 16}, [[0], [1, 2], [3]]),
    ),
)
def test_samples_that_filling_would_change_go_through_a_layer_alone(
    family, overrides, wanted, tiny, tmp_path, monkeypatch
):
    folder = tiny(family, **overrides)
    expected = measured(folder, tmp_path / "whole", streaming="never")
    monkeypatch.setattr(streaming, "BATCH_WEIGHTS", 1)
    monkeypatch.setattr(streaming, "BATCH_TOKENS", 61)
    batches = []
    original = streaming.Stream.backward
    monkeypatch.setattr(streaming.Stream, "backward", lambda self, i: (batches.append(self.batches), original(self, i)))
    found = measured(folder, tmp_path / "streamed", streaming="always")
    assert sorted(batches[0]) == wanted
    assert_same(load_file(found / FULL), load_file(expected / FULL), relative=1e-5, element=1e-4)


class StopsAfter(Silent):
    """Stops the measurement at the n-th place where that is possible, or kills the process there."""

    def __init__(self, places, kill=False):
        self.left, self.kill, self.seen = places, kill, []

    def progress(self, done, total, message=""):
        self.seen.append(message)

    def check_stop(self):
        self.left -= 1
        if self.left == 0:
            if self.kill:
                os.kill(os.getpid(), 9)
            raise StopRequested


@pytest.mark.parametrize(
    ("places", "tied"), mostly_slow(product([3, 10, 15, 19, 23], [False, True]), (3, True), (19, False))
)
def test_a_stopped_measurement_goes_on_where_it_was(places, tied, tiny, tmp_path):
    folder = tiny("llama", tie_word_embeddings=tied)
    whole = measured(folder, tmp_path / "whole", streaming="always")
    with pytest.raises(StopRequested):
        measured(folder, tmp_path / "stopped", streaming="always", report=StopsAfter(places))
    done = json.loads((tmp_path / "stopped/progress.json").read_text())["done"] if places > 4 else 0
    rest = StopsAfter(-1)
    store = measured(folder, tmp_path / "stopped", streaming="always", report=rest)
    for name in (FULL, "reductions.safetensors"):
        one, two = load_file(whole / name), load_file(store / name)
        assert all(torch.equal(one[key], two[key]) for key in one)
    every = [
        "layer 0 of 2 forward",
        "layer 1 of 2 forward",
        "output layer",
        "layer 1 of 2 backward",
        "layer 0 of 2 backward",
        "embedding",
    ]
    assert list(dict.fromkeys(rest.seen))[:-1] == every[done:]


@pytest.mark.parametrize("durable", mostly_slow([False, True], True))
def test_a_crash_of_the_machine_counts_what_the_disk_has(durable, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "SYNC_WEIGHTS", 0 if durable else 1 << 60)
    folder = tiny("llama")
    whole = measured(folder, tmp_path / "whole", streaming="always")
    with pytest.raises(StopRequested):
        measured(folder, tmp_path / "crashed", streaming="always", report=StopsAfter(17))
    assert json.loads((tmp_path / "crashed/progress.json").read_text())["done"] >= 3
    monkeypatch.setattr(streaming, "boot_id", lambda: "the next one")
    rest = StopsAfter(-1)
    store = measured(folder, tmp_path / "crashed", streaming="always", report=rest)
    assert ("layer 0 of 2 forward" in rest.seen) != durable
    one, two = load_file(whole / FULL), load_file(store / FULL)
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_wait_for_the_disk_is_for_large_layers_on_a_processor():
    large = streaming.SYNC_WEIGHTS
    assert streaming.outlasts_the_disk("cpu", large) and not streaming.outlasts_the_disk("cpu", large - 1)
    assert not streaming.outlasts_the_disk("cuda", 40 * large)


@pytest.mark.slow
def test_a_killed_measurement_loses_one_layer_at_most(tiny, chat_file, tmp_path):
    folder, place = tiny("llama", num_hidden_layers=4), tmp_path / "place"
    arguments = [
        "--teacher",
        folder,
        "--data",
        str(chat_file),
        "--samples",
        "4",
        "--streaming",
        "always",
        "--threads",
        "1",
        "--keep",
        "full",
    ]
    killed = (
        "import sys; from paraknow_core.cli import main, console\n"
        "from tests.sensitivity.test_streaming import StopsAfter\n"
        "stopper = StopsAfter(31, kill=True); console.Progress.check_stop = lambda self: stopper.check_stop()\n"
        "main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", killed, "--workspace", str(place), "sensitivity", *arguments]
    environment = os.environ | {"PYTHONPATH": str(PROJECT_ROOT)}
    ended = subprocess.run([*command, "--out", str(tmp_path / "out")], env=environment, check=False)
    assert ended.returncode == -9
    assert not (tmp_path / "out").exists()
    (work,) = (place / "sensitivity").glob(".*.work")
    assert json.loads((work / "progress.json").read_text())["done"] >= 7
    plain = [sys.executable, "-m", "paraknow_core", "--workspace", str(place), "sensitivity", *arguments]
    done = subprocess.run(
        [*plain, "--out", str(tmp_path / "out")], env=environment, check=True, capture_output=True, text=True
    )
    assert "layer 3 of 4 forward" not in done.stderr
    other = [part if part != str(place) else str(tmp_path / "other") for part in plain]
    subprocess.run([*other, "--out", str(tmp_path / "whole")], env=environment, check=True, capture_output=True)
    one, two = (load_file(tmp_path / name / FULL) for name in ("out", "whole"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not list((place / "sensitivity").glob(".*"))


@pytest.mark.parametrize(
    "structure",
    mostly_slow(
        ["submatrix", "row_column", "neuron", "random", "even_slice", "coherent_window", "coherent_scattered"],
        "submatrix",
        "random",
        "coherent_scattered",
    ),
)
def test_kept_choices_give_the_blocks_of_the_whole_sensitivity(structure, make_context, tiny, tmp_path):
    student = tiny("llama", extra_tokens=("hello", "there"), num_key_value_heads=4)
    changes = {"extraction.structure": structure}
    records = {}
    for keep in ("full", "reductions"):
        context = make_context(student, changes, place=workspace(tmp_path / keep))
        context.settings = context.settings.model_copy(update={"streaming": "always", "keep": keep})
        store = sensitivity(context, wanted(context))
        assert store.has_full == (keep == "full")
        out = tmp_path / f"out-{keep}"
        out.mkdir()
        plan = plan_transfer(context, map_layers(context.spec.mapping, context, store))
        start_adapter(context, method("seeking"), store, plan, out)
        records[keep] = json.loads((out / "extraction.json").read_text())
    whole, kept = records["full"], records["reductions"]
    assert whole["layer_mapping"] == kept["layer_mapping"]
    for name, want in whole["modules"].items():
        found = kept["modules"][name]
        assert found["selection"] == want["selection"]
        assert found["singular_values"] == pytest.approx(want["singular_values"], rel=1e-5)
        if structure not in ("submatrix", "row_column", "neuron"):
            assert found["captured_mass"] is None  # decided without the module's own sensitivity, which is gone
        else:
            assert found["captured_mass"] == pytest.approx(want["captured_mass"], rel=1e-5)


def test_a_store_without_the_roles_a_student_needs_is_not_served(make_context, tiny, tmp_path):
    # A student without a gate asks for the same shapes, but not for all roles.
    place, folders = workspace(tmp_path), []
    for family in ("opt", "llama"):
        student = tiny("opt", ffn_dim=56) if family == "opt" else tiny("llama")
        context = make_context(student, {"extraction.origin": ["attention", "ffn"]}, place=place)
        context.settings = context.settings.model_copy(update={"streaming": "always", "keep": "reductions"})
        folders.append(sensitivity(context, wanted(context)))
    made = [{n.rsplit(".", 1)[1] for n in store.totals["choices"]} for store in folders]
    assert "gate_proj" in made[1]
    assert "gate_proj" not in made[0]


def test_reductions_serve_only_what_they_were_made_for(make_context, tiny, tmp_path):
    place = workspace(tmp_path)
    settings = {"streaming": "always", "keep": "reductions"}

    def store_for(student, **changes):
        context = make_context(tiny("llama", **student), changes, place=place)
        context.settings = context.settings.model_copy(update=settings)
        return context, sensitivity(context, wanted(context))

    _, first = store_for({})
    _, again = store_for(
        {}, **{"extraction.structure": "row_column", "factorisation.rank": 2, "mapping.strategy": "top"}
    )
    assert again.folder == first.folder  # rank, mapping and the usual structures need no new measurement
    context, other = store_for({"hidden_size": 24, "num_attention_heads": 2, "num_key_value_heads": 2})
    assert other.folder != first.folder
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(DataError, match="only reductions were kept"):
        start_adapter(context, method("seeking"), first, plan_transfer(context, [0, 1]), out)
    assert not list(out.iterdir())


def test_a_budget_that_is_too_small_is_one_sentence(make_context, tiny, tmp_path):
    context = make_context(tiny("llama"), place=workspace(tmp_path))
    context.settings = Settings(threads=1, memory_budget="1MB")
    with pytest.raises(RunError, match=r"memory budget: 1 MB given, but .* needs \d+ MB even one layer at a time; "):
        sensitivity(context)
    assert not list((tmp_path / "sensitivity").glob("*"))


def test_a_full_disk_is_one_sentence_and_leaves_nothing(make_context, tiny, tmp_path, monkeypatch):
    context = make_context(tiny("llama"), place=workspace(tmp_path))
    context.settings = context.settings.model_copy(update={"streaming": "always"})
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(
        RunError,
        match=r"disk: the sensitivity needs .* MB, \d+ MB more than the workspace has; free some space or take",
    ):
        sensitivity(context)
    assert not list((tmp_path / "sensitivity").glob(".*.work"))


def test_a_disk_that_fills_up_meanwhile_keeps_the_finished_layers(make_context, tiny, tmp_path, monkeypatch):
    context = make_context(tiny("llama"), place=workspace(tmp_path))
    context.settings = context.settings.model_copy(update={"streaming": "always"})
    original = streaming.write_json

    def full(path, value, **more):
        if value.get("done") == 4:
            raise OSError(28, "No space left on device")
        original(path, value, **more)

    monkeypatch.setattr(streaming, "write_json", full)
    with pytest.raises(RunError, match="disk: full .* finished layers are kept"):
        sensitivity(context)
    monkeypatch.setattr(streaming, "write_json", original)
    seen = StopsAfter(-1)
    again = Context(context.spec, context.settings, context.place, seen)
    assert not sensitivity(again).has_full
    assert "layer 0 of 4 forward" not in seen.seen
    assert not list((tmp_path / "sensitivity").glob(".*"))


def test_a_store_that_was_finished_before_a_kill_is_taken_as_it_is(make_context, tiny, tmp_path, monkeypatch):
    context = make_context(tiny("llama"), place=workspace(tmp_path))
    context.settings = context.settings.model_copy(update={"streaming": "always", "keep": "full"})
    finish = StoreBuilder.finish

    def ended(self, facts):
        monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
        finish(self, facts)
        monkeypatch.undo()
        raise StopRequested

    monkeypatch.setattr(StoreBuilder, "finish", ended)
    with pytest.raises(StopRequested):
        sensitivity(context)
    monkeypatch.setattr(stage, "measure", None)  # nothing is measured again
    store = sensitivity(context)
    assert {path.name for path in store.folder.iterdir()} == {FULL, "reductions.safetensors", "sensitivity.json"}
    assert not list((tmp_path / "sensitivity").glob(".*"))


def test_another_way_in_between_costs_the_progress_and_nothing_else(make_context, tiny, tmp_path):
    def stopped(way, places):
        context = make_context(tiny("llama"), place=workspace(tmp_path))
        context.settings = context.settings.model_copy(update={"streaming": way, "keep": "full"})
        context = Context(context.spec, context.settings, context.place, StopsAfter(places))
        return sensitivity(context)

    with pytest.raises(StopRequested):
        stopped("always", 40)
    with pytest.raises(StopRequested):
        stopped("never", 2)
    assert stopped("always", -1).has_full
    assert not list((tmp_path / "sensitivity").glob(".*"))


@pytest.mark.parametrize("way", ["always", "never"])
def test_weights_that_are_not_finite_leave_nothing_even_where_no_sample_uses_them(way, make_context, tiny, tmp_path):
    folder = tmp_path / "teacher"
    shutil.copytree(tiny("llama", seed=1, tie_word_embeddings=False), folder)

    def damaged(tensors):
        tensors["model.embed_tokens.weight"][0] = float("nan")
        return tensors

    edit_weights(folder, damaged)
    context = make_context(tiny("llama"), {"teacher.source": str(folder)}, place=workspace(tmp_path / "place"))
    context.settings = context.settings.model_copy(update={"streaming": way})
    with pytest.raises(NumericError, match="embed_tokens.weight: not finite"):
        sensitivity(context)
    assert not list((tmp_path / "place/sensitivity").glob(".*"))


def test_it_says_what_it_will_take_and_what_it_took(make_context, tiny, tmp_path):
    events = []

    class Listens(Silent):
        def event(self, name, **fields):
            events.append((name, fields))

    context = make_context(tiny("llama"), place=workspace(tmp_path))
    context = Context(context.spec, context.settings, context.place, Listens())
    store = sensitivity(context)
    (plan, announced), (measured_, took) = events
    assert (plan, measured_) == ("plan", "measured")
    assert announced["message"].startswith("sensitivity: resident on cpu (the whole teacher takes ")
    assert took["memory"] == store.totals["measured"]["memory"] > 0
    assert store.totals["plan"]["way"] == "resident"
