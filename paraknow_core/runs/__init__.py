"""Run folders: reading and writing them, and what happens to a run from outside."""
