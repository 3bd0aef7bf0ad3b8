"""What tests of comparisons share."""

import json

from paraknow_core import studies as comparison
from paraknow_core.runs.folder import list_runs


def groups_of(place):
    """Return the arms of a workspace's runs, found newest first."""
    return comparison.arms_of([(run, run.spec()) for run in sorted(list_runs(place), key=lambda r: r.id, reverse=True)])


def amend(run, **parts):
    """Change parts of a run's result."""
    result = run.result()
    for name, values in parts.items():
        result[name] = {**(result.get(name) or {}), **values}
    run.file("result.json").write_text(json.dumps(result))
