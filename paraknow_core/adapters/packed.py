"""Many adapters on one frozen student: their runs' rows go through it together, each with its own run's factors.

A run's factors become views of one stacked tensor for each layer, so that a layer of all runs is one batched product,
and whoever owns a factor (its optimiser, its checkpoints) goes on as if it were alone.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from paraknow_core.adapters.inject import ADAPTER, host_factors

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


class Pack:
    """The adapters of several injected students of one kind, on one network.

    Attributes:
        network: the student with a packed layer in place of each adapted one. Its batches hold the rows of the first
            run, then as many of the second one, and so on.
        size: how many runs there are.
    """

    def __init__(self, student: "PreTrainedModel", models: "Sequence[PeftModel]") -> None:
        """Args: student, untouched, taken over and changed; models, injected with adapters of the same shapes.

        The models stay what they are: their factors, and the weights that differ between them, move into the stacks.
        """
        self.network, self.size, self._models = student, len(models), models
        for parameter in student.parameters():
            parameter.requires_grad_(False)
        bodies = [model.base_model.model for model in models]
        self._stacks: list[tuple[nn.Parameter, list[nn.Parameter]]] = []
        head, embedding = bodies[0].get_output_embeddings(), bodies[0].get_input_embeddings()
        tied = hasattr(head, "lora_A") and hasattr(embedding, "lora_A") and _shares(head, embedding)
        self._layers: dict[str, PackedLinear | PackedEmbedding] = {}
        by_module = {module: path for path, module in bodies[0].named_modules() if hasattr(module, "lora_A")}
        for module, path in by_module.items():
            layers = [body.get_submodule(path) for body in bodies]
            if tied and module is head:
                continue
            a, b = (self._stack([host_factors(layer)[n] for layer in layers]) for n in (0, 1))
            kind = PackedEmbedding if ADAPTER in module.lora_embedding_A else PackedLinear
            self._layers[path] = kind(student.get_submodule(path), layers, a, b)
        if tied:
            of_embedding, path = self._layers[by_module[embedding]], by_module[head]
            layers = [body.get_submodule(path) for body in bodies]
            self._layers[path] = PackedLinear(
                student.get_submodule(path), layers, of_embedding.b, of_embedding.a, tied=of_embedding
            )
            for body in bodies:  # the views of what has just moved
                (embed_a, embed_b), (head_a, head_b) = (
                    host_factors(getter()) for getter in (body.get_input_embeddings, body.get_output_embeddings)
                )
                head_a.data, head_b.data = embed_b.data.T, embed_a.data.T
        for path, layer in self._layers.items():
            owner, _, name = path.rpartition(".")
            setattr(student.get_submodule(owner), name, layer)

    def _stack(self, factors: list[nn.Parameter]) -> nn.Parameter:
        stack = nn.Parameter(torch.stack([factor.detach() for factor in factors]))
        for row, factor in zip(stack.detach(), factors, strict=True):
            factor.data = row
        self._stacks.append((stack, factors))
        return stack

    def hand_out_gradients(self) -> None:
        """Give every run's factors their part of the gradients, which are then gone from the stacks."""
        for stack, factors in self._stacks:
            if stack.grad is None:
                continue
            for row, factor in zip(stack.grad, factors, strict=True):
                if factor.requires_grad:
                    factor.grad = row
            stack.grad = None

    def part(self, kept: Sequence[int]) -> "Pack":
        """Return the pack of some of these runs, on the same network; this one is not to be used any more."""
        for path, layer in self._layers.items():
            owner, _, name = path.rpartition(".")
            setattr(self.network.get_submodule(owner), name, layer.base)
        return Pack(self.network, [self._models[number] for number in kept])

    def drop_gradients(self) -> None:
        """Forget the gradients of a pass that did not come to its end."""
        for stack, _ in self._stacks:
            stack.grad = None


class _Packed(nn.Module):
    """One layer of all runs.

    Attributes:
        base: the student's own layer.
        a, b: all runs' factors: A (runs, R, in) and B (runs, out, R); of a tied head, the embedding's.
    """

    def __init__(
        self,
        base: nn.Module,
        layers: list[nn.Module],
        a: nn.Parameter,
        b: nn.Parameter,
        *,
        tied: "PackedEmbedding | None" = None,
    ) -> None:
        """Args: base, a, b, see above; layers, of the runs; tied, the embedding whose weights and factors they are."""
        super().__init__()
        self.base, self.a, self.b, self._transposed = base, a, b, tied is not None
        scalings = [layer.scaling[ADAPTER] for layer in layers]
        self.register_buffer("scaling", a.new_tensor(scalings)[:, None, None], persistent=False)
        self.register_buffer("weights", tied.weights if tied else self._own_weights(layers), persistent=False)

    def _own_weights(self, layers: list[nn.Module]) -> Tensor | None:
        """Return the runs' weights in one stack (runs, ...) where they differ from the student's; None if none does."""
        own = [layer.get_base_layer().weight for layer in layers]
        if all(weight.shape == self.base.weight.shape and torch.equal(weight, self.base.weight) for weight in own):
            return None
        stack = torch.stack([weight.detach() for weight in own])
        for row, weight in zip(stack, own, strict=True):
            weight.data = row
        return stack

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        """A (runs, R, in) and B (runs, out, R) of this layer."""
        return (self.a.mT, self.b.mT) if self._transposed else (self.a, self.b)


class PackedLinear(_Packed):
    """A linear layer, or GPT-2's kind of it, of all runs."""

    def forward(self, x: Tensor) -> Tensor:
        """Return W x + scaling * B A x of each run, for rows (..., in), as many for every run, run after run."""
        a, b = self.factors
        rows = x.reshape(len(a), -1, x.shape[-1])
        if self.weights is None:
            out = self.base(rows)
        else:
            transposed = not isinstance(self.base, nn.Linear)
            bias = self.base.bias
            out = torch.bmm(rows, self.weights if transposed else self.weights.mT)
            out = out if bias is None else out + bias
        down = torch.bmm(rows.to(a.dtype), a.mT) * self.scaling
        return _added(out, down, b.mT).view(*x.shape[:-1], -1)


class PackedEmbedding(_Packed):
    """An embedding of all runs: A (runs, R, vocabulary), B (runs, width, R)."""

    def forward(self, ids: Tensor) -> Tensor:
        """Return the rows of W + scaling * (B A)^T of each run, for token ids (rows, tokens), run after run."""
        a, b = self.factors
        by_run = ids.reshape(len(a), -1)
        runs = torch.arange(len(a), device=ids.device)[:, None]
        out = self.base(by_run) if self.weights is None else self.weights[runs, by_run]
        down = a.mT[runs, by_run] * self.scaling
        return _added(out, down, b.mT).view(*ids.shape, -1)


def _shares(head: nn.Module, embedding: nn.Module) -> bool:
    return host_factors(head)[0].data_ptr() == host_factors(embedding)[1].data_ptr()


def _added(out: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """Return out + down @ up, in the format of out: PEFT keeps the factors of a student in 16 bits in 32."""
    if out.dtype == down.dtype:
        return torch.baddbmm(out, down, up)
    return (out + torch.bmm(down, up)).to(out.dtype)
