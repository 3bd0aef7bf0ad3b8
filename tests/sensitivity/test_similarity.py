"""Similarity of layers over tiny pairs: the states, the tokens that are compared, what is kept, what is refused."""

import json

import pytest
import torch

from paraknow_core.context import Context, Work
from paraknow_core.errors import DataError
from paraknow_core.files.json_file import read_json
from paraknow_core.methods import method, stages
from paraknow_core.models.states import layer_states
from paraknow_core.ops.similarity import linear_cka
from paraknow_core.paths import workspace
from paraknow_core.runs.folder import RunFolder
from paraknow_core.sensitivity import similarity as similarities
from paraknow_core.sensitivity.saved_similarity import saved_similarity
from paraknow_core.sensitivity.similarity import read_samples, similarity, similarity_key
from paraknow_core.spec import RunSpec
from paraknow_core.training.preparation import refuse_unfit
from tests.marking import mostly_slow
from tests.tiny_models import FAMILIES, build_tiny, build_tokenizer


@pytest.mark.parametrize("family", mostly_slow(FAMILIES, "llama", "gpt2", "gemma2"))
def test_states_are_those_of_the_whole_model(family, tiny, make_context):
    model = make_context(tiny(family)).student
    texts, places = [[1, 7, 9, 30, 4], [1, 200, 8]], [[0, 2, 4], [1]]
    read = list(layer_states(model.source, model.anatomy, texts, places, dtype="float32", device="cpu"))
    whole, expected = model.load(), []
    for ids in texts:
        with torch.no_grad():
            expected.append(whole(torch.tensor([ids]), output_hidden_states=True).hidden_states)
    last = model.anatomy.num_hidden_layers - 1  # transformers gives the last layer's states behind the last norm
    assert len(read) == last + 1
    for index in range(last):
        want = torch.cat([states[index + 1][0, at] for states, at in zip(expected, places, strict=True)])
        torch.testing.assert_close(read[index], want, rtol=1e-4, atol=1e-5)
    assert read[last].shape == (4, model.anatomy.hidden_size)


def test_the_table_is_that_of_the_states(tiny, make_context, tmp_path):
    context = make_context(tiny("phi3"), place=workspace(tmp_path))
    found, reading = similarity(context), read_samples(context)
    sides = []
    for model, texts, side in ((context.teacher, reading.teacher, 0), (context.student, reading.student, 1)):
        places = [[pair[side] for pair in pairs] for pairs in reading.pairs]
        sides.append(list(layer_states(model.source, model.anatomy, texts, places, dtype=model.dtype, device="cpu")))
    for i, own in enumerate(sides[1]):
        for j, theirs in enumerate(sides[0]):
            assert found["cka"][i][j] == pytest.approx(linear_cka(theirs, own), abs=1e-5)
    assert found["tokens"] == len(sides[0][0]) == reading.tokens
    assert found["samples"] == 4


