"""`python -m paraknow_core`: the command line."""

import os
import sys

if __name__ == "__main__":
    # OpenMP reads this when torch is loaded. Threads that spin while they wait, its default, take the cores from
    # whatever else runs: two runs on one machine, or a run and a browser, then make each other many times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from paraknow_core.cli import main

        code = main(sys.argv[1:])
    except KeyboardInterrupt:  # before or after the command itself: still no traceback
        code = 130
    sys.exit(code)
