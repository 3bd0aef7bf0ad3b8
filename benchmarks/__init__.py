"""Speed, memory and scale. Each module is a command that prints a table of ratios: python -m benchmarks.<name>."""

from paraknow_core.__main__ import rest_while_waiting

rest_while_waiting()  # before torch is loaded; as `python -m paraknow_core` does
