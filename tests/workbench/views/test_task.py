"""Seed samples by hand, and what a limit does to examples."""

import pandas

from paraknow_core.workbench.views.task import examples_table, merged


def test_ticks_keep_what_is_not_shown_and_add_at_the_end():
    assert merged(["a", "b", "c"], ["b", "d", "e"], {"d"}) == ["a", "c", "d"]
    assert merged(["a"], ["a"], set()) == []
    assert merged([], ["x", "y"], {"y", "x"}) == ["x", "y"]


def test_windows_of_one_text_are_one_row():
    value = {"ids": ["t:1", "t:1", "t:2"], "texts": ["", "", ""], "answers": ["one", "one", "two"]}
    table = examples_table(value, *(pandas.Series(x).to_numpy() for x in ([10, 4, 8], [1, 1, 1])), 9)
    assert list(table["tokens"]) == [13, 8]
    assert list(table["learnt"]) == [11, 7]
    assert table["note"].iloc[0].startswith("cut")
