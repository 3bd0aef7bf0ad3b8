"""How the threads of matrix products wait for one another."""

import os


def rest_while_waiting() -> None:
    """Have waiting threads leave the cores after a few microseconds; to be called before torch is loaded.

    Threads that spin while they wait, OpenMP's default, take the cores from whatever else runs: two runs on one
    machine, or a run and a browser, then make each other many times slower. Threads that do not spin at all have to be
    woken for every small product, which can take longer than the product. Who sets OMP_WAIT_POLICY decides otherwise.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
