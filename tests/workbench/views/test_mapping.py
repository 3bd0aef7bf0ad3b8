"""A layer mapping by hand: clicks, edits of its table, and what is said about it."""

import pytest

from paraknow_core.workbench.views.mapping import after_click, after_edit, notes

RECEIVES = "receives teacher layer"


@pytest.mark.parametrize(
    ("clicked", "picked", "now", "linked"),
    [
        (("teacher", 5), None, ("teacher", 5), None),
        (("student", 1), ("teacher", 5), None, [0, 5, None, 3]),
        (("teacher", 0), ("student", 2), None, [0, 1, 0, 3]),
        (("teacher", 2), ("teacher", 5), ("teacher", 2), None),
        (None, ("teacher", 5), None, None),
        (("student", 9), ("teacher", 5), None, None),
    ],
)
def test_two_clicks_make_a_link(clicked, picked, now, linked):
    assert after_click(clicked, picked, [0, 1, None, 3]) == (now, linked)


def test_edits_of_the_table_become_a_mapping():
    edited = {"1": {RECEIVES: 4}, 2: {RECEIVES: None}, "0": {"S": 3}, "77": {RECEIVES: 1}}
    assert after_edit(edited, RECEIVES, [0, 1, 2]) == [0, 4, None]


def test_notes_say_what_is_allowed_but_worth_knowing():
    assert notes([0, 1, 2], 3) == []
    said = " ".join(notes([2, 2, None, 1], 6))
    assert "Teacher layer 2 given more than once" in said
    assert "Student layer 2: nothing received" in said
    assert "Not in the teacher's order" in said
    assert "4 of 6 teacher layers give nothing" in said
