"""What the command line settles before any heavy library is loaded."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

ASK = (
    "import os, runpy, sys\n"
    "sys.argv = ['paraknow_core', '--version']\n"
    "try:\n"
    "    runpy.run_module('paraknow_core', run_name='__main__')\n"
    "except SystemExit:\n"
    "    print(os.environ['OMP_WAIT_POLICY'], os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)\n"
)


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE 1000"), ("ACTIVE", "ACTIVE None")])
def test_waiting_threads_leave_the_cores_to_others_unless_told_otherwise(given, expected):
    environment = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    environment |= {"OMP_WAIT_POLICY": given} if given else {}
    done = subprocess.run(
        [sys.executable, "-c", ASK], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == f"{expected} False"


def test_libraries_log_nothing_that_nobody_asked_for():
    command = [sys.executable, "-c", f"{ASK}import bitsandbytes"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert done.stderr == ""
