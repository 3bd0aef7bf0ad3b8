"""Parts of the seed samples, measured apart and added up."""

import pytest
import torch
from safetensors.torch import load_file

from paraknow_core.context import Context
from paraknow_core.errors import DataError
from paraknow_core.paths import workspace
from paraknow_core.products import sensitivity_to
from paraknow_core.sensitivity.store import FULL


@pytest.fixture
def part_of(make_context, tiny, tmp_path):
    """Return a function that measures a part (None: the whole) into a folder, on a worker of its own."""
    student = tiny("llama")

    def measure(part, name, changes=None, **settings):
        made = make_context(student, {"sensitivity.samples": 5, **(changes or {})}, place=workspace(tmp_path / name))
        options = made.settings.model_copy(update=settings)
        context = Context(made.spec, options, made.place, part=part)
        sensitivity_to(context, tmp_path / f"out-{name}")
        return tmp_path / f"out-{name}", context

    return measure


@pytest.mark.slow
def test_parts_add_up_to_the_whole_whoever_measured_them(part_of, tmp_path):
    whole, _ = part_of(None, "whole")
    one, _ = part_of((1, 2), "one", streaming="always")
    two, context = part_of((2, 2), "two", keep="reductions")  # a part is kept whole in any case
    assert len(load_file(one / FULL)) == len(load_file(two / FULL))
    adding = Context(context.spec, context.settings, context.place)
    totals = sensitivity_to(adding, tmp_path / "sum", [two, one])
    wanted = load_file(whole / FULL)
    for name, tensor in load_file(tmp_path / "sum" / FULL).items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-6, atol=1e-9)
    assert (totals["samples"], totals["parts"]) == (5, 2)
    assert totals["sample_ids"] == [str(i) for i in totals["sample_ids"]]
    again = sensitivity_to(Context(context.spec, context.settings, context.place), tmp_path / "again")
    assert again == totals  # the sum is in the cache, under the key of the whole


@pytest.mark.slow
def test_parts_that_do_not_make_a_whole_are_refused(part_of, tmp_path):
    one, context = part_of((1, 3), "one")
    two, _ = part_of((2, 3), "two")
    other, _ = part_of((3, 3), "other", {"task.template": "plain"})
    adding = Context(context.spec, context.settings, context.place)
    for parts, says in (
        ([one, two], "parts: 1 of 5 seed samples are in none"),
        ([one, one], "is in two parts"),
        ([one, two, other], "is none of the seed samples"),
    ):
        with pytest.raises(DataError, match=says):
            sensitivity_to(adding, tmp_path / "sum", parts)
    assert not (tmp_path / "sum").exists()


def test_more_parts_than_samples_is_one_sentence(part_of):
    with pytest.raises(DataError, match="part 1/9: there are 5 seed samples"):
        part_of((1, 9), "one")
