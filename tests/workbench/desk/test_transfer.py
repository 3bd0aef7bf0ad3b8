"""Questions about a transfer over tiny pairs: fused modules, other vocabularies, smaller teachers, changed files."""

import numpy
import pytest

from paraknow_core.methods.mapping import map_layers
from paraknow_core.paths import workspace
from paraknow_core.sensitivity.measure import sensitivity
from paraknow_core.sensitivity.similarity import similarity
from paraknow_core.spec import RunSpec
from paraknow_core.workbench.desk import requests
from paraknow_core.workbench.desk.questions import question_key
from paraknow_core.workbench.desk.serve import work_out
from tests.tiny_models import edit_weights


@pytest.fixture
def ask(teacher, make_context, session_place):
    """Return a function that plans a tiny pair and asks for every layer, over the really measured teacher."""

    def asked(student, structure="submatrix", mode="block", structure_of_plan="", **more):
        store = sensitivity(make_context(student))
        pair = {"teacher.source": teacher, "student.source": str(student), "mapping.strategy": "last"}
        spec = RunSpec().with_changes(pair | more)
        plan, _ = work_out(
            session_place, requests.TransferPlan(spec=spec, stores=[store.folder.name], structure=structure_of_plan)
        )
        blocks = {"spec": spec, "store": plan["store"], "structure": structure}
        rows = []
        for layer in (None, *range(plan["student_layers"])):
            pairs = [pair for pair in plan["pairs"] if pair["layer"] == layer]
            value, _ = work_out(session_place, requests.TransferLayer(pairs=pairs, mode=mode, rank=8, **blocks))
            rows += value["rows"]
        return plan, rows, blocks

    return asked


@pytest.mark.parametrize("structure", ["submatrix", "row_column", "neuron", "random", "random_offset", "even_slice"])
@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2"])
def test_every_structure_of_every_kind_of_module(tiny, ask, session_place, family, structure):
    plan, rows, blocks = ask(tiny(family), structure)
    assert len(rows) == len([pair for pair in plan["pairs"] if pair["action"] != "skip"]) > 0
    assert not any(row["problem"] for row in rows)
    assert all(0 <= row["captured_mass"] <= 1 + 1e-9 for row in rows)
    if structure == "submatrix":
        assert all(row["offsets"]["at_most"] == 1 for row in rows)
    given = next(pair for pair in plan["pairs"] if pair["action"] == "cut")
    value, arrays = work_out(session_place, requests.TransferBlock(pair=given, **blocks))
    assert arrays["rows"].sum() == pytest.approx(value["total"], rel=1e-5)
    assert arrays["counts"].sum() == value["positions"]
    if value["kind"] != "window":
        kept = arrays["kept_rows"].sum() / len(arrays["kept_rows"])
        assert kept == pytest.approx(
            value["shape"][0] / value["teacher_shape"][0] if value["kind"] == "grid" else value["area_fraction"]
        )


@pytest.mark.parametrize("structure", ["coherent_window", "coherent_scattered"])
def test_a_coherent_structure_is_shown_where_it_can_be_had(tiny, ask, structure):
    ungrouped = {"num_key_value_heads": 4}
    plan, rows, _ = ask(tiny("llama", **ungrouped), structure)
    assert not any(row["problem"] for row in rows)
    plan, rows, _ = ask(tiny("llama"), structure, structure_of_plan=structure)
    assert "query heads of the student share a key-value head" in plan["blocking"][0]
    assert {"whole heads cannot be taken" in row["problem"] for row in rows if row["problem"]} == {True}
    assert [row for row in rows if not row["problem"]]


def test_a_fused_host_holds_the_rank_of_each_of_its_modules(tiny, ask):
    plan, _, _ = ask(tiny("phi3"))
    fused = [host for host in plan["hosts"] if host["modules"] == 3]
    assert fused
    assert fused[0]["sides"] == 32 + (32 + 16 + 16)


