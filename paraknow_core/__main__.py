"""`python -m paraknow_core`: the command line."""

import sys

from paraknow_core.openmp import rest_while_waiting

if __name__ == "__main__":
    rest_while_waiting()
    try:
        from paraknow_core.cli import main

        code = main(sys.argv[1:])
    except KeyboardInterrupt:  # before or after the command itself: still no traceback
        code = 130
    sys.exit(code)
