"""What has its shape is kept as it is; what has not is left out and named."""

import copy

import pytest

from paraknow_core.files import shapes
from paraknow_core.files.shapes import MISSING, fit, fits

WHOLE = {
    "scores": [{"scorer": "a", "value": 0.5, "n": 3, "unit": None, "extra": {"x": [1]}}],
    "timings": {"prepare": 1.0},
    "task": {"name": "t", "sizes": {"train": 3}},
    "references": {"student": [{"scorer": "a", "value": 1}]},
    "layer_mapping": [1, None],
    "more": {"anything": object},
}
ODD = (None, True, "x", 1.5, -1, [], {}, [None], {"a": 1}, float("nan"), 2**70)


def places(value, at=()):
    """Yield the path of every value inside plain data."""
    yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*at, key))


def changed(at, odd):
    """Return the whole result with another value at one place."""
    result = copy.deepcopy(WHOLE)
    if not at:
        return odd
    node = result
    for key in at[:-1]:
        node = node[key]
    node[at[-1]] = odd
    return result


def test_a_whole_result_is_kept_as_it_is():
    assert fits(WHOLE, shapes.RESULT)
    assert fit(WHOLE, shapes.RESULT) == (WHOLE, [])


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_the_quick_look_says_what_the_long_one_does(odd, monkeypatch):
    for at in places(WHOLE):
        result = changed(at, odd)
        quick = fits(result, shapes.RESULT)
        with monkeypatch.context() as patch:
            patch.setattr(shapes, "fits", lambda *_: False)  # the long way only
            kept, lost = fit(result, shapes.RESULT)
        assert quick == (not lost), at
        assert quick == (kept is not MISSING and not lost)
        if quick:
            assert repr(kept) == repr(result)
        assert repr(shapes.fit_result(result)) == repr(fit(result, shapes.RESULT)), at
        assert quick or not shapes._fits_result()(result), at
