"""Controls that change the block: what each keeps of it, to the digit, in every injection mode."""

import math

import pytest
import torch

from paraknow_core.adapters.update import to_linear
from paraknow_core.catalogue import METHODS
from paraknow_core.methods import method, wanted
from paraknow_core.methods.base import MethodInputs
from paraknow_core.methods.mapping import map_layers
from paraknow_core.methods.plan import plan_transfer
from paraknow_core.methods.seeking.blocks import extract_blocks
from paraknow_core.models.modules import logical_weight
from paraknow_core.sensitivity.measure import sensitivity

RANK, SCALING = 4, 1.5
FAMILIES = ["llama", "gpt2"]  # gpt2 stores its weights transposed and fused
MODES = ["residual", "additive", "difference"]


@pytest.fixture
def started(tiny, make_context):
    """Return `started(name, family="llama", student=None, **changes)`: updates and blocks by module, own weights."""

    def get(name, family="llama", student=None, **changes):
        spec = {"method": name, **{key.replace("__", "."): value for key, value in changes.items()}}
        context = make_context(student or tiny(family), spec)
        untouched = dict(context.student.load().named_parameters())
        store = sensitivity(context, wanted(context))
        plan = plan_transfer(context, map_layers(context.spec.mapping, context, store))
        inputs = MethodInputs(context, untouched, store, plan)
        blocks = {block.student.name: block for block in extract_blocks(inputs)}
        updates = {update.module.name: update for update in method(name).start(inputs)}
        own = {m.name: logical_weight(untouched[m.parameter].detach(), m) for m in context.student_modules}
        assert updates.keys() == blocks.keys() and updates
        return updates, blocks, own

    return get


def product(update):
    """B @ A in the module's logical shape."""
    return to_linear(update.b @ update.a, update.module) if update.module.role == "embed" else update.b @ update.a


def best(matrix, rank=RANK):
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank] @ torch.diag(s[:rank]) @ v[:rank]


def values(matrix):
    return torch.linalg.svdvals(matrix)


@pytest.mark.parametrize("name", ["permuted", "spectrum_matched", "norm_matched", "pissa_matched", "least_sensitive"])
@pytest.mark.parametrize("mode", MODES)
def test_what_is_subtracted_and_recorded(name, mode, started):
    updates, _, _ = started(name, injection__mode=mode, extraction__origin=["q", "embed"])
    for update in updates.values():
        assert update.subtract == (mode == "residual" or name == "pissa_matched")
        assert update.a.shape[0] == update.b.shape[1] == RANK
        assert {"teacher_module", "selection", "captured_mass", "cosine_with_student"} <= update.record.keys()
        torch.testing.assert_close(torch.tensor(update.record["singular_values"]), values(product(update))[:RANK])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", MODES)
