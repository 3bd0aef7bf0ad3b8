"""Memory of this process: what is freed goes back to the system where that was asked for."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

# In a process of its own: what others have freed before would be taken again.
SCRIPT = """
import torch
from paraknow_core.memory import anonymous_bytes, map_blocks_from
MB = 1 << 20
map_blocks_from(MB)
before, large, small = anonymous_bytes(), [], []
for _ in range(40):
    large.append(torch.ones(MB))  # 4 MiB
    small.append(torch.ones(1000))
assert anonymous_bytes() - before > 150 * MB
del large[:-1]
assert anonymous_bytes() - before < 20 * MB
assert all(tensor.sum() == 1000 for tensor in small)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_large_blocks_are_given_back_although_small_ones_lie_between_them():
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
