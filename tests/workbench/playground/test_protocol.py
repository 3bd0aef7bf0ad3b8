"""A slot's key is its name for files: an untrained model has its own, every other slot the one it always had."""

import hashlib

from paraknow_core.workbench.playground.protocol import Slot


def test_the_key_tells_untrained_from_trained_and_keeps_the_others():
    old = '{"source":"bundled:kin","revision":null,"run":""}'
    assert Slot(source="bundled:kin").key == hashlib.sha256(old.encode()).hexdigest()[:24]
    keys = {Slot(source="bundled:kin", untrained=seed).key for seed in (None, 0, 1)}
    assert len(keys) == 3
