"""`python -m paraknow_core`: the command line."""

import os
import sys

if __name__ == "__main__":
    # OpenMP reads these when torch is loaded. Threads that spin while they wait, its default, take the cores from
    # whatever else runs: two runs on one machine, or a run and a browser, then make each other many times slower.
    # Threads that do not spin at all have to be woken for every small product, which can take longer than the product.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # a few microseconds
    try:
        from paraknow_core.cli import main

        code = main(sys.argv[1:])
    except KeyboardInterrupt:  # before or after the command itself: still no traceback
        code = 130
    sys.exit(code)
