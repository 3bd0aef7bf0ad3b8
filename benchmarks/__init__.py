"""Speed, memory and scale. Each module is a command that prints a table of ratios: python -m benchmarks.<name>."""

import os

if "OMP_WAIT_POLICY" not in os.environ:  # before torch is loaded; as `python -m paraknow_core` does
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
