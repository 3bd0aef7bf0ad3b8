"""Parameters of which `make test` runs a few; `make test-slow` runs the rest."""

from collections.abc import Iterable
from typing import Any

import pytest


def mostly_slow(cases: Iterable[Any], *quick: Any) -> list[Any]:
    """Mark all cases `slow` but the quick ones.

    Args:
        cases: values for `parametrize`; a tuple holds the values of several names.
        quick: those of them that stand for their kind.
    """
    cases = list(cases)
    assert all(case in cases for case in quick), "a quick case is one of the cases"
    return [
        case if case in quick else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
        for case in cases
    ]
