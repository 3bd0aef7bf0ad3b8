"""Pairings of teachers and students, checked against the shapes themselves."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paraknow_core.errors import ShapeError
from paraknow_core.models.anatomy import read_anatomy
from paraknow_core.models.compat import compatibility
from paraknow_core.models.source import resolve_model
from paraknow_core.models.tokenizer import TokenAlignment, align_tokens, vocabulary
from paraknow_core.spec import ROLES
from tests.tiny_models import FAMILIES

SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}


@pytest.fixture
def pair(tiny):
    """Return `pair(teacher, student, teacher_options, student_options, **arguments) -> report`."""

    def get(teacher, student, teacher_options=(), student_options=(), **arguments):
        sources = [
            resolve_model(str(tiny(family, **dict(options))))
            for family, options in ((teacher, teacher_options), (student, student_options))
        ]
        alignment = align_tokens(*(vocabulary(source) for source in sources))
        return compatibility(*(read_anatomy(source) for source in sources), alignment, **arguments)

    return get


def test_a_larger_teacher_is_cut(pair):
    report = pair("llama", "llama", {}, SMALL)
    assert report.counts == {"cut": 16, "whole": 0, "place": 0, "skip": 0}
    q = next(p for p in report.pairings if p.student_module == "model.layers.0.self_attn.q_proj")
    assert (q.teacher_shape, q.student_shape, q.placed_shape) == ((32, 32), (16, 16), (16, 16))
    assert report.pairings[-1].teacher_module == "lm_head"
    # By hand: embed and head 259 x 16 each; a layer: q, o 16 x 16, k, v 8 x 16, three of 24 x 16.
    assert report.parameters_moved == 2 * 259 * 16 + 2 * (2 * 256 + 2 * 128 + 3 * 384)
    assert report.blocking == () and "in order here" in report.notes[0]
    assert "cut across heads" not in " ".join(report.notes)
    json.dumps(report.to_dict())


def test_the_same_shape_is_taken_whole(pair):
    assert pair("qwen2", "llama").counts["whole"] == 16


def test_a_smaller_teacher_is_placed(pair):
    report = pair("llama", "llama", SMALL, {})
    assert report.counts == {"cut": 0, "whole": 0, "place": 16, "skip": 0}
    down = next(p for p in report.pairings if p.student_module.endswith("1.mlp.down_proj"))
    assert down.placed_shape == (16, 24) and "row 0, column 0" in down.reason
    assert any("is not larger than the student" in note for note in report.notes)


def test_a_missing_role_is_skipped_and_named(pair):
    report = pair("gpt2", "llama")
    assert [p.student_module for p in report.pairings if p.action == "skip"] == [
        "model.layers.0.mlp.gate_proj",
        "model.layers.1.mlp.gate_proj",
    ]
    assert all("no gate" in p.reason for p in report.pairings if p.action == "skip")
    assert any("other norm" in note for note in report.notes)
    assert any("has no gate" in note for note in pair("llama", "gpt2").notes)


def test_tied_embeddings_on_one_side(pair):
    from_tied = pair("llama", "llama", {"tie_word_embeddings": True}, SMALL)
    head = from_tied.pairings[-1]
    assert (head.role, head.teacher_module, head.action) == ("head", "model.embed_tokens", "cut")
    assert "tied input embedding" in head.reason
    to_tied = pair("llama", "llama", {}, SMALL | {"tie_word_embeddings": True})
    assert [p.role for p in to_tied.pairings if p.role in ("embed", "head")] == ["embed"]
    assert "its head is not used" in to_tied.pairings[0].reason
    assert any("only the student ties" in note for note in to_tied.notes)


def test_only_shared_tokens_rows_transfer(pair):
    report = pair(
        "llama", "llama", {"extra_tokens": ("one", "two")}, SMALL | {"extra_tokens": ("two", "three", "four")}
    )
    embed = report.pairings[0]
    assert embed.action == "place" and embed.placed_shape == (260, 16)  # 259 of both and "two"
    assert "260 shared tokens" in embed.reason
    assert any("teacher has 261 tokens, student 262; 260 are shared" in note for note in report.notes)


def test_a_student_whose_tokens_are_all_shared_is_cut(pair):
    report = pair("llama", "llama", {"extra_tokens": ("one", "two")}, SMALL)
    assert report.pairings[0].action == "cut" and report.pairings[0].placed_shape == (259, 16)


def test_no_shared_token_leaves_the_embeddings_out(tiny):
    anatomy = read_anatomy(resolve_model(str(tiny("llama"))))
    nothing = TokenAlignment(False, np.array([], int), np.array([], int), 5, 5)
    report = compatibility(anatomy, anatomy, nothing)
    assert [p.action for p in report.pairings if p.role in ("embed", "head")] == ["skip", "skip"]
    assert "share no token" in report.pairings[0].reason


def test_tokens_beyond_the_embedding_have_no_row(tiny):
    anatomy = read_anatomy(resolve_model(str(tiny("llama"))))
    beyond = TokenAlignment(False, np.array([0, 5, 900]), np.array([0, 700, 7]), 900, 900)
    assert compatibility(anatomy, anatomy, beyond).pairings[0].placed_shape == (1, 32)


def test_without_an_alignment_only_the_same_tokenizer_counts(tiny):
    anatomy = read_anatomy(resolve_model(str(tiny("llama"))))
    assert compatibility(anatomy, anatomy).pairings[0].action == "whole"
    other = replace(anatomy, tokenizer=replace(anatomy.tokenizer, sha256="0" * 64))
    report = compatibility(other, anatomy)
    assert report.pairings[0].action == "skip" and any("embeddings are left out" in note for note in report.notes)


def test_more_student_layers_than_teacher_layers(pair):
    report = pair("llama", "llama", {"num_hidden_layers": 1}, SMALL)
    skipped = [p for p in report.pairings if p.action == "skip"]
    assert len(skipped) == 7 and all(".layers.1." in p.student_module for p in skipped)
    assert "student layer 1 has no teacher layer (the teacher has 1)" in skipped[0].reason
    assert any("1 of 2 student layers" in note for note in report.notes)


def test_a_mapping_is_followed(pair):
    report = pair("llama", "llama", {"num_hidden_layers": 4}, SMALL, mapping=[3, None])
    teachers = {p.teacher_module.split(".")[2] for p in report.pairings if ".layers.0." in p.student_module}
    assert teachers == {"3"}
    assert {p.action for p in report.pairings if ".layers.1." in p.student_module} == {"skip"}


@pytest.mark.parametrize("mapping, words", [([0], "1 entries"), ([0, 2], "teacher layer 2"), ([-1, 0], "layer -1")])
def test_a_mapping_that_does_not_fit_is_refused(pair, mapping, words):
    with pytest.raises(ShapeError, match=words):
        pair("llama", "llama", mapping=mapping)


def test_only_the_roles_asked_for(pair):
    report = pair("llama", "llama", {}, SMALL, roles=("up", "down"))
    assert {p.role for p in report.pairings if p.action != "skip"} == {"up", "down"}
    assert not any("tokenizers" in note for note in report.notes)


def test_nothing_to_transfer_blocks(pair):
    report = pair("gpt2", "llama", roles=("gate",))
    assert len(report.blocking) == 1 and report.blocking[0].startswith("nothing can be transferred")


def test_attention_differences_are_noted(pair):
    notes = " ".join(pair("gpt_neox", "qwen3").notes)
    assert "grouped-query attention only in the student" in notes
    assert "head sizes differ (8 and 12)" in notes


@pytest.mark.parametrize("teacher", FAMILIES)
def test_every_family_pairs_with_every_other(pair, teacher):
    for student in FAMILIES:
        report = pair(teacher, student)
        assert not report.blocking
        for p in report.pairings:
            if p.action == "skip":
                assert p.placed_shape is None and p.role == "gate"
            else:
                smaller = tuple(min(a, b) for a, b in zip(p.teacher_shape, p.student_shape, strict=True))
                expected = "whole" if p.teacher_shape == p.student_shape else "cut"
                expected = expected if smaller == p.student_shape else "place"
                assert (p.action, p.placed_shape) == (expected, smaller), p


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=4, max_size=4), st.permutations(ROLES), st.integers(0, 9))
def test_any_shapes_get_the_action_their_sizes_ask_for(tiny_anatomy, sizes, order, count):
    def resized(rows, columns):
        modules = tuple(m if m.layer is None else replace(m, shape=(rows, columns)) for m in tiny_anatomy.modules)
        return replace(tiny_anatomy, modules=modules)

    roles = order[:count]
    report = compatibility(resized(*sizes[:2]), resized(*sizes[2:]), roles=roles)
    assert len(report.pairings) == len(tiny_anatomy.modules)
    for p in report.pairings:
        if p.role not in roles:
            assert p.action == "skip"
        elif p.role not in ("embed", "head"):
            bigger = sizes[0] >= sizes[2] and sizes[1] >= sizes[3]
            assert p.action == ("whole" if sizes[:2] == sizes[2:] else "cut" if bigger else "place")
            assert p.placed_shape == (min(sizes[0], sizes[2]), min(sizes[1], sizes[3]))
    assert bool(report.blocking) == (not roles)


@pytest.fixture(scope="module")
def tiny_anatomy(tiny):
    return read_anatomy(resolve_model(str(tiny("llama"))))
