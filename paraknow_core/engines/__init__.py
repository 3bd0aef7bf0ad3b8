"""Engines: who executes a run folder. They start `python -m paraknow_core run <folder>` and never import it."""
