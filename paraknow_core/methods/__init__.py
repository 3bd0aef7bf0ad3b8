"""Transfer methods and the reference arms beside them: each says where a student's LoRA factors start."""

from paraknow_core.catalogue import METHODS, implementation
from paraknow_core.methods.base import Method


def method(name: str) -> Method:
    """Return the method of a spec by its name (one of `catalogue.METHODS`)."""
    return implementation(METHODS[name])()
