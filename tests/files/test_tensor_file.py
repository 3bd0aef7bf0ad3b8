"""A safetensors file that is filled in place."""

import resource
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from paraknow_core.files.tensor_file import TensorFile, file_bytes

LAYOUT = {
    "a": (torch.float32, (3, 4)),
    "b.c": (torch.bfloat16, (5,)),
    "empty": (torch.float32, (0, 4)),
    "d": (torch.int64, (2, 2)),
}


def test_what_is_written_is_what_the_library_reads(tmp_path):
    path = tmp_path / "x.safetensors"
    file = TensorFile(path, LAYOUT)
    file["a"].copy_(torch.arange(12.0).view(3, 4))
    file["b.c"].fill_(1.5)
    file["d"][1, 0] = 7
    assert set(file) == set(LAYOUT)
    read = load_file(path)
    assert torch.equal(read["a"], torch.arange(12.0).view(3, 4))
    assert read["b.c"].eq(1.5).all()
    assert read["d"].tolist() == [[0, 0], [7, 0]]
    assert read["empty"].shape == (0, 4)
    assert file_bytes(LAYOUT) == 12 * 4 + 5 * 2 + 4 * 8


def test_reopening_keeps_the_content_and_another_layout_starts_afresh(tmp_path):
    path = tmp_path / "x.safetensors"
    TensorFile(path, LAYOUT)["a"].fill_(2)
    assert TensorFile(path, LAYOUT)["a"].eq(2).all()
    other = {"a": (torch.float32, (4, 3)), "d": (torch.int64, (2, 2))}
    assert TensorFile(path, other)["a"].eq(0).all()


def test_it_is_written_before_the_process_is_killed(tmp_path):
    path = tmp_path / "x.safetensors"
    code = (
        "import os, torch; from pathlib import Path; from paraknow_core.files.tensor_file import TensorFile\n"
        f"TensorFile(Path({str(path)!r}), {{'a': (torch.float32, (3,))}})['a'].fill_(5); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert load_file(path)["a"].tolist() == [5, 5, 5]


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="the system has no limit to set")
def test_no_room_is_one_sentence_and_leaves_nothing(tmp_path):
    code = (
        "import resource, signal, torch; from pathlib import Path; from paraknow_core.errors import RunError\n"
        "from paraknow_core.files.tensor_file import TensorFile\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        f"    TensorFile(Path({str(tmp_path / 'x')!r}), {{'a': (torch.float32, (1 << 20,))}})\n"
        "except RunError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("x: needs 4 MB of disk, more than is free; ")
    assert not list(tmp_path.iterdir())
