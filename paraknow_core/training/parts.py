"""What each process of a shared training does: hold a part of the student, and read what it is ordered to.

accelerate decides what is sharded where (`fsdp2_prepare_model`), torch's `fully_shard` does it. accelerate's own
`Accelerator` would not: it knows FSDP on accelerators only, wants an optimiser in every process, and its way of loading
on one process takes no parameters that are left whole.

The processes talk over gloo (CPU) or NCCL, on the loopback interface, and find each other by a file that only this
user can read: nothing listens beyond this machine.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import psutil
import torch
from torch import Tensor, nn

from paraknow_core.adapters.inject import inject, tie_head, tied_head
from paraknow_core.catalogue import METHODS
from paraknow_core.context import Context
from paraknow_core.memory import map_blocks_from, release
from paraknow_core.models.load import build_empty, pick_device
from paraknow_core.ops.chance import seed_of
from paraknow_core.paths import Workspace
from paraknow_core.settings import Settings
from paraknow_core.spec import parse_spec
from paraknow_core.training.batches import Collator
from paraknow_core.training.losses import Losses

if TYPE_CHECKING:
    from peft import PeftModel

KEPT = 1 << 30  # bytes up to which a process keeps what is freed, to have it again at once
WEIGHT = 1 << 20  # bytes: what is gathered, used and freed layer by layer is at least so large where memory counts
ANSWER_S = 300.0  # a process that has not answered for so long, within one layer of one pass, is given up


class Row(NamedTuple):
    """An example as `Collator` needs it."""

    input_ids: Sequence[int]
    labels: Sequence[int]


class Share(NamedTuple):
    """What one process reads in one pass; all take part in every pass, so one without examples reads for nothing."""

    rows: Sequence[Row]
    counts: bool


class Part:
    """One process's part: the student with its adapter, of whose frozen weights it holds every n-th part."""

    def __init__(self, context: Context, hello: Mapping[str, Any], adapter: Mapping[str, nn.Parameter] | None) -> None:
        """Build the student without its weights.

        Args:
            context: of the run.
            hello: what process 0 tells the others.
            adapter: the parameters of process 0, which are trained in place; None in the others.
        """
        map_blocks_from(WEIGHT)
        self.rank, self.processes, self._pad_id = hello["rank"], context.settings.processes, hello["pad_id"]
        self.device = torch.device(pick_device(context.settings.device))
        if self.device.type == "cuda":
            self.device = torch.device("cuda", self.rank)
            torch.cuda.set_device(self.device)
        student, spec = context.student, context.spec
        with torch.random.fork_rng():
            base = build_empty(student.described, student.anatomy, getattr(torch, student.dtype), str(self.device))
            base.tie_weights()
            whole, modules = METHODS[spec.method].whole, context.student_modules
            self.model = inject(base, student.anatomy, modules, spec.factorisation, (), spec.seed, whole=whole)
        for name, (shape, dtype) in hello["adapter"].items():
            made = torch.empty(shape, dtype=getattr(torch, dtype), device=self.device)
            _replace(self.model, name, adapter[name] if adapter else nn.Parameter(made))
        if not adapter:
            if tied_head(base, student.anatomy, modules):
                tie_head(self.model)
            for name in hello["adapter"]:
                self.model.get_parameter(name).requires_grad_(name in hello["trained"])
        if context.settings.gradient_checkpointing:
            self.model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        self._all = [self.model.get_parameter(name) for name in hello["owners"]]
        self._trained = [p for p in self._all if p.requires_grad]

    def join(self, store: "torch.distributed.Store") -> None:
        """Meet the others, inside `on_loopback`, and shard what the student is without its weights."""
        from torch.distributed.device_mesh import init_device_mesh

        torch.distributed.init_process_group(
            "nccl" if self.device.type == "cuda" else "gloo",
            store=store,
            rank=self.rank,
            world_size=self.processes,
            timeout=timedelta(seconds=ANSWER_S),
        )
        self._mesh = init_device_mesh(self.device.type, (self.processes,), mesh_dim_names=("fsdp",))
        _shard(self.model, self._mesh)

    def scatter(self, weights: Mapping[str, nn.Parameter] | None) -> None:
        """Take this process's part of the frozen weights from process 0, weight by weight.

        Args:
            weights: by name, in process 0, where each is emptied when the others have it; None in the others.
        """
        from torch.distributed.tensor import Shard, distribute_tensor

        parts = {}
        for name, parameter in self.model.named_parameters():
            if not is_of_adapter(name):
                made = torch.empty(parameter.shape, dtype=parameter.dtype, device=self.device)
                whole = weights[name].data if weights else made
                parts[name] = distribute_tensor(whole, self._mesh, [Shard(0)])
                if weights:
                    weights[name].data = made.new_empty(0)
        self.model.load_state_dict(parts, strict=False, assign=True)
        for parameter in self._all:
            torch.distributed.broadcast(parameter.data, 0)
        self._losses, self._collate = Losses(self.model), Collator(self._pad_id, self.model)

    def gather(self, weights: Mapping[str, nn.Parameter] | None) -> None:
        """Give the frozen weights back to process 0, weight by weight: the opposite of `scatter`."""
        from torch.distributed.fsdp import FSDPModule

        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        for name, parameter in self.model.named_parameters():
            if not is_of_adapter(name):
                whole = parameter.full_tensor()
                parameter.to_local().untyped_storage().resize_(0)  # the parts are of no more use
                if weights:
                    weights[name].data = whole

    def compute(self, order: Mapping[str, Any]) -> Tensor:
        """Read this process's shares; return the sum of all processes' losses, in process 0.

        Args:
            order: adapter: whether to take it from process 0 first; shares: of each pass; do: train leaves gradients in
                the adapter, in process 0 those of all; tokens: what the losses are divided by; seed: of dropout, so
                that a run that resumes draws the same masks.
        """
        training = order["do"] == "train"
        if order["adapter"]:
            values = joined(self._trained)
            torch.distributed.broadcast(values, 0)
            divide(values, self._trained)
        self.model.train(training)
        loss = torch.zeros((), device=self.device)
        with torch.random.fork_rng(), torch.set_grad_enabled(training):
            torch.manual_seed(seed_of(order["seed"], self.rank))
            for rows, counts in order["shares"]:
                batch = self._collate([Row(*row) for row in rows])
                share = self._losses.nats(batch) / order["tokens"] * counts
                if training:
                    share.backward()
                loss += share.detach()
                del share
                release(KEPT)  # what was gathered; the C library would keep half a gigabyte of it
        if not training:
            torch.distributed.reduce(loss, 0)
            return loss
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._trained]
        values = joined([*gradients, loss])
        torch.distributed.reduce(values, 0)
        divide(values, [*gradients, loss])
        for parameter, gradient in zip(self._trained, gradients, strict=True):
            parameter.grad = gradient if self.rank == 0 else None
        return loss


