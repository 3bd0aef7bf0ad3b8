"""Sensitivity of a teacher that is larger than memory: one layer at a time, forward and then backward.

Forward, each layer maps every sample's hidden state to the next; only these states are kept, in a file that is mapped
into memory. The loss is taken in slices of the vocabulary. Backward, each layer is read again, recomputes its output
from the kept input, and the |gradient| of its parameters is folded sample by sample. What lies in memory at any time
is one layer's weights and sums, or the sums of the embedding. `Stream` is the whole idea; read it first.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from paraknow_core.context import Reporter
from paraknow_core.files.json_file import read_json, write_json
from paraknow_core.files.tensor_file import TensorFile
from paraknow_core.memory import release
from paraknow_core.models.skeleton import Skeleton
from paraknow_core.ops.folding import fold_outer_, folding, weigh_
from paraknow_core.ops.sensitivity import finite_loss
from paraknow_core.ops.vocabulary_loss import OutputLayer, sliced_cross_entropy, supervised
from paraknow_core.runs.processes import boot_id
from paraknow_core.sensitivity.build import StoreBuilder
from paraknow_core.sensitivity.plan import BATCH_TOKENS, BATCH_WEIGHTS, GROUP_LOGITS, GROUP_WEIGHTS, sizes_of
from paraknow_core.sensitivity.work_folder import PROGRESS

if TYPE_CHECKING:
    from paraknow_core.tasks.templates import Encoded

STATE = "state.safetensors"
SYNC_WEIGHTS = 1 << 24  # in a layer: from there on a step takes longer than a wait for the disk

Layout = dict[str, tuple[torch.dtype, tuple[int, ...]]]


class Stream:
    """One streamed measurement: steps in a fixed order, each of which gives the same again if a kill repeats it."""

    def __init__(
        self,
        model: Skeleton,
        samples: "Sequence[Encoded]",
        folder: Path,
        store: StoreBuilder,
        report: Reporter,
        release_beyond: int = 0,
    ) -> None:
        """Open the state, that of an interrupted measurement too.

        Args:
            model: the teacher without its weights.
            samples: the seed samples, tokenised.
            folder: where the hidden states and the progress are.
            store: takes the S of one step's parameters, which are freed afterwards.
            report: told of the progress; may stop the work between two samples.
            release_beyond: bytes of memory that this process may hold before it gives back what was freed.
        """
        self.release = partial(release, release_beyond)
        self.model, self.store, self.report, self.device = model, store, report, model.shards.device
        self.ids = [torch.tensor(sample.input_ids, device=self.device) for sample in samples]
        self.labels = [sample.labels for sample in samples]
        ends = torch.tensor([len(ids) for ids in self.ids]).cumsum(0).tolist()
        self.places = [slice(end - len(ids), end) for ids, end in zip(self.ids, ends, strict=True)]
        lengths = {j: len(ids) for j, ids in enumerate(self.ids)}
        self.size = sizes_of(model.anatomy)
        self.batches = [[j] for j in lengths]
        if model.batchable and self.size.largest_in_layer >= BATCH_WEIGHTS:
            by_length = sorted(lengths, key=lengths.get)
            self.batches = _grouped(by_length, lambda batch: len(batch) * lengths[batch[-1]] <= BATCH_TOKENS)
        layout, self._progress = state_layout(model, self.ids), folder / PROGRESS
        if not (_can_go_on(self._progress) and TensorFile.is_there(folder / STATE, layout)):
            self._progress.unlink(missing_ok=True)  # it is not of this state
        self.state = TensorFile(folder / STATE, layout)
        self.hidden = [self.state[f"hidden.{i}"] for i in range(len(model.layers) + 1)]
        # Layers take turns with them, so that a step that is repeated after a kill still finds its input.
        self.gradients = [self.state["gradient.0"], self.state["gradient.1"]]
        self._room: list[Tensor] = []  # sums of the last layer, to be written over
        self.progress = read_json(self._progress, {"done": 0, "losses": []})

    def run(self) -> list[float]:
        """Do every step that is not done yet; return the loss of each sample."""
        last = len(self.model.layers) - 1
        steps = [("layer", "forward", self.forward, i, 1) for i in range(last + 1)]
        steps += [("output layer", "", self.output, last + 1, 1)]
        steps += [("layer", "backward", self.backward, i, 3) for i in range(last, -1, -1)]
        steps += [("embedding", "", self.embedding, 0, 1)]
        total, before = sum(work for *_, work in steps), 0
        self.embed()  # always: it notes what the layers are called with
        for number, (what, way, step, i, work) in enumerate(steps):
            if number >= self.progress["done"]:
                self._part = (before, work, total, f"{what} {i} of {last + 1} {way}" if way else what)
                step(i)
                self.record(number + 1)
                self.release()
            before += work
        self.report.progress(total, total, "every layer")
        return self.progress["losses"]

    def record(self, done: int) -> None:
        """Note how many steps are done.

        What was written survives a kill of this process at once, and a crash of the machine after a wait for the disk.
        That wait takes longer than a small layer does, or any on an accelerator: there, what was done counts until the
        machine is started anew.
        """
        durable = boot_id() is None or outlasts_the_disk(self.device, self.size.largest_layer)
        if durable:
            self.store.sync()
            self.state.flush()
        self.progress |= {"done": done, "boot": None if durable else boot_id()}
        write_json(self._progress, self.progress, durable=durable)

    def embed(self) -> None:
        """Keep the first layer's inputs, and take out of the batches every sample that cannot be padded.

        A shorter sample may be padded if what layers are called with (positions, masks) begins as the longest one's.
        """
        longest = {j: max(len(self.ids[k]) for k in batch) for batch in self.batches for j in batch}
        alone = []
        with torch.no_grad():
            for j in (j for batch in self.batches for j in reversed(batch)):  # the longest of a batch first
                self.hidden[0][self.places[j]] = self.model.before_layers(self.model.embedded(self.ids[j])[0]).cpu()
                shorter = len(self.ids[j]) < longest[j]
                if shorter and self.model.arguments_begin(longest[j]):
                    continue
                self.model.keep_arguments(len(self.ids[j]))
                if shorter:
                    alone.append(j)
        self.batches = [[j for j in batch if j not in alone] for batch in self.batches] + [[j] for j in alone]

    def forward(self, i: int) -> None:
        with self.model.layer(i) as layer, torch.no_grad():
            self.model.prefetch(i + 1)
            for batch in self.follow(self.batches):
                self.put(self.hidden[i + 1], batch, layer(self.get(self.hidden[i], batch)))

    def output(self, last: int) -> None:
        """Take every sample's loss, and its gradient to the last layer's output."""
        self.model.leave()
        release()
        sums, losses = OutputSums(self.model, self.ids, self.state), {}
        with folding(self.model.outside) as outside:
            groups = self.groups(sums.layer.size)
            for group in self.follow(groups):
                leaves = [self.get(self.hidden[last], [j])[0].requires_grad_(True) for j in group]
                states = [self.model.after_layers(self.ids[j], leaf) for j, leaf in zip(group, leaves, strict=True)]
                fold = partial(sums.fold, group)
                result = sliced_cross_entropy(states, [self.labels[j] for j in group], sums.layer, fold)
                for n, j in enumerate(group):
                    losses[j] = finite_loss(j, result.losses[n])
                    states[n].backward(result.gradients[n])
                    self.put(self.gradients[last % 2], [j], leaves[n].grad[None])
        for name, total in outside.items():
            self.state[f"outside.{name}"].copy_(total)
        self.progress["losses"] = [losses[j] for j in range(len(self.ids))]
        self.store.add("output", sums.finish())

    def backward(self, i: int) -> None:
        with self.model.layer(i) as layer:
            self.model.prefetch(i - 1)
            sums = self.room(layer.parameters)
            for batch in self.follow(self.batches):
                leaf = self.get(self.hidden[i], batch).requires_grad_(True)
                with folding(layer.parameters, layer.module, len(batch), sums):
                    layer(leaf).backward(self.get(self.gradients[(i + 1) % 2], batch))
                self.put(self.gradients[i % 2], batch, leaf.grad)
            for name, total in sums.items():
                weigh_(total, layer.parameters[name])
        self.store.add(f"layer-{i}", sums)
        self._room = list(sums.values())

    def room(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return sums of zero, in the last layer's room if they fit: fresh memory takes as long as a product."""
        if [t.shape for t in self._room] != [p.shape for p in parameters.values()]:
            self._room = [torch.empty_like(p, dtype=torch.float32) for p in parameters.values()]
        for total in self._room:
            total.zero_()
        return dict(zip(parameters, self._room, strict=True))

    def embedding(self, _: int) -> None:
        """Add up the embedding and the position table, and store them with the sums of what lies outside the layers."""
        self._room = []
        self.model.leave()
        release()
        tied, stored = "tied" in self.state, self.model.shards.stored(self.model.embed_name)
        total = torch.zeros(stored.shape, dtype=torch.float32, device=self.device)
        if tied:
            total.copy_(self.state["tied"])
        with folding(self.model.outside) as sums:
            for (j,) in self.follow([[j] for j in range(len(self.ids))]):
                embedded, rows, tokens = self.model.embedded(self.ids[j])
                self.model.before_layers(embedded).backward(self.get(self.gradients[0], [j])[0])
                gradient = self.model.embedding_gradient(rows, tokens)
                if tied:  # one parameter with two uses: both gradients are added before the absolute value
                    gradient += self.state[f"tied.{j}"].to(self.device)
                total[tokens] += gradient.abs()
        for name, gradients in sums.items():
            gradients += self.state[f"outside.{name}"].to(self.device)  # those of the output layer
            weigh_(gradients, self.model.outside[name])
        weigh_(total, stored, self.model.shards.dtype)  # of unused rows too, to find weights that are not finite
        self.store.add("embedding", {self.model.embed_name: total, **sums})

    def get(self, states: Tensor, batch: Sequence[int]) -> Tensor:
        """Read the hidden states (or gradients) of a batch, padded with zeros to (samples, longest, hidden_size).

        Padding changes no number: later tokens have no influence on earlier ones, and padding gets no gradient.
        """
        longest = max(len(self.ids[j]) for j in batch)
        padded = torch.zeros(len(batch), longest, states.shape[1], dtype=states.dtype)
        for row, j in zip(padded, batch, strict=True):
            row[: len(self.ids[j])] = states[self.places[j]]
        return padded.to(self.device)

    def put(self, states: Tensor, batch: Sequence[int], padded: Tensor) -> None:
        """Write a batch's hidden states (or gradients) back without their padding; the inverse of `get`."""
        for row, j in zip(padded.detach().cpu(), batch, strict=True):
            states[self.places[j]] = row[: len(self.ids[j])]

    def groups(self, vocabulary: int) -> list[list[int]]:
        """Return the samples in groups whose logits of supervised tokens are in memory together."""
        sizes = {j: vocabulary * len(supervised(labels)[0]) for j, labels in enumerate(self.labels)}
        most = GROUP_LOGITS if self.size.vocabulary >= GROUP_WEIGHTS else 0
        return _grouped(sizes, lambda group: sum(sizes[j] for j in group) <= most)

    def follow(self, groups: Sequence[Sequence[int]]) -> Iterator[Sequence[int]]:
        """Yield groups of samples, telling how far the step is and stopping where that was asked for."""
        before, work, total, message = self._part
        for number, group in enumerate(groups):
            self.report.check_stop()
            self.report.progress(before + work * number / len(groups), total, message)
            yield group


