"""Random numbers by name: the same draw for the same names, whatever else is drawn, and in whatever order."""

import hashlib

import torch


def seed_of(*names: object) -> int:
    """Return a seed that belongs to these names: 48 bits of their hash."""
    digest = hashlib.sha256(":".join(map(str, names)).encode()).digest()
    return int.from_bytes(digest[:6], "big")


def generator_of(*names: object) -> torch.Generator:
    """Return a generator, of the CPU, that belongs to these names, such as a seed and a module."""
    return torch.Generator().manual_seed(seed_of(*names))