def serve(orders: IO[str]) -> None:
    """Hold a part of a student until the orders end: what the processes other than 0 do.

    Args:
        orders: one JSON object a line; the first is what process 0 says of the run.
    """
    line = orders.readline()
    if not line:
        return
    hello = json.loads(line)
    torch.set_num_threads(hello["threads"])
    settings, spec = Settings.model_validate(hello["settings"]), parse_spec(hello["spec"], "spec")
    context = Context(spec, settings, Workspace(Path(hello["workspace"])))
    part, store = Part(context, hello, None), meet(Path(hello["meeting"]), settings.processes)
    store.set(f"ready {part.rank}", "")
    with on_loopback():
        part.join(store)
        part.scatter(None)
        for line in orders:
            order = json.loads(line)
            if order["do"] == "gather":
                part.gather(None)
            else:
                part.compute(order)
        leave()


def is_of_adapter(name: str) -> bool:
    """Tell whether a parameter of a PEFT model is one of the adapter's factors."""
    return ".lora_" in name


def _shard(model: "PeftModel", mesh: "torch.distributed.DeviceMesh") -> None:
    """Make a student's frozen weights, without content so far, shards: layer by layer, then what is at the ends."""
    from accelerate.utils import FullyShardedDataParallelPlugin, fsdp2_prepare_model

    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", reshard_after_forward=True, cpu_offload=False
    )
    plugin.cpu_ram_efficient_loading = False
    plugin.ignored_modules = [module for name, module in model.named_modules() if ".lora_" in f".{name}."]
    # What `fsdp2_prepare_model` asks of an Accelerator.
    asked = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin),
        is_main_process=mesh.get_rank() == 0,
        mixed_precision="no",
        device=torch.device(mesh.device_type),
        torch_device_mesh=mesh,
        parallelism_config=SimpleNamespace(fsdp_dim_names=mesh.mesh_dim_names),
    )
    fsdp2_prepare_model(asked, model)


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """Return the content of tensors as one vector, so that it travels at once."""
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


@torch.no_grad()
def divide(values: Tensor, tensors: Sequence[Tensor]) -> None:
    """Write what `joined` has joined back into the tensors."""
    for tensor, part in zip(tensors, values.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def _replace(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, parameter)


def meet(meeting: Path, processes: int) -> "torch.distributed.FileStore":
    """Return the file by which the processes find each other."""
    return torch.distributed.FileStore(str(meeting), processes)


@contextmanager
def on_loopback() -> Iterator[None]:
    """Have processes that meet meanwhile listen to this machine alone, not on the interface of the host's name."""
    is_loopback = {n: any(a.address == "127.0.0.1" for a in found) for n, found in psutil.net_if_addrs().items()}
    loopback = next((name for name, yes in is_loopback.items() if yes), "lo")
    before = {name: os.environ.get(name) for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")}
    os.environ |= dict.fromkeys(before, loopback)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ |= {} if value is None else {name: value}


def leave() -> None:
    """Close the connections to the others, if there are any."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
