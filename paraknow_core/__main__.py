"""`python -m paraknow_core`: the command line."""

import sys

if __name__ == "__main__":
    try:
        from paraknow_core.cli import main

        code = main(sys.argv[1:])
    except KeyboardInterrupt:  # before or after the command itself: still no traceback
        code = 130
    sys.exit(code)
