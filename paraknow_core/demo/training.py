"""A plain training loop: seeded documents in, a trained model out."""

import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaForCausalLM

from paraknow_core.demo.corpus import Document
from paraknow_core.demo.tokenizer import PAD

IGNORED = -100
_POOL = 1024  # documents sorted by length together


@dataclass
class Cost:
    """What a training took: wall-clock seconds, tokens read (padding not counted), threads."""

    seconds: float = 0.0
    tokens: int = 0
    threads: int = 0


def encode(documents: list[Document], tokenizer: Tokenizer) -> list[tuple[list[int], list[int]]]:
    """Token ids and labels of documents; what comes before their `answer_start` is not learned.

    Args:
        documents: texts.
        tokenizer: puts `<s>` in front.

    Returns:
        (ids, labels) for each, equally long; labels are not shifted.
    """
    encoded = []
    for document, tokens in zip(documents, tokenizer.encode_batch([d.text for d in documents]), strict=True):
        ids = tokens.ids
        start = next(i for i, (begin, _) in enumerate(tokens.offsets) if begin >= document.answer_start)
        encoded.append((ids, [IGNORED] * start + ids[start:]))
    return encoded


def batches(
    documents: Iterator[Document], tokenizer: Tokenizer, batch_tokens: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of rows of similar length, without end.

    One row in ten holds three documents in a line, so that the models also meet longer contexts.

    Args:
        documents: endless stream.
        tokenizer: the bundled one.
        batch_tokens: at most this many tokens a batch, padding included.
        seed: for the order of the batches.

    Yields:
        (ids, labels), both (rows, tokens) and padded on the right.
    """
    rng = random.Random(seed)
    while True:
        encoded = encode([next(documents) for _ in range(_POOL)], tokenizer)
        rows = []
        while encoded:
            taken = [encoded.pop() for _ in range(min(len(encoded), 3 if rng.random() < 0.1 else 1))]
            rows.append(([i for ids, _ in taken for i in ids], [t for _, labels in taken for t in labels]))
        rows.sort(key=lambda row: len(row[0]))
        groups, group = [], []
        for row in rows:
            if group and (len(group) + 1) * len(row[0]) > batch_tokens:
                groups.append(group)
                group = []
            group.append(row)
        groups.append(group)
        rng.shuffle(groups)
        for group in groups:
            width = max(len(ids) for ids, _ in group)
            yield (
                torch.tensor([ids + [PAD] * (width - len(ids)) for ids, _ in group]),
                torch.tensor([labels + [IGNORED] * (width - len(labels)) for _, labels in group]),
            )


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over 3 % of the steps, then a cosine down to a twentieth of the peak."""
    warmup = max(1, round(0.03 * steps))
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))


def train(
    model: LlamaForCausalLM,
    stream: Iterator[tuple[Tensor, Tensor]],
    steps: int,
    peak_lr: float,
    weight_decay: float = 0.05,
    on_step: Callable[[int, float], None] | None = None,
) -> Cost:
    """Train a model in place with AdamW.

    Args:
        model: on its device, float32.
        stream: batches of (ids, labels) on the CPU.
        steps: optimiser steps.
        peak_lr: highest learning rate.
        weight_decay: on matrices only.
        on_step: told (step, loss in nats per learned token) after every step.

    Returns:
        What it took.
    """
    torch.set_flush_denormal(True)  # tiny moments would slow a CPU down tenfold
    matrices = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() != 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=peak_lr,
        betas=(0.9, 0.98),
        eps=1e-8,
        fused=True,
    )
    cost, began = Cost(threads=torch.get_num_threads()), time.monotonic()
    model.train()
    for step in range(steps):
        ids, labels = next(stream)
        cost.tokens += int((ids != PAD).sum())
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak_lr)
        ids, labels = ids.to(model.device), labels.to(model.device)
        # No attention mask: padding is on the right, and a causal model never looks there.
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        learned = labels[:, 1:] != IGNORED
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[learned]), labels[:, 1:][learned])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if on_step is not None:
            on_step(step + 1, loss.item())
    model.eval()
    cost.seconds = time.monotonic() - began
    return cost
