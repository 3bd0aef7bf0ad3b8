"""What a study runs: arms that differ in one stated way, with several seeds."""

import pytest

from paraknow_core.errors import RunError
from paraknow_core.spec import RunSpec
from paraknow_core.studies.spec import ARMS, CONTROLS, STANDARD, labelled, standard


def test_arms_differ_in_one_stated_way_only():
    spec = RunSpec(name="demo", seed=7).with_changes({"injection.mode": "additive", "factorisation.rank": 8})
    planned = standard(spec, [7])
    assert tuple(planned) == tuple((name, 7) for name in STANDARD)
    for (name, _), arm in planned.items():
        allowed = {"name", *ARMS[name]}
        changed = {key for key in type(arm).model_fields if getattr(arm, key) != getattr(spec, key)}
        assert changed <= {key.split(".")[0] for key in allowed}, name
        assert arm.name == f"demo {name}"
        assert (arm.seed, arm.factorisation.rank) == (7, 8)
    assert planned["seeking", 7].injection.mode == "residual"
    [other] = standard(spec, [0], ["seeking, difference"]).values()
    assert other.injection.mode == "difference"
    with pytest.raises(RunError, match="'magic' is unknown"):
        standard(spec, [0], ["magic"])


def test_every_arm_has_every_seed_and_seeds_count_on_past_the_largest():
    base = RunSpec(name="x")
    planned = labelled(base, {"a": {"method": "pissa"}, "b": {}}, [2**32 - 1, 2**32], lambda arm, seed: f"{arm} {seed}")
    assert list(planned) == [("a", 2**32 - 1), ("b", 2**32 - 1), ("a", 2**32), ("b", 2**32)]
    assert [(spec.method, spec.seed) for spec in planned.values()][2:] == [("pissa", 0), ("seeking", 0)]
    assert planned["a", 2**32 - 1].name == "a 4294967295"
    assert {spec.name for spec in labelled(base, {"a": {}}, [1, 2]).values()} == {"x"}
    assert {changes["method"] for changes in CONTROLS.values()} == set(CONTROLS)
