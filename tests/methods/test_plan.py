"""The plan of a transfer: what goes where, what is skipped and why, and what is refused."""

import pytest

from paraknow_core.errors import ModelError
from paraknow_core.methods.plan import plan_transfer


def test_every_module_of_the_origin_is_paired_or_skipped_with_a_reason(tiny, make_context):
    plan = plan_transfer(make_context(tiny("llama"), {"extraction.origin": ["ffn"]}), [3, None])
    pairs = {source.name: target.name for source, target in map(plan.modules, plan.pairings)}
    roles = ("gate", "up", "down")
    assert pairs == {f"model.layers.3.mlp.{role}_proj": f"model.layers.0.mlp.{role}_proj" for role in roles}
    assert plan.skipped["model.layers.0.self_attn.q_proj"] == "q is not asked for"
    assert plan.skipped["model.layers.1.mlp.up_proj"] == "student layer 1 has no teacher layer"
    assert len(plan.pairings) + len(plan.skipped) == len(plan.context.student.anatomy.modules)


def test_before_the_layer_mapping_is_known_layers_are_paired_in_order(tiny, make_context):
    plan = plan_transfer(make_context(tiny("llama"), {"extraction.origin": ["q"]}))
    assert plan.layers is None
    assert [source.layer for source, _ in map(plan.modules, plan.pairings)] == [0, 1]
    plan.refuse_blocked()


def test_a_pair_without_anything_in_common_is_refused(tiny, make_context):
    plan = plan_transfer(make_context(tiny("gpt2"), {"extraction.origin": ["gate"]}))
    with pytest.raises(ModelError, match=r" -> .*: nothing can be transferred: .*; choose other roles"):
        plan.refuse_blocked()