def test_other_vocabularies_are_matched_by_token(tiny, ask):
    plan, rows, _ = ask(tiny("llama", extra_tokens=("<new>",), seed=5))
    embed = next(row for row in rows if row["role"] == "embed")
    assert embed["action"] == "place"
    assert embed["teacher_shape"][0] == embed["student_shape"][0]
    assert embed["positions"] == 48 - 32 + 1


def test_a_mapping_that_does_not_fit_is_said_and_the_sizes_are_still_there(tiny, ask):
    plan, rows, _ = ask(tiny("llama"), **{"mapping.strategy": "manual", "mapping.layers": [1, 2, 3]})
    assert "3 entries, but the student has 2 layers" in plan["problem"]
    assert (plan["layers"], plan["pairs"], rows) == (None, [], [])
    assert plan["teacher_layers"] == 4


def test_a_weight_file_that_changes_is_read_again(ask, tmp_path, session_place):
    from tests.tiny_models import build_tiny

    student = build_tiny("llama", tmp_path / "student", seed=8)
    _, before, _ = ask(student)
    edit_weights(student, lambda tensors: {name: -tensor for name, tensor in tensors.items()})
    _, after, _ = ask(student)
    cosines = [[row["cosine"] for row in rows] for rows in (before, after)]
    numpy.testing.assert_allclose(cosines[0], [-c for c in cosines[1]], atol=1e-6)


def test_a_mapping_by_hidden_states_is_known_once_they_were_compared(tiny, teacher, make_context, session_place):
    changes = {"mapping.strategy": "stitch"}
    context = make_context(tiny("llama"), changes)
    asked = requests.TransferSimilarity(spec=context.spec)
    answer = work_out(session_place, asked)[0]
    assert answer == {"key": similarity(context)["key"], "problem": ""}
    for key, layers in (("", None), ("0" * 32, None), (answer["key"], map_layers(context.spec.mapping, context))):
        plan, _ = work_out(session_place, requests.TransferPlan(spec=context.spec, stores=[], similarity=key))
        assert (plan["layers"], plan["problem"]) == (layers, "")
    few = make_context(tiny("llama"), {"task.max_length": 13, "sensitivity.samples": 1})
    answer = work_out(session_place, requests.TransferSimilarity(spec=few.spec))[0]
    assert answer["key"] is None
    assert "in common, and 16 are needed" in answer["problem"]
    store = sensitivity(context).folder.name
    kept, _ = work_out(session_place, requests.KeptLayers(spec=context.spec, store=store))
    assert kept == {"layers": None}
    module = "model.layers.0.mlp.up_proj"
    window, _ = work_out(session_place, requests.SensitivityWindow(spec=context.spec, store=store, module=module))
    assert "Mapping & extraction says which layers" in window["note"]


def test_random_weights_are_not_made_for_a_look(teacher, tiny, make_context, tmp_path):
    place = workspace(tmp_path)
    context = make_context(tiny("llama"), {"teacher.untrained": 2}, place=place)
    question = requests.TransferSource(spec=context.spec)
    before = question_key(question, place)
    value, _ = work_out(place, question)
    assert (value["key"], "(untrained, seed 2)" in value["problem"]) == (None, True)
    alike = work_out(place, requests.TransferSimilarity(spec=context.spec.with_changes({"mapping.strategy": "cka"})))[0]
    assert alike == {"key": None, "problem": ""}
    plan, _ = work_out(place, requests.TransferPlan(spec=context.spec, stores=[], structure="submatrix"))
    assert plan["teacher_layers"] == 4
    assert not place.untrained.exists()
    trained = requests.TransferSource(spec=make_context(tiny("llama")).spec)
    usual = question_key(trained, place)
    store = sensitivity(context)
    assert question_key(question, place) != before
    assert question_key(trained, place) == usual
    assert work_out(place, question)[0]["key"] == store.folder.name
