"""The check for a GPU, through the same code on the processor: that it compares, skips, fails and ends as it says."""

import inspect
import json
import os
import pkgutil
import subprocess
import sys
import time
from contextlib import suppress
from importlib import import_module

import pytest
import torch

import paraknow_core.ops
from benchmarks import gpu_check
from benchmarks.gpu_check import KERNELS, Check, Inputs, Kernel, Lacking, Layer, Part, difference, numbers, run_parts
from paraknow_core.ops import chunks, folding, metrics, products, structure, svd, vocabulary_loss
from tests.conftest import ROOT

CPU = torch.device("cpu")
# What they draw or return is made on the processor, whatever device they are given.
ON_CPU = {"contiguous", "offset_distribution", "truncated_svd", "product_norm", "rotated", "shuffled"}
ON_CPU |= {"sliced_cross_entropy", "layer_similarities"}


def check(seconds: float = 60) -> Check:
    return Check(CPU, small=True, deadline=time.monotonic() + seconds)


def called(kernel: Kernel) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return numbers(kernel.run(Inputs(CPU, small=True)))


def test_every_kernel_is_compared():
    taking_tensors = set()
    for module in pkgutil.iter_modules(paraknow_core.ops.__path__):
        module = import_module(f"paraknow_core.ops.{module.name}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            kinds = " ".join(str(p.annotation) for p in inspect.signature(function).parameters.values())
            if function.__module__ == module.__name__ and name[0] != "_" and ("Tensor" in kinds or "Module" in kinds):
                taking_tensors.add(name)
    covered = {name for kernel in KERNELS for name in kernel.covers.split()}
    assert len(taking_tensors) > 40
    assert taking_tensors - covered == set()


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.covers.split()[0])
def test_another_order_of_sums_stays_within_the_tolerance(kernel, monkeypatch):
    expected = called(kernel)
    monkeypatch.setattr(chunks, "_CPU_ELEMENTS", 1 << 13)
    monkeypatch.setattr(folding, "_STRIP", 1 << 10)
    monkeypatch.setattr(metrics, "_STRIP", 1 << 12)
    monkeypatch.setattr(products, "_STRIP", 1 << 16)
    monkeypatch.setattr(vocabulary_loss, "_ROWS", 64)
    monkeypatch.setattr(svd, "_thin_svd", svd._svd_of_triangle)
    monkeypatch.setattr(structure, "_by_partition", structure._by_sorting)
    assert difference(called(kernel), expected) <= kernel.tolerance / 3


@pytest.mark.parametrize(
    "kernel", [k for k in KERNELS if not ON_CPU & set(k.covers.split())], ids=lambda k: k.covers.split()[0]
)
def test_what_a_kernel_makes_is_on_the_device_of_its_inputs(kernel):
    expected = called(kernel)
    with torch.device("meta"):  # whatever is made without a device lands there, and does not go with the inputs
        found = called(kernel)
    assert difference(found, expected) == 0


def test_differences():
    a = [torch.tensor([1.0, -4.0]), torch.tensor(3)]
    assert difference(a, a) == 0
    assert difference([torch.tensor([1.0, -3.0]), torch.tensor(3)], a) == 0.25
    for other in ([], a[:1], [a[0], torch.tensor([3])], [torch.tensor([float("nan"), -4]), a[1]]):
        assert difference(other, a) == float("inf")


def test_a_kernel_with_other_numbers_fails_and_the_others_are_compared(monkeypatch):
    calls = iter(range(9))
    broken = Kernel("broken", 0, lambda i: torch.zeros(3) @ torch.zeros(2))
    absent = Kernel("absent", 0, broken.run, ("no_such_package",))
    monkeypatch.setattr(
        gpu_check, "KERNELS", (Kernel("drifts", 1e-3, lambda i: 1.0 + next(calls)), absent, broken, KERNELS[0])
    )
    drifts, lacks, fails, good = gpu_check.kernels(check())
    assert drifts["state"] == "failed: 1 off, 0.001 allowed"
    assert lacks["state"] == "skipped: needs no_such_package"
    assert fails["state"].startswith("failed: RuntimeError") and "<lambda>" in fails["where"][-1]
    assert "state" not in good


