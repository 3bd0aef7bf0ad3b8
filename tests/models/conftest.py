"""Tiny models of all families, built once a test run; tests that change a model take a copy."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny_models import build_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Callable[..., Path]:
    """Return `tiny(family, **options) -> folder`, built once for the same options. Do not change what it returns."""
    built: dict[tuple, Path] = {}

    def get(family: str, **options) -> Path:
        key = (family, *sorted(options.items()))
        if key not in built:
            built[key] = build_tiny(family, tmp_path_factory.mktemp(family), **options)
        return built[key]

    return get


@pytest.fixture
def tiny_copy(tiny, tmp_path) -> Callable[..., Path]:
    """Return `tiny_copy(family, **options) -> folder` that a test may damage."""

    def get(family: str, **options) -> Path:
        return Path(shutil.copytree(tiny(family, **options), tmp_path / f"{family}-copy"))

    return get
