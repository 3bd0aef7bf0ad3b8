"""Coherent structures over pairs of every family: what is shared, what is placed, what is refused."""

from collections import defaultdict
from itertools import product
from types import SimpleNamespace

import pytest
import torch

from paraknow_core.context import Work
from paraknow_core.errors import DataError, ModelError, ShapeError
from paraknow_core.files.json_file import read_json
from paraknow_core.methods import method
from paraknow_core.methods.plan import plan_transfer
from paraknow_core.methods.seeking.choice import Cut
from paraknow_core.methods.seeking.coherence import coherence, incoherent, refuse_incoherent
from paraknow_core.methods.start import start_adapter
from paraknow_core.ops.structure import WindowSelection
from paraknow_core.runs.folder import RunFolder
from paraknow_core.sensitivity.measure import sensitivity
from paraknow_core.training.preparation import refuse_unfit
from tests.marking import mostly_slow
from tests.tiny_models import FAMILIES

COHERENT = ("coherent_window", "coherent_scattered")
WIDE = {"hidden_size": 48, "intermediate_size": 80, "num_attention_heads": 6, "seed": 1}


def lines(selection) -> tuple[list[int], list[int]]:
    """The rows and the columns that a selection takes."""
    if isinstance(selection, WindowSelection):
        return tuple(list(range(part.start, part.stop)) for part in selection.window.slices)
    return selection.rows.tolist(), selection.cols.tolist()


@pytest.fixture
def pair(tiny, make_context):
    """Return a function that makes a context of a larger and a smaller model of one family."""

    def made(family, structure, changes=None, teacher=None, student=None):
        wide = {"gpt2": {"n_embd": 48, "n_inner": 80, "n_head": 6, "seed": 1}, "opt": {**WIDE, "ffn_dim": 80}}
        wide["opt"] |= {"word_embed_proj_dim": 48}
        wide["opt"].pop("intermediate_size")
        larger = wide.get(family, WIDE | ({} if family == "gpt_neox" else {"num_key_value_heads": 3}))
        sources = {"teacher.source": tiny(family, **(larger | (teacher or {})))}
        return make_context(
            tiny(family, **(student or {})), {**sources, "extraction.structure": structure, **(changes or {})}
        )

    return made


EVERY = list(product(FAMILIES, COHERENT))