def test_parts_say_what_they_lack_and_do_not_keep_others_from_running(capsys):
    def fine(_check):
        yield {"case": "one", "rate": 2.0}

    def breaks(_check):
        yield {"case": "before"}
        raise ValueError("two\nlines")

    def lacks(_check):
        raise Lacking("40 GB of device memory, 10 are free")
        yield

    def imports(_check):
        import no_such_package  # noqa: F401

        yield

    kept = []
    parts = [
        Part("absent", 0, ("no_such_package",), fine),
        Part("breaks", 0, (), breaks),
        Part("lacks", 0, (), lacks),
        Part("imports", 0, (), imports),
        Part("fine", 0, (), fine),
    ]
    one = check()
    run_parts(one, parts, lambda: kept.append(len(one.rows)))
    assert [row["state"] for row in one.rows] == [
        "skipped: needs no_such_package (pip install -r requirements.txt)",
        "ok",
        "failed: ValueError: two lines",
        "skipped: needs 40 GB of device memory, 10 are free",
        "skipped: needs what requirements.txt asks for (ModuleNotFoundError: No module named 'no_such_package')",
        "ok",
    ]
    assert kept == [1, 3, 4, 5, 6]
    assert "rate 2" in capsys.readouterr().out.splitlines()[-1]


def test_time_that_is_over_ends_a_part_and_skips_the_next(capsys):
    def endless(_check):
        yield {}
        while True:
            with suppress(Exception):  # as code on the way might
                time.sleep(0.01)

    one = check(0.3)
    one.small = False
    run_parts(one, [Part("endless", 0, (), endless), Part("long", 50, (), endless)])
    assert one.rows[0]["state"] == "ok"
    assert [row["state"][:30] for row in one.rows[1:]] == [
        "skipped: needs more than the 0",
        "skipped: needs about 50 s, 0 s",
    ]


def test_a_layers_sums_are_those_of_one_sample_after_the_other():
    torch.manual_seed(0)
    layer, states, upper = Layer(16, 40, 2), torch.randn(3, 5, 16), torch.randn(3, 5, 16)
    expected = {name: torch.zeros_like(p) for name, p in layer.named_parameters()}
    below = []
    for x, g in zip(states, upper, strict=True):
        leaf = x[None].clone().requires_grad_()
        layer.zero_grad()
        layer(leaf).backward(g[None])
        below.append(leaf.grad[0])
        for name, p in layer.named_parameters():
            expected[name] += (p * p.grad).abs().detach()
    gradient = upper.clone()
    sums = gpu_check._layer_sums(layer, states, gradient, [slice(0, 2), slice(2, 3)])
    for name, total in sums.items():
        torch.testing.assert_close(total, expected[name])
    torch.testing.assert_close(gradient, torch.stack(below))


def test_ceilings_and_the_extraction_by_kernels_need_torch_alone(tmp_path, monkeypatch, capsys):
    options = ["--device", "cpu", "--small", "--only", "ceilings", "--only", "extraction", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["gpu_check", *options])
    monkeypatch.setattr(os, "environ", os.environ.copy())
    assert gpu_check.main() == 0
    rows = json.loads((tmp_path / "gpu_check_small.json").read_text())["rows"]
    assert {row["part"] for row in rows} == {"ceilings", "extraction"}
    stages = [row for row in rows if row["part"] == "extraction"]
    assert stages[-1]["seconds"] == pytest.approx(sum(row["seconds"] for row in stages[:-1]))
    assert stages[0]["of_products"] > 0 and stages[0]["of_copy"] > 0
    assert "0 failed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"), [(["--device", "cpu"], "the full sizes take a GPU"), ([], "finds no CUDA device")]
)
def test_what_cannot_be_measured_here_is_said(options, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_check", *options])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.main() == 2
    assert words in capsys.readouterr().out


def elsewhere(*parts: str) -> list[dict]:
    """Run parts in a process of their own, in which torch knows another device; see `other_device`."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.other_device", *parts]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.slow
def test_kernels_and_the_extraction_run_on_another_device():
    rows = elsewhere("kernels", "extraction")
    compared = [row for row in rows if row["part"] == "kernels"]
    assert len(compared) == len(KERNELS)
    assert not [row for row in rows if "state" in row]
    assert len(rows) == len(KERNELS) + 4


@pytest.mark.slow
def test_a_teacher_is_measured_and_a_student_trained_on_another_device():
    rows = elsewhere("product", "training")
    assert not [row for row in rows if "state" in row]
    assert {row["part"] for row in rows} == {"product", "training"}
    totals = {row["way"]: row["total"] for row in rows if "way" in row}
    assert totals["streamed"] == pytest.approx(totals["resident"], rel=1e-5)


@pytest.mark.slow
def test_every_part_runs_at_its_small_size(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--device", "cpu", "--small", "--out", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "gpu_check_small.json").read_text())["rows"]
    assert {row["part"] for row in rows} == {part.name for part in gpu_check.PARTS}
    skipped = {(row["part"], row["state"]) for row in rows if row["state"] != "ok"}
    assert skipped <= {("ceilings", "skipped: needs CUDA"), ("packed", "skipped: not in this version")}
