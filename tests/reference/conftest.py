"""Tests on real models and data that do not come with the project: `make reference`, with `../shared` beside it."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of shared material."""
    if not SHARED.is_dir():
        pytest.fail(f"{SHARED.name}: these tests need that folder beside the project; the others do not")
    return SHARED
