"""Independently trained models load, and pair as an independent reference paired them."""

import json

import pytest

from paraknow_core.models.anatomy import read_anatomy
from paraknow_core.models.compat import compatibility
from paraknow_core.models.source import resolve_model
from paraknow_core.models.tokenizer import align_tokens, vocabulary
from tests.models.test_load import check_loads


@pytest.mark.parametrize("name", ["models/stories_1m", "models/shakespeare_2m", "golden/gsm_llama/teacher"])
def test_real_models_load(shared, name):
    source = resolve_model(str(shared / name))
    check_loads(source)


def test_two_real_models_pair(shared):
    teacher, student = (resolve_model(str(shared / "models" / name)) for name in ("shakespeare_2m", "stories_1m"))
    alignment = align_tokens(vocabulary(teacher), vocabulary(student))
    report = compatibility(read_anatomy(teacher), read_anatomy(student), alignment)
    assert alignment.identical and report.counts["cut"] == 36 and not report.blocking
    notes = " ".join(report.notes)
    assert "grouped-query attention only in the student" in notes and "head sizes differ (32 and 16)" in notes


def test_the_golden_case_pairs_as_expected(shared):
    case = shared / "golden" / "gsm_llama"
    expected = json.loads((case / "expected.json").read_text())
    teacher, student = (resolve_model(str(case / name)) for name in ("teacher", "student"))
    alignment = align_tokens(vocabulary(teacher), vocabulary(student))
    report = compatibility(read_anatomy(teacher), read_anatomy(student), alignment, mapping=expected["selected_layers"])
    found = {p.student_module: (p.teacher_module, list(p.placed_shape)) for p in report.pairings}
    assert found == {name: (m["teacher_module"], m["shape"]) for name, m in expected["modules"].items()}
