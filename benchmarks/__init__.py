"""Speed, memory and scale. Each module is a command that prints a table of ratios: python -m benchmarks.<name>."""
