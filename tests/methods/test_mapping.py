"""Layer mappings, each strategy by hand."""

from types import SimpleNamespace

import pytest

from paraknow_core.errors import ShapeError
from paraknow_core.methods.mapping import map_layers, matched_layers
from paraknow_core.sensitivity.saved_similarity import saved_similarity
from paraknow_core.sensitivity.similarity import similarity
from paraknow_core.spec import MappingSpec


def mapped(strategy, teacher, student, scores=None, **more):
    """Map the layers of two models of these depths."""
    models = [SimpleNamespace(anatomy=SimpleNamespace(num_hidden_layers=layers)) for layers in (teacher, student)]
    store = SimpleNamespace(layer_scores=lambda: scores) if scores else None
    return map_layers(
        MappingSpec(strategy=strategy, **more), SimpleNamespace(teacher=models[0], student=models[1]), store
    )


def test_strategies_by_hand():
    assert mapped("sensitivity", 6, 4, [5, 1, 9, 2, 0, 7]) == [0, 2, 3, 5]
    assert mapped("sensitivity", 4, 2, [1, 1, 1, 1]) == [0, 1]  # ties: the lower layer
    assert mapped("top", 6, 4) == [0, 1, 2, 3]
    assert mapped("last", 6, 4) == [2, 3, 4, 5]
    assert mapped("uniform", 6, 3) == [0, 2, 5]
    assert mapped("uniform", 6, 1) == [0]
    assert mapped("manual", 6, 3, layers=(5, None, 0)) == [5, None, 0]


def test_random_is_a_seeded_ordered_choice():
    draws = {tuple(mapped("random", 10, 4, seed=seed)) for seed in range(20)}
    assert len(draws) > 10
    assert all(list(d) == sorted(set(d)) and len(d) == 4 for d in draws)
    assert mapped("random", 10, 4, seed=3) == mapped("random", 10, 4, seed=3)


@pytest.mark.parametrize("strategy", ["sensitivity", "top", "last", "random", "uniform"])
def test_a_teacher_with_fewer_layers_leaves_the_rest_alone(strategy):
    assert mapped(strategy, 2, 4, [1, 2]) == [0, 1, None, None]


@pytest.mark.parametrize("strategy", ["cka", "stitch"])
def test_similar_layers_are_matched_in_order(strategy, tiny, make_context):
    """A teacher that is its student: every layer finds itself; the table lies in the workspace for the next one."""
    model = tiny("llama", num_hidden_layers=4)
    context = make_context(model, {"teacher.source": model, "mapping.strategy": strategy})
    assert map_layers(context.spec.mapping, context) == [0, 1, 2, 3]
    kept = similarity(context)
    assert saved_similarity(context.place, kept["key"]) == kept
    assert [kept["cka"][i][i] for i in range(4)] == pytest.approx([1.0] * 4)


def test_a_table_with_more_student_layers_leaves_the_others_alone():
    assert matched_layers([[0.1, 0.2], [0.9, 0.1], [0.3, 0.2], [0.0, 0.8]]) == [None, 0, None, 1]


def test_refusals():
    with pytest.raises(ShapeError, match="2 entries, but the student has 3 layers"):
        mapped("manual", 6, 3, layers=(1, 2))
    with pytest.raises(ShapeError, match="teacher layer 6 does not exist; choose 0 to 5"):
        mapped("manual", 6, 1, layers=(6,))
    with pytest.raises(ShapeError, match="2 layer scores for 3 teacher layers"):
        mapped("sensitivity", 3, 2, [1, 2])
