"""`python -m paraknow_core`: the command line."""

import logging
import os
import sys


def rest_while_waiting() -> None:
    """Have waiting threads leave the cores after a few microseconds; to be called before torch is loaded.

    Threads that spin while they wait, OpenMP's default, take the cores from whatever else runs: two runs on one
    machine, or a run and a browser, then make each other many times slower. Threads that do not spin at all have to be
    woken for every small product, which can take longer than the product. Who sets OMP_WAIT_POLICY decides otherwise.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def quiet_libraries() -> None:
    """Keep what libraries report of their own parts out of every log: bitsandbytes, where it is installed, tells at
    each import of a faster kernel that it could not fetch, and nobody has asked for it."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


if __name__ == "__main__":
    rest_while_waiting()
    quiet_libraries()
    try:
        from paraknow_core.cli import main

        code = main(sys.argv[1:])
    except KeyboardInterrupt:  # before or after the command itself: still no traceback
        code = 130
    sys.exit(code)
