"""Growing a model changes nothing that it computes, and keeps every original weight in its corner."""

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from paraknow_core.demo.alignment import MATRICES, inject_difference
from paraknow_core.demo.widening import widen
from paraknow_core.errors import ShapeError

POSITIONS = (0, 2)


def small(tied=True):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=8,
        tie_word_embeddings=tied,
        rms_norm_eps=1e-5,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for p in model.parameters():  # norms away from one, weights large enough to matter
            p.copy_(torch.randn_like(p) * 0.2 + (1 if p.dim() == 1 else 0))
    return model


def grown(student, **changes):
    return widen(
        student,
        **{
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_heads": 6,
            "num_layers": 4,
            "positions": POSITIONS,
            "seed": 1,
        }
        | changes,
    )


def test_logits_are_identical():
    student = small()
    ids = torch.randint(0, 50, (3, 17))
    with torch.no_grad():
        before, after = student(ids).logits, grown(student)(ids).logits
    assert before.std() > 0.1  # a model that says nothing would agree with anything
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4)


def test_corners_hold_the_student_to_the_last_bit():
    student = small()
    teacher = grown(student)
    for i, position in enumerate(POSITIONS):
        for matrix in MATRICES:
            block = student.get_submodule(f"model.layers.{i}.{matrix}").weight
            whole = teacher.get_submodule(f"model.layers.{position}.{matrix}").weight
            assert torch.equal(whole[: block.shape[0], : block.shape[1]], block)
    norm = teacher.model.layers[2].input_layernorm.weight[:32]
    torch.testing.assert_close(norm, student.model.layers[1].input_layernorm.weight * math.sqrt(32 / 48))


def test_new_parts_can_learn():
    teacher = grown(small())
    ids = torch.randint(0, 50, (2, 9))
    optimizer = torch.optim.SGD(teacher.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        teacher(ids, labels=ids).loss.backward()
        optimizer.step()
    assert teacher.model.embed_tokens.weight[ids.unique(), 32:].abs().max() > 0
    assert teacher.model.layers[0].self_attn.o_proj.weight[:, 32:].abs().max() > 0
    assert teacher.model.layers[1].mlp.down_proj.weight.abs().max() > 0


@pytest.mark.parametrize("positions", [(0,), (0, 0), (2, 0), (0, 4), (0, 1, 2)])
def test_positions_that_do_not_fit_are_refused(positions):
    with pytest.raises(ShapeError, match="increasing"):
        grown(small(), positions=positions)


def test_injecting_at_full_rank_gives_the_corner_block():
    student = small()
    teacher = grown(student)
    with torch.no_grad():
        teacher.model.layers[2].mlp.up_proj.weight.add_(torch.randn(64, 48))
    moved = inject_difference(student, teacher, POSITIONS, rank=40)
    torch.testing.assert_close(
        moved.model.layers[1].mlp.up_proj.weight,
        teacher.model.layers[2].mlp.up_proj.weight[:40, :32],
        rtol=0,
        atol=1e-4,
    )
