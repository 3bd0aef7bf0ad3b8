"""Transfer methods and the reference arms beside them: each says where a student's LoRA factors start."""

from collections.abc import Callable

from paraknow_core.methods.base import Method


def method(name: str) -> Method:
    """Return the method of a spec by its name (one of `spec.METHODS`)."""
    from paraknow_core.methods import reference
    from paraknow_core.methods.seeking import method as seeking

    makers: dict[str, Callable[[], Method]] = {
        "seeking": seeking.Seeking,
        "random_offset": seeking.RandomOffset,
        "default_lora": reference.DefaultLora,
        "pissa": reference.Pissa,
        "olora": reference.Olora,
    }
    return makers[name]()
