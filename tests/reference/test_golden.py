"""Windows and factors against an independent reference of the published algorithm."""

import json

import pytest
import torch
from safetensors.torch import load_file

from paraknow_core.ops.structure import submatrix
from paraknow_core.ops.svd import factorise
from tests.ops.matrices import relative_error


@pytest.fixture(scope="module")
def golden(shared):
    folder = shared / "golden" / "gsm_llama"
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    return expected, load_file(folder / "expected.safetensors"), load_file(folder / "teacher" / "model.safetensors")


def test_every_window_and_every_product_agrees(golden):
    expected, tensors, teacher = golden
    for name, module in expected["modules"].items():
        parameter = f"{module['teacher_module']}.weight"
        selection = submatrix(tensors[f"sensitivity.{parameter}"], *module["shape"])
        assert selection.describe()["top_left"] == module["top_left"], name
        assert selection.sum(tensors[f"sensitivity.{parameter}"]) == pytest.approx(module["window_sum"], rel=1e-6)
        factors = factorise(selection.take(teacher[parameter]), expected["rank"])
        wanted = torch.tensor(module["singular_values"])
        torch.testing.assert_close(factors.singular_values, wanted, rtol=1e-4, atol=0)
        assert relative_error(factors.b @ factors.a, tensors[f"{name}.delta"]) < 1e-4, name
