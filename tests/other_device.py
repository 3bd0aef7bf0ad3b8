"""A device that is not the processor, for tests on machines that have none: the numbers are real, the place is not.

Tensors of it hold a tensor of the processor, on which every operation is carried out. What real devices refuse is
refused: an operation on tensors of two devices, but for single numbers, indices and copies.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend


class _Library(_DummyBackendModule):
    """The device's own random numbers, of which there are none."""

    def get_rng_state(self, _device: Any = None) -> Tensor:
        return torch.zeros(1, dtype=torch.uint8)

    def set_rng_state(self, _state: Tensor, _device: Any = None) -> None:
        pass


_setup_privateuseone_for_python_backend("elsewhere", _Library())
OTHER = torch.device("elsewhere", 0)
_aten = torch.ops.aten
_COPIES = {_aten._to_copy.default, _aten.to.device, _aten.to.dtype_layout, _aten.to.other}
_MIX = {_aten.copy_.default, _aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default}
_MIX |= {_aten._index_put_impl_.default}


class _Elsewhere(Tensor):
    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "_Elsewhere":
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=OTHER,
        )
        made.inner = inner
        return made

    def tolist(self) -> Any:
        return self.inner.tolist()

    def storage(self) -> Any:
        return self.inner.storage()

    def untyped_storage(self) -> Any:
        return self.inner.untyped_storage()

    @classmethod
    def __torch_dispatch__(cls, function: Any, _types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _carried_out(function, args, kwargs or {})


class other_device(TorchDispatchMode):  # noqa: N801 - used like a function: `with other_device():`
    """While open, `OTHER` can be used."""

    def __enter__(self) -> Any:
        made = self._made = torch.tensor

        def tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
            return made(data, **options) if device is None else made(data, **options).to(device)

        torch.tensor = tensor
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        torch.tensor = self._made
        super().__exit__(*error)

    def __torch_dispatch__(self, function: Any, _types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _carried_out(function, args, kwargs or {})


def _carried_out(function: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    leaves = tree_flatten((args, kwargs))[0]
    tensors = [t for t in leaves if isinstance(t, Tensor)]
    other = [t for t in tensors if isinstance(t, _Elsewhere)]
    apart = [t for t in tensors if t.dim() and not isinstance(t, _Elsewhere)]
    if other and apart and function not in _MIX | _COPIES:
        raise RuntimeError(f"{function}: tensors on two devices")
    devices = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
    there = devices[0].type == OTHER.type if devices else bool(other)
    if function in _MIX:
        there = isinstance(args[0], _Elsewhere)
    known = {id(t.inner): t for t in other}

    def here(x: Any) -> Any:
        return x.inner if isinstance(x, _Elsewhere) else torch.device("cpu") if isinstance(x, torch.device) else x

    args, kwargs = tree_map(here, (args, kwargs))
    found = function(*args, **kwargs)

    def placed(x: Any) -> Any:
        if not isinstance(x, Tensor) or not there:
            return x
        return known.get(id(x)) if id(x) in known else _Elsewhere(x)

    return tree_map(placed, found)


def main() -> None:
    """Run parts of the check of a GPU on this device; print one line a row, as JSON."""
    import json
    import sys
    import time

    from benchmarks import gpu_check

    torch.set_num_threads(1)
    if {"product", "training"} & set(sys.argv[1:]):
        from paraknow_core.models import load

        load.pick_device = lambda _setting: str(OTHER)
    parts = {part.name: part for part in gpu_check.PARTS}
    with other_device(), torch.autograd.set_multithreading_enabled(False):
        for name in sys.argv[1:]:
            # What reads settings is asked for the processor, and given this device; kernels are given it outright.
            device = OTHER if name in ("kernels", "extraction") else torch.device("cpu")
            for row in parts[name].measure(gpu_check.Check(device, small=True, deadline=time.monotonic() + 600)):
                print(json.dumps({"part": name, **row}), flush=True)


if __name__ == "__main__":
    main()