def outlasts_the_disk(device: str, weights: int) -> bool:
    """Tell whether a layer of so many weights takes longer than a wait for the disk."""
    return device == "cpu" and weights >= SYNC_WEIGHTS


def _can_go_on(file: Path) -> bool:
    """Tell whether a noted progress can be relied on: it is readable, and nothing of it was lost by a restart."""
    progress = read_json(file, {"done": 0, "losses": []})
    if not isinstance(progress, dict) or not isinstance(progress.get("losses"), list):
        return False
    return isinstance(progress.get("done"), int) and progress.get("boot") in (None, boot_id())


def _grouped(order: Iterable[int], fits: Callable[[list[int]], bool]) -> list[list[int]]:
    """Put samples that follow one another together, as many as fit, at least one."""
    groups: list[list[int]] = []
    for j in order:
        if groups and fits([*groups[-1], j]):
            groups[-1].append(j)
        else:
            groups.append([j])
    return groups


class OutputSums:
    """Sums |gradient| of the output layer; where it is the embedding, the gradients of a sample's tokens wait."""

    def __init__(self, model: Skeleton, ids: Sequence[Tensor], state: TensorFile) -> None:
        self.model, self.state, self.tied = model, state, "tied" in state
        self.name = model.embed_name if self.tied else model.head_name
        self.tokens = [torch.unique(sample) for sample in ids] if self.tied else []
        self.total = torch.zeros(model.shards.shape(self.name), dtype=torch.float32, device=model.shards.device)
        bias = model.shards[model.head_bias] if model.head_bias else None
        self.bias_total = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        rows = partial(model.shards.rows, self.name)
        self.layer = OutputLayer(rows, len(self.total), bias, model.softcap)

    def fold(self, group: Sequence[int], rows: slice, errors: Sequence[Tensor], states: Sequence[Tensor]) -> None:
        """Add a slice of the vocabulary for a group of samples, as `sliced_cross_entropy` hands it over.

        Args:
            group: the samples.
            rows: of the output layer.
            errors, states: of each sample, dL/dlogits (tokens, rows) and hidden states (tokens, hidden_size).
        """
        if self.bias_total is not None:
            for error in errors:
                self.bias_total[rows] += error.sum(dim=0).abs_()
        if self.tied:  # what reaches a token twice, here and as an input, is added before the absolute value
            for j, error, state in zip(group, errors, states, strict=True):
                inside = ((self.tokens[j] >= rows.start) & (self.tokens[j] < rows.stop)).nonzero()[:, 0]
                own = self.tokens[j][inside] - rows.start
                self.state[f"tied.{j}"][inside.cpu()] = (error[:, own].T @ state).float().cpu()
                error[:, own] = 0
        fold_outer_(self.total[rows], errors, states)

    def finish(self) -> dict[str, Tensor]:
        """Return S, or where the embedding's gradients are still to come, put the sums aside."""
        sums = {}
        if self.bias_total is not None:
            weigh_(self.bias_total, self.layer.bias)
            sums[self.model.head_bias] = self.bias_total
        if self.tied:
            self.state["tied"].copy_(self.total)
        else:
            weigh_(self.total, self.model.shards.stored(self.name), self.model.shards.dtype)
            sums[self.name] = self.total
        return sums


def state_layout(model: Skeleton, ids: Sequence[Tensor]) -> Layout:
    """Describe what an unfinished measurement keeps on disk: every layer's input, two gradients, and sums."""
    dtype, tokens = model.shards.dtype, sum(map(len, ids))
    state = (dtype, (tokens, model.anatomy.hidden_size))
    layout: Layout = {f"hidden.{i}": state for i in range(len(model.layers) + 1)}
    layout |= {"gradient.0": state, "gradient.1": state}
    layout |= {f"outside.{name}": (torch.float32, tuple(p.shape)) for name, p in model.outside.items()}
    if model.anatomy.tied:
        vocabulary, width = model.shards.stored(model.embed_name).shape
        layout["tied"] = (torch.float32, (vocabulary, width))
        layout |= {f"tied.{j}": (torch.float32, (len(sample.unique()), width)) for j, sample in enumerate(ids)}
    return layout
