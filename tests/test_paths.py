"""Names never lead outside the workspace."""

import pytest

from paraknow_core.errors import RunError
from paraknow_core.paths import contained


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "../x", "/etc", "a/../.."])
def test_names_that_lead_outside_are_refused(tmp_path, name):
    with pytest.raises(RunError, match="plain name"):
        contained(tmp_path, name)


def test_contained_refuses_a_link_that_leads_outside(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "link").symlink_to(tmp_path)
    with pytest.raises(RunError, match="plain name"):
        contained(tmp_path / "runs", "link")
    assert contained(tmp_path / "runs", "fine") == tmp_path / "runs" / "fine"
