"""The skimming reader must agree with the json module on whatever it returns."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paraknow_core.models.json_skim import skim

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(max_size=3), _JSON, max_size=5), _JSON, st.booleans(), st.sampled_from([None, 1]))
def test_agrees_with_json(document, value, ascii_only, indent):
    document = document | {"model": {"first": document, "vocab": value, "merges": [["a", "]"], ["{", '"\\']]}}
    data = json.dumps(document, ensure_ascii=ascii_only, indent=indent).encode()
    keys = {("model", "vocab"), ("model", "merges"), ("absent",), ("model", "absent")}
    found = skim(data, keys)
    document.setdefault("absent", None)
    expected = {("model", "vocab"): value, ("model", "merges"): [["a", "]"], ["{", '"\\']]}
    assert {key: found[key] for key in expected} == expected


def test_stops_once_everything_is_found():
    assert skim(b'{"a": {"b": 1}, then nothing that is JSON', {("a", "b")}) == {("a", "b"): 1}


@pytest.mark.parametrize("data", [b"", b"3", b"{", b'{"a"', b'{"a":', b'{"a": [1, 2', b'{"a": 1 "b": 2}', b'{"a": "x'])
def test_torn_text_is_refused(data):
    with pytest.raises(ValueError):
        skim(data, {("z",)})
