"""`python -m paraknow_core`: the command line."""

import logging
import sys

from paraknow_core.openmp import rest_while_waiting


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