@pytest.mark.parametrize(
    ("family", "structure"), mostly_slow(EVERY, ("llama", COHERENT[0]), ("phi3", COHERENT[1]), ("gpt2", COHERENT[1]))
)
def test_what_belongs_together_is_taken_together(family, structure, pair, tmp_path):
    context = pair(family, structure)
    refuse_incoherent(context)
    store = sensitivity(context)
    plan = plan_transfer(context, [1, 0])
    taken = defaultdict(list)
    for pairing in plan.pairings:
        cut = Cut(context, structure, *plan.modules(pairing))
        choice, score = cut.decide(store, torch.device("cpu"))
        rows, cols = lines(choice.selection)
        assert choice.inside == pytest.approx(score[rows][:, cols].double().sum().item(), rel=1e-5)
        assert cut.recall(store).selection.describe() == choice.selection.describe()
        axes = {"q": "hc", "k": "gc", "v": "gc", "o": "ch", "down": "cn", "gate": "nc", "up": "nc"}
        for axis, indices in zip(axes.get(cut.target.role, "tc"), (rows, cols), strict=True):
            taken[axis, None if axis == "c" else (cut.target.layer, cut.target.role if axis in "hg" else "")].append(
                indices
            )
    assert all(indices == found[0] for found in taken.values() for indices in found)
    size, student = context.teacher.anatomy, context.student.anatomy
    per_group = [m.num_attention_heads // m.num_key_value_heads for m in (size, student)]
    for layer in range(2):
        query, key, value, out = (taken["hg"[role in "kv"], (layer, role)][0] for role in "qkvo")
        groups = sorted({i // size.head_dim for i in key})
        heads = sorted({i // size.head_dim for i in query})
        assert groups == sorted({i // size.head_dim for i in value})
        assert heads == sorted({i // size.head_dim for i in out})
        assert [heads.count(h) for h in heads] == [1] * len(heads) == [1] * student.num_attention_heads
        # The student's query head j meets key-value head j // per_group: so does the teacher's in its place.
        assert [h // per_group[0] for h in heads] == [groups[j // per_group[1]] for j in range(len(heads))]
    start_adapter(context, method("seeking"), store, plan, tmp_path)
    records = read_json(tmp_path / "extraction.json")["modules"]
    assert all(0 < record["captured_mass"] <= 1 for record in records.values())


def test_channels_are_those_with_the_largest_sum_over_the_whole_model(pair):
    for structure in COHERENT:
        context = pair("llama", structure)
        store, anatomy = sensitivity(context), context.teacher.anatomy
        totals = [0.0] * anatomy.hidden_size
        for module in anatomy.modules:
            reads = module.role in ("q", "k", "v", "gate", "up", "embed", "head")
            sums = store.col_sums(module.name) if reads else store.row_sums(module.name)
            totals = [total + float(own) for total, own in zip(totals, sums, strict=True)]
        shared = coherence(store, structure, anatomy, context.student.anatomy)
        found = shared.indices["channels", None].tolist()
        ranges = [range(first, first + 32) for first in range(len(totals) - 32 + 1)]
        best = max(ranges, key=lambda r: sum(totals[i] for i in r))
        highest = sorted(sorted(range(len(totals)), key=lambda i: -totals[i])[:32])
        assert found == (list(best) if structure == "coherent_window" else highest)
        neurons = [
            float(a) + float(b) + float(c)
            for a, b, c in zip(
                store.row_sums("model.layers.1.mlp.gate_proj"),
                store.row_sums("model.layers.1.mlp.up_proj"),
                store.col_sums("model.layers.1.mlp.down_proj"),
                strict=True,
            )
        ]
        if structure == "coherent_scattered":
            expected = sorted(sorted(range(len(neurons)), key=lambda i: -neurons[i])[:56])
            assert shared.indices["neurons", 1].tolist() == expected


def test_smaller_heads_keep_their_rotary_pairs(pair):
    context = pair("llama", "coherent_scattered", teacher={"head_dim": 12})
    refuse_incoherent(context)
    shared = coherence(sensitivity(context), "coherent_scattered", context.teacher.anatomy, context.student.anatomy)
    for layer in range(2):
        for role in "qk":
            heads = (shared.indices[role, layer] % 12).view(-1, 8)
            assert torch.equal(heads[:, :4] + 6, heads[:, 4:])


REFUSED = [
    ("llama", {}, {"head_dim": 4}, {}, "the teacher's heads have 4 features, the student's 8"),
    ("llama", {}, {"num_key_value_heads": 6}, {}, "so that queries would meet keys which are not theirs"),
    ("phi", {"partial_rotary_factor": 0.5}, {"hidden_size": 72}, {}, "of which only a part is rotated"),
    ("opt", {}, {"word_embed_proj_dim": 24}, {}, "only the teacher's embeddings have another width"),
]


@pytest.mark.parametrize(("family", "both", "teacher", "student", "said"), REFUSED)
@pytest.mark.parametrize("structure", mostly_slow(COHERENT, COHERENT[0]))
def test_what_cannot_be_coherent_is_refused_before_anything_is_measured(
    family, both, teacher, student, said, structure, pair, tmp_path
):
    context = pair(family, structure, None, {**both, **teacher}, {**both, **student})
    with pytest.raises(ModelError, match=f"extraction.structure {structure}, .* -> .*: .*{said}.*; leave "):
        refuse_unfit(Work(context, RunFolder(tmp_path), method("seeking")))
    assert not incoherent(context, "submatrix")
    rest = pair(family, structure, {"extraction.origin": ["ffn"]}, {**both, **teacher}, {**both, **student})
    refuse_incoherent(rest)
    store = sensitivity(rest)
    shared = coherence(store, structure, rest.teacher.anatomy, rest.student.anatomy)
    assert shared.indices["neurons", 0].numel() == 56
    if shared.problem:
        with pytest.raises(ShapeError, match="whole heads cannot be taken"):
            shared.selection(rest.teacher.anatomy.find("q", 0), 8)


def test_a_smaller_teacher_gives_all_it_has(pair):
    context = pair("llama", "coherent_window", None, None, {"hidden_size": 64, "intermediate_size": 96, "head_dim": 8})
    shared = coherence(sensitivity(context), "coherent_window", context.teacher.anatomy, context.student.anatomy)
    assert shared.indices["channels", None].tolist() == list(range(48))
    assert shared.indices["neurons", 0].tolist() == list(range(80))


def test_the_sensitivity_of_another_teacher_is_refused(pair):
    context = pair("llama", "coherent_window")
    store = SimpleNamespace(folder=SimpleNamespace(name="key"), totals={"modules": {"other": {"shape": [2, 2]}}})
    with pytest.raises(DataError, match="is the sensitivity of another teacher"):
        coherence.__wrapped__(store, "coherent_window", context.teacher.anatomy, context.student.anatomy)
