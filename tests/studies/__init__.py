"""What tests of comparisons share."""

import json

from paraknow_core.runs.folder import list_runs
from paraknow_core.studies.arms import arms_of


def groups_of(place):
    """Return the arms of a workspace's runs, found newest first."""
    return arms_of([(run, run.spec()) for run in sorted(list_runs(place), key=lambda r: r.id, reverse=True)])


def amend(run, **parts):
    """Change parts of a run's result."""
    result = run.result()
    for name, values in parts.items():
        result[name] = {**(result.get(name) or {}), **values}
    run.file("result.json").write_text(json.dumps(result))