def test_it_is_worked_out_once_for_a_pair_and_its_samples(tiny, make_context, tmp_path, monkeypatch):
    place = workspace(tmp_path)
    context = make_context(tiny("llama"), place=place)
    first = similarity(context)

    def never(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(similarities, "_states", never)
    same = make_context(tiny("llama"), {"mapping.strategy": "stitch", "factorisation.rank": 2}, place=place)
    assert similarity(same) == first
    for student, changes in ((tiny("llama"), {"sensitivity.samples": 3}), (tiny("llama", seed=9), {})):
        assert similarity_key(make_context(student, changes, place=place)) != first["key"]
    file = place.similarity / f"{first['key']}.json"
    for damaged in ("{", "[]", json.dumps({**first, "cka": [[1.0], [1.0, 2.0]]}), json.dumps({**first, "version": 0})):
        file.write_text(damaged)
        assert saved_similarity(place, first["key"]) is None
    with pytest.raises(AssertionError, match="computed again"):
        similarity(context)


def merged(folder):
    """Give a tiny model a tokenizer that makes one token of two digits."""
    from tokenizers import Tokenizer

    build_tiny("llama", folder)
    file = folder / "tokenizer.json"
    content = json.loads(Tokenizer.from_str(build_tokenizer(("#####",))._tokenizer.to_str()).to_str())
    vocabulary = content["model"]["vocab"]
    vocabulary["##"] = vocabulary.pop("#####")
    content["model"]["merges"] = [["#", "#"]]
    file.write_text(json.dumps(content))
    return folder


def test_other_tokens_are_matched_where_the_same_characters_were_read(make_context, tmp_path):
    student = merged(tmp_path / "merged")
    config = json.loads((student / "config.json").read_text())
    build_tiny("llama", tmp_path / "sized", vocab_size=config["vocab_size"] + 1)
    for name in ("config.json", "model.safetensors"):
        (student / name).write_bytes((tmp_path / "sized" / name).read_bytes())
    context = make_context(str(student), place=workspace(tmp_path))
    reading = read_samples(context)
    tokenizers = context.teacher.tokenizer, context.student.tokenizer
    shorter = 0
    for ids, own, pairs in zip(reading.teacher, reading.student, reading.pairs, strict=True):
        shorter += len(ids) - len(own)
        assert pairs
        for place, own_place in pairs:
            assert place and own_place
            both = [t.decode(p) for t, p in zip(tokenizers, (ids[: place + 1], own[: own_place + 1]), strict=True)]
            assert both[0] == both[1]
    assert shorter == 4 * 2  # each answer's #### is two tokens of the student
    assert len(similarity(context)["cka"]) == 2


def test_tokens_are_taken_evenly_and_halves_are_of_whole_samples(tiny, make_context, monkeypatch):
    context = make_context(tiny("llama"))
    every = read_samples(context)
    assert not any(0 in pair for pairs in every.pairs for pair in pairs)
    halves = iter(every.halves())
    assert [{next(halves) for _ in pairs} for pairs in every.pairs] == [{True}, {False}, {True}, {False}]
    monkeypatch.setattr(similarities, "MOST_TOKENS", 20)
    some = read_samples(context)
    assert some.tokens == 20
    assert all(set(few) <= set(many) for few, many in zip(some.pairs, every.pairs, strict=True))
    alone = read_samples(make_context(tiny("llama"), {"sensitivity.samples": 1}))
    assert alone.halves() == [True] * (alone.tokens // 2) + [False] * (alone.tokens - alone.tokens // 2)


def test_models_that_cannot_be_compared_are_refused_before_anything_is_measured(tiny, make_context, tmp_path):
    changes = {"mapping.strategy": "cka", "task.template": "chat"}
    folders = []
    for name, template in (("one", "{{ messages[0]['content'] }}! "), ("two", "Of all things, say: ")):
        folders.append(build_tiny("llama", tmp_path / name, seed=len(folders)))
        tail = "{% for m in messages %}" + template + "{{ m['content'] }}</s>{% endfor %}"
        file = folders[-1] / "tokenizer_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": tail}))
    context = make_context(str(folders[0]), {"teacher.source": str(folders[1]), **changes})
    with pytest.raises(DataError, match="chat templates write the same sample differently"):
        refuse_unfit(Work(context, RunFolder(tmp_path), method("seeking")))
    few = make_context(tiny("llama"), {"mapping.strategy": "cka", "task.max_length": 14, "sensitivity.samples": 1})
    with pytest.raises(DataError, match="13 tokens of the seed samples in common, and 16 are needed"):
        read_samples(few)


@pytest.mark.parametrize("strategy", ["cka", "stitch"])
def test_a_run_keeps_what_its_mapping_was_decided_from(strategy, tiny, make_context, tmp_path):
    context = make_context(tiny("gpt2"), {"mapping.strategy": strategy, "extraction.origin": ["ffn"]})
    work = Work(context, RunFolder(tmp_path), method("seeking"))
    for stage in (stages.measure, stages.plan, stages.learn, stages.extract):
        stage(work)
    record = read_json(tmp_path / "extraction.json")
    assert record["similarity"] == similarity(context)
    assert record["layer_mapping"] == work.plan.layers == sorted(work.plan.layers)
    again = Work(context, RunFolder(tmp_path), method("seeking"))
    again.store = work.store
    stages.plan(again)
    assert again.plan.layers == work.plan.layers


@pytest.mark.parametrize(("strategy", "found"), [("cka", [0, 2, 3, 4]), ("stitch", [1, 2, 3, 5])])
def test_what_is_found_in_the_bundled_kin_pair(strategy, found, session_place):
    """The kin is the teacher's layers 0, 2, 3, 5; what 1 and 4 add is small, so that they look like those before."""
    from paraknow_core.methods.mapping import map_layers
    from paraknow_core.settings import Settings

    spec = RunSpec().with_changes({"student.source": "bundled:kin", "mapping.strategy": strategy})
    context = Context(spec, Settings(dtype="float32"), session_place)
    assert map_layers(spec.mapping, context) == found
    table = similarity(context)[strategy]
    true = [0, 2, 3, 5]
    assert all(abs(table[i][a] - table[i][b]) < 0.06 for i, (a, b) in enumerate(zip(true, found, strict=True)))


def test_samples_of_another_task_are_read_as_that_task_is(tiny, make_context, tmp_path):
    """A text has the marks that texts get, whatever the run's own task and template are."""
    text = tmp_path / "plain.txt"
    text.write_text("A dog ran over the road and came back. " * 20)
    changes = {"sensitivity.task": str(text), "sensitivity.samples": 1, "task.max_length": 64}
    context = make_context(tiny("llama"), changes, place=workspace(tmp_path / "w"))
    reading, encoded = read_samples(context), context.encode(context.seed_samples, context.student, context.seed_task)
    assert reading.student[0] == tuple(encoded[0].input_ids[:64])
    assert similarity(context)["task"] == context.seed_task.name == "plain"
