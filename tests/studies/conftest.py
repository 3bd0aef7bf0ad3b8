"""Workspaces with finished runs to compare."""

import pytest

from paraknow_core.paths import Workspace


@pytest.fixture
def place(tmp_path):
    return Workspace(tmp_path)
