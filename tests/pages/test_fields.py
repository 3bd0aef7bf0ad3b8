"""Numbers of the draft: their widgets have the bounds of the spec."""

import pytest

from pages._ui.frame.fields import NUMBERS, bounds_of
from paraknow_core.errors import SpecError
from paraknow_core.spec import RunSpec


@pytest.mark.parametrize("dotted", [dotted for dotted in NUMBERS if dotted != "finetuning.micro_batch_size"])
def test_what_a_widget_allows_is_what_the_spec_allows(dotted):
    for bound in bounds_of(dotted):
        RunSpec().with_changes({dotted: bound})
    low, _ = bounds_of(dotted)
    with pytest.raises(SpecError):
        RunSpec().with_changes({dotted: low - 1})


def test_a_number_is_whole_where_the_spec_has_whole_ones():
    assert bounds_of("task.sizes.train") == (1, 10_000_000)
    assert bounds_of("seed") == (0, 2**32 - 1)
    assert [type(bound) for bound in bounds_of("seed")] == [int, int]
    assert [type(bound) for bound in bounds_of("finetuning.epochs")] == [float, float]
    assert bounds_of("finetuning.micro_batch_size") == (0, 65_536)  # 0 stands for none
