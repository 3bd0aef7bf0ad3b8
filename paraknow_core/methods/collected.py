"""What a student makes of the seed samples before anything is injected: what its modules read, and how it would learn.

Samples are read one by one in evaluation mode. What is kept is a sum a module; the activations of one sample at a time
are in memory, in the first case of one layer only.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from paraknow_core.memory import anonymous_bytes, available_bytes
from paraknow_core.models.modules import LogicalModule
from paraknow_core.ops.sensitivity import finite_loss
from paraknow_core.sensitivity.measure import sample_loss
from paraknow_core.settings import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from paraknow_core.tasks.templates import Encoded


def input_moments(
    model: "PreTrainedModel", hosts: Iterable[str], samples: "Iterable[Encoded]", *, scaled: bool = False
) -> dict[str, Tensor]:
    """Return second moments of modules' inputs: the mean over samples of X^T X, with X (tokens, in) of all its tokens.

    Args:
        model: the student, untouched.
        hosts: paths of linear layers and embeddings, as `LogicalModule.host`. Those that read the same tensor (q, k and
            v; gate and up) share one sum.
        samples: at least one.
        scaled: divide each X by its largest entry, as CorDA does, so that no sample outweighs the others.

    Returns:
        Path to (in, in) float64; of an embedding, whose inputs are one-hot, the diagonal (vocabulary,).
    """
    sums: dict[str, Tensor] = {}
    last: list[Any] = [None, None]  # what the module before has read, and the sum it went into

    def take(path: str, layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        inputs = arguments[0]
        same = inputs is last[0]
        if path not in sums:
            sums[path] = last[1] if same else _zeros(layer, inputs)
        if not (same and sums[path] is last[1]):
            _add_moments_(sums[path], inputs.detach(), scaled)
        last[:] = inputs, sums[path]

    count = 0
    with ExitStack() as hooks, torch.no_grad():
        for path in hosts:
            hooks.callback(model.get_submodule(path).register_forward_pre_hook(partial(take, path)).remove)
        for count, sample in enumerate(samples, start=1):  # noqa: B007 - its last value
            model(input_ids=torch.tensor([sample.input_ids], device=model.device), use_cache=False)
            last[:] = None, None
    for total in {id(total): total for total in sums.values()}.values():
        total.div_(count)
    return sums


def mean_gradients(model: "PreTrainedModel", names: Iterable[str], samples: "Iterable[Encoded]") -> dict[str, Tensor]:
    """Return the mean over samples of the gradient of a sample's loss, which is that of training: of its answer only.

    Args:
        model: the student, untouched; it is left without gradients.
        names: of its parameters. One with two uses (a tied embedding) gets the sum of both gradients.
        samples: at least one.

    Returns:
        Name to gradient in float32, of the parameter's shape.

    Raises:
        NumericError: a loss is not finite.
    """
    parameters = dict(model.named_parameters())
    required = {parameter: parameter.requires_grad for parameter in parameters.values()}
    sums = {name: torch.zeros_like(parameters[name], dtype=torch.float32) for name in names}
    with ExitStack() as after, torch.enable_grad():
        for parameter, before in required.items():
            after.callback(parameter.requires_grad_, before)
            parameter.requires_grad_(False)
        for name, total in sums.items():
            parameters[name].requires_grad_(True)
            hook = parameters[name].register_post_accumulate_grad_hook(partial(_take_gradient, total))
            after.callback(hook.remove)
        count = 0
        for count, sample in enumerate(samples, start=1):
            loss = sample_loss(model, sample)
            finite_loss(count - 1, loss.item(), "student")
            loss.backward()
    for total in sums.values():
        total.div_(count)
    return sums


def in_groups(sizes: Mapping[LogicalModule, int], room: int) -> Iterator[list[LogicalModule]]:
    """Yield modules, in order, in groups of which all that is collected fits into `room` bytes; at least one each."""
    group: list[LogicalModule] = []
    held = 0
    for module, size in sizes.items():
        if group and held + size > room:
            yield group
            group, held = [], 0
        group.append(module)
        held += size
    if group:
        yield group


def free_room(settings: Settings, device: torch.device) -> int:
    """Return how many bytes sums may take: half of what is free, or of what the memory budget leaves."""
    if settings.memory_budget:
        free = settings.memory_budget - anonymous_bytes()
    else:
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_bytes()
    return max(free, 0) // 2


def _zeros(layer: nn.Module, inputs: Tensor) -> Tensor:
    size = inputs.shape[-1]
    shape: Sequence[int] = (size, size) if inputs.is_floating_point() else (layer.weight.shape[0],)
    return torch.zeros(shape, dtype=torch.float64, device=inputs.device)


def _add_moments_(total: Tensor, inputs: Tensor, scaled: bool) -> None:
    """Add X^T X of a sample to a sum. In float64: a few inputs are often thousands of times as large as the others."""
    if not inputs.is_floating_point():
        total.add_(torch.bincount(inputs.flatten(), minlength=len(total)))
        return
    rows = inputs.reshape(-1, inputs.shape[-1]).double()
    largest = rows.max().abs().item() if scaled else 1.0
    total.addmm_(rows.T, rows, alpha=1 / largest**2 if largest else 1.0)


def _take_gradient(total: Tensor, parameter: nn.Parameter) -> None:
    total.add_(parameter.grad)
    parameter.grad = None
