"""Runs that are planned without a study: arms that differ in one stated way, with several seeds."""

from paraknow_core.spec import RunSpec
from paraknow_core.studies.spec import labelled


def test_every_arm_has_every_seed_and_seeds_count_on_past_the_largest():
    base = RunSpec(name="x")
    planned = labelled(base, {"a": {"method": "pissa"}, "b": {}}, [2**32 - 1, 2**32], lambda arm, seed: f"{arm} {seed}")
    assert list(planned) == [("a", 2**32 - 1), ("b", 2**32 - 1), ("a", 2**32), ("b", 2**32)]
    assert [(spec.method, spec.seed) for spec in planned.values()][2:] == [("pissa", 0), ("seeking", 0)]
    assert planned["a", 2**32 - 1].name == "a 4294967295"
    assert {spec.name for spec in labelled(base, {"a": {}}, [1, 2]).values()} == {"x"}
