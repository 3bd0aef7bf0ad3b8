"""Speed, memory and scale. Each module is a command that prints a table of ratios: python -m benchmarks.<name>."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded; as `python -m paraknow_core` does