def test_a_permuted_block_has_the_same_entries_and_spectrum(family, mode, started):
    # At full rank the factors give the permuted block back, so that its entries can be told.
    changes = {"injection__mode": mode, "factorisation__rank": 32, "extraction__origin": ["q", "o", "ffn"]}
    updates, blocks, own = started("permuted", family, **changes)
    for name, update in updates.items():
        block, weight = blocks[name].weight, product(update)
        if mode == "difference":
            weight = SCALING * RANK / 32 * weight + own[name]
        torch.testing.assert_close(weight.flatten().sort().values, block.flatten().sort().values, atol=2e-5, rtol=1e-3)
        torch.testing.assert_close(values(weight), values(block), atol=2e-5, rtol=1e-3)
        assert not torch.allclose(weight, block, atol=1e-3)
        # Rows and columns stay together: sorted sums of squares by row are the same.
        for dim in (0, 1):
            sums = [m.square().sum(dim=dim).sort().values for m in (weight, block)]
            torch.testing.assert_close(*sums, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("split", ["us_v", "sqrt"])
@pytest.mark.parametrize("mode", ["residual", "additive"])
def test_a_spectrum_matched_product_has_the_blocks_values_in_other_directions(family, split, mode, started):
    changes = {"injection__mode": mode, "factorisation__split": split}
    updates, blocks, own = started("spectrum_matched", family, **changes)
    for name, update in updates.items():
        block, weight = blocks[name].weight, product(update)
        torch.testing.assert_close(values(weight)[:RANK], values(block)[:RANK], rtol=1e-4, atol=1e-6)
        left, right = (update.b.norm(dim=0), update.a.norm(dim=1))
        s = values(block)[:RANK]
        torch.testing.assert_close(left, s if split == "us_v" else s.sqrt(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(right, torch.ones(RANK) if split == "us_v" else s.sqrt(), rtol=1e-4, atol=1e-6)
        alike = torch.nn.functional.cosine_similarity(weight.flatten(), own[name].flatten(), dim=0)
        assert update.record["cosine_with_student"] == pytest.approx(alike.item(), abs=1e-5)
        with_block = torch.nn.functional.cosine_similarity(weight.flatten(), best(block).flatten(), dim=0)
        assert abs(with_block) < 0.6


def test_in_difference_mode_the_whole_block_gets_random_directions(started):
    changes = {"injection__mode": "difference", "extraction__origin": ["q", "o"]}
    updates, blocks, own = started("spectrum_matched", factorisation__rank=32, **changes)
    for name, update in updates.items():
        turned = SCALING * 4 / 32 * product(update) + own[name]
        assert min(turned.shape) == 32
        torch.testing.assert_close(values(turned), values(blocks[name].weight), rtol=1e-3, atol=1e-5)
        assert not torch.allclose(turned, blocks[name].weight, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("split", ["us_v", "sqrt"])
def test_norms_are_matched(family, mode, split, started):
    changes = {"injection__mode": mode, "factorisation__split": split}
    seeking, _, own = started("seeking", family, **changes)
    pissa = {name: best(weight).norm() for name, weight in own.items()}
    for name, update in started("norm_matched", family, **changes)[0].items():
        other = seeking[name]
        torch.testing.assert_close(SCALING * product(update).norm(), pissa[name], rtol=1e-4, atol=0)
        scale = pissa[name] / (SCALING * product(other).norm())
        torch.testing.assert_close(product(update), scale * product(other), rtol=1e-4, atol=1e-6)
        assert update.record["scale"] == pytest.approx(scale.item(), rel=1e-4)
        assert update.record["norm"] == pytest.approx(pissa[name].item(), rel=1e-4)
        assert update.record["own_norm"] == pytest.approx(SCALING * product(other).norm().item(), rel=1e-4)
        factor = scale**0.5 if split == "sqrt" else 1
        torch.testing.assert_close(update.a, factor * other.a, rtol=1e-4, atol=1e-6)
    for name, update in started("pissa_matched", family, **changes)[0].items():
        goal = SCALING * product(seeking[name]).norm()
        torch.testing.assert_close(
            SCALING * product(update), best(own[name]) * goal / pissa[name], rtol=1e-3, atol=1e-5
        )
        torch.testing.assert_close(update.a.norm(dim=1), update.b.norm(dim=0), rtol=1e-4, atol=1e-6)
        assert update.record["norm"] == pytest.approx(goal.item(), rel=1e-4)


def test_the_least_sensitive_block_holds_less_than_any_other(started):
    least, blocks, _ = started("least_sensitive", extraction__origin=["q", "down"])
    most, _, _ = started("seeking", extraction__origin=["q", "down"])
    offset, _, _ = started("random_offset", extraction__origin=["q", "down"])
    for name, update in least.items():
        held = [updates[name].record["captured_mass"] for updates in (least, offset, most)]
        assert held == sorted(held) and held[0] < held[2]
        torch.testing.assert_close(product(update), best(blocks[name].weight), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["permuted", "spectrum_matched"])
@pytest.mark.parametrize("mode", ["residual", "difference"])
def test_draws_follow_the_seed_and_the_module(name, mode, started):
    def drawn(seed):
        origin = ["q", "k", "v", "o"]
        updates = started(name, injection__mode=mode, extraction__seed=seed, extraction__origin=origin)[0]
        return {module: product(update) for module, update in updates.items()}

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert all(torch.equal(first[module], again[module]) for module in first)
    assert not any(torch.allclose(first[module], other[module], atol=1e-4) for module in first)


@pytest.mark.parametrize("name", ["permuted", "spectrum_matched", "norm_matched"])
@pytest.mark.parametrize("mode", ["residual", "difference"])
def test_what_did_not_arrive_does_not_move(name, mode, tiny, started):
    student = tiny("llama", extra_tokens=("alpha", "beta"))
    updates, blocks, _ = started(name, student=student, injection__mode=mode, extraction__origin=["embedding"])
    for module, update in updates.items():
        received = blocks[module].received
        assert not received.all() and product(update)[received].abs().max() > 1e-3
        assert product(update)[~received].abs().max() < 1e-6


@pytest.mark.parametrize("name", ["permuted", "spectrum_matched"])
def test_a_block_that_is_smaller_than_the_student_stays_where_it_is_put(name, tiny, started):
    student = tiny("llama", hidden_size=64, intermediate_size=96, num_hidden_layers=4)
    updates, blocks, _ = started(name, student=student, extraction__origin=["down"])
    for module, update in updates.items():
        received = blocks[module].received
        assert product(update)[~received].abs().max() < 1e-6
        torch.testing.assert_close(
            values(product(update))[:RANK], values(blocks[module].weight)[:RANK], rtol=1e-4, atol=1e-6
        )


def test_the_random_block_knows_every_mode(started):
    """Its row reads the mode, so that a study may put it beside the method in difference mode."""
    assert "injection" in METHODS["random_offset"].reads
    updates, blocks, own = started("random_offset", injection__mode="difference", extraction__origin=["q"])
    for name, update in updates.items():
        assert not update.subtract
        torch.testing.assert_close(
            SCALING * product(update), best(blocks[name].weight - own[name]), rtol=1e-3, atol=1e-5
        )


def test_a_block_without_rank_still_trains(started):
    """Where a block has fewer directions than the rank, the others meet zeros on one side only."""
    from paraknow_core.methods.seeking.controls import _directions

    drawn = _directions(9, torch.tensor([2, 5]), 4, torch.Generator().manual_seed(0))
    assert drawn[[0, 1, 3, 4, 6, 7, 8], :2].abs().max() == 0
    torch.testing.assert_close(drawn.norm(dim=0), torch.ones(4))
    assert math.isclose(drawn[:, 0] @ drawn[:, 1], 0, abs_tol=1e-6)
    nothing = _directions(3, torch.tensor([], dtype=torch.long), 2, torch.Generator().manual_seed(0))
    torch.testing.assert_close(nothing.T @ nothing, torch.eye(2))
