"""Greedy generation for a batch of prompts, with key-value cache. Nothing of a model's sampling settings is used."""

import inspect
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from typing import TYPE_CHECKING, Any

from paraknow_core.tasks.thoughts import TAGS

if TYPE_CHECKING:
    from torch import Tensor

# A model that goes on after its answer writes the next turn's mark; the answer ends there.
TURN_MARKS = ("<|user|>", "<|assistant|>", "<|system|>")
_LOOKS_LIKE_A_MARK = re.compile(r"<[^<>\s]+>|\[/?[A-Z_]+\]")
WORTH = 0.25  # share of the tokens that is to be spared, so that another pass is worth it (`benchmarks.shared_prompts`)
CACHE_BYTES = 2**26  # of the keys and values of small models: what a processor's cache still helps with


@dataclass(frozen=True)
class Generated:
    """One answer: its tokens without the end mark, and why it stopped: "end", "max_new_tokens" or "context"."""

    tokens: tuple[int, ...]
    stopped: str


def generate(
    model: Any, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, limit: int, ends: Iterable[int]
) -> list[Generated]:
    """Continue every prompt with the most likely token until an end token or a limit.

    What all prompts begin with is read once, where that spares enough.

    Args:
        model: a causal language model in evaluation mode.
        prompts: token ids, each of at least one token and fewer than `limit`.
        max_new_tokens: of each answer.
        limit: tokens of prompt and answer together.
        ends: ids of end tokens.

    Returns:
        One answer a prompt, in their order; the same whatever else is in the batch (up to rounding).
    """
    import torch

    with torch.inference_mode():
        return _Batch(model, prompts, max_new_tokens, limit, set(ends)).run()


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """Return every token that ends an answer: of the tokenizer, the model's config and its generation config."""
    tokens: set[int] = set()
    for source in (tokenizer, getattr(model, "config", None), getattr(model, "generation_config", None)):
        ends = getattr(source, "eos_token_id", None)
        tokens |= set(ends) if isinstance(ends, list | tuple) else {ends}
    return tokens - {None}


def answer_text(tokenizer: Any, tokens: Sequence[int], template: str, tail: str = "") -> str:
    """Decode an answer without special tokens and outer white space; "tulu" ends at the next turn's mark.

    Args:
        tail: what the template writes behind an answer (`Rendered.tail`): it is no part of what was answered.
    """
    text = _with_think_tags(tokenizer, list(tokens))
    if template == "tulu":
        text = text[: min((at for at in map(text.find, TURN_MARKS) if at >= 0), default=len(text))]
    text = text.strip()
    if tail and text.endswith(tail):
        text = text.removesuffix(tail)
    elif _LOOKS_LIKE_A_MARK.search(tail):  # the model went on behind an end mark that is no token
        text = text.partition(tail)[0]
    return text.strip()


def _with_think_tags(tokenizer: Any, tokens: list[int]) -> str:
    """Decode without special tokens, except for think tags: what is judged begins behind them."""
    special = set(tokenizer.all_special_ids) & set(tokens)
    ids = {name: tokenizer.convert_tokens_to_ids(name) for pair in TAGS for name in pair}
    tags = {token: name for name, token in ids.items() if token in special and token != tokenizer.unk_token_id}
    if not tags:
        return tokenizer.decode(tokens, skip_special_tokens=True)
    text, run = "", []
    for token in tokens:
        if token in tags:
            text, run = text + tokenizer.decode(run, skip_special_tokens=True) + tags[token], []
        else:
            run.append(token)
    return text + tokenizer.decode(run, skip_special_tokens=True)


def context_limit(model: Any, max_length: int) -> int:
    """Return the tokens that prompt and answer may take: the task's limit or the model's context, if shorter."""
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    return min(max_length, getattr(config, "max_position_embeddings", None) or max_length)


def keeps_logits(model: Any) -> bool:
    """True if the model can compute the logits of the last positions only, which saves memory."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(base.forward).parameters


def new_cache(model: Any) -> Any:
    """Return an empty cache of keys and values whose rows can be repeated; None if the model cannot go on from one."""
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not {"past_key_values", "position_ids", "logits_to_keep"} <= inspect.signature(base.forward).parameters.keys():
        return None
    cache = DynamicCache(config=base.config)
    plain = (DynamicLayer, DynamicSlidingWindowLayer)  # others hold more than keys and values of tokens
    return cache if all(type(layer) in plain for layer in cache.layers) else None


def spares_enough(read: int, whole: int) -> bool:
    """Tell whether reading what rows share once is worth a second pass, by the tokens of this way and of whole rows."""
    return read <= (1 - WORTH) * whole


def read_once(model: Any, beginnings: Sequence[Sequence[int]], of_row: Sequence[int]) -> "tuple[Any, Tensor]":
    """Let a model read what rows begin with, and give each row the keys and values of its own beginning.

    Args:
        model: one that `new_cache` makes a cache for.
        beginnings: token ids.
        of_row: for each row, which of the beginnings is its own.

    Returns:
        The cache, and its mask (rows, longest beginning), padded on the left.
    """
    import torch

    ids, mask, positions = left_padded(beginnings, next(model.parameters()).device)
    cache, last = new_cache(model), {"logits_to_keep": 1}
    model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, **last)
    own = torch.tensor(of_row, device=ids.device)
    cache.batch_select_indices(own)
    return cache, mask[own]


def rows_at_once(model: Any, length: int, least: int) -> int:
    """Return how many answers to write at once: a small model's many, because a token costs it less than a call.

    It depends on the model and the lengths alone, never on the machine: the number of rows may move a last digit.

    Args:
        length: tokens of the longest prompt and its answer together.
        least: rows that a large model takes too.
    """
    if not (hasattr(model, "config") and keeps_logits(model)):
        return least
    return max(least, CACHE_BYTES // (cached_bytes(model) * length))


def cached_bytes(model: Any) -> int:
    """Return the bytes that the keys and values of one token take, in float32."""
    size = model.config.get_text_config()
    heads = getattr(size, "num_key_value_heads", None) or size.num_attention_heads
    width = getattr(size, "head_dim", None) or size.hidden_size // size.num_attention_heads
    return 2 * 4 * size.num_hidden_layers * heads * width


def left_padded(prompts: Sequence[Sequence[int]], device: Any) -> "tuple[Tensor, Tensor, Tensor]":
    """Return tokens, mask and positions, each (prompts, longest): all end in one column, where their cache goes on."""
    import torch

    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    return ids, mask, (mask.cumsum(-1) - 1).clamp(min=0)


def _in_common(model: Any, prompts: Sequence[Sequence[int]], most: int) -> int:
    """Return how many tokens all prompts begin with, if reading them once is possible and worth it, else 0.

    At least one token is left of each. What fills up a shorter prompt comes to stand behind what they share: a sliding
    window counts it, and must be longer than all that is read and written.

    Args:
        most: tokens that may be written behind each.
    """
    longest = max(len(prompt) for prompt in prompts)
    shared = min(len(commonprefix(prompts)), min(len(prompt) for prompt in prompts) - 1)
    if shared < 1 or not spares_enough(shared + len(prompts) * (longest - shared), len(prompts) * longest):
        return 0
    cache = new_cache(model)
    windows = [0] if cache is None else [layer.sliding_window for layer in cache.layers if layer.is_sliding]
    return shared if all(window > longest + most for window in windows) else 0


class _Batch:
    """The rows that are still being written; finished rows leave the batch once they are half of it."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], most: int, limit: int, ends: set[int]) -> None:
        import torch

        from paraknow_core.models.rotary import tables_of_their_own

        self.model, self.ends = model, ends
        self.allowed = [min(most, limit - len(prompt)) for prompt in prompts]
        self.reason = ["max_new_tokens" if limit - len(prompt) >= most else "context" for prompt in prompts]
        self.written: list[list[int]] = [[] for _ in prompts]
        self.done = [allowed < 1 for allowed in self.allowed]
        self.rows = list(range(len(prompts)))
        self.rotary = tables_of_their_own(model)  # few models have any
        self.cache: Any = None
        shared = 0 if self.rotary else _in_common(model, prompts, most)
        self.ids, self.mask, self.positions = left_padded(
            [p[shared:] for p in prompts], next(model.parameters()).device
        )
        if shared:
            self.cache, before = read_once(model, [prompts[0][:shared]], [0] * len(prompts))
            self.mask, self.positions = torch.cat([before, self.mask], dim=1), self.positions + shared
        self.text, self.tables = self.ids, self._tables()
        self.options = {"logits_to_keep": 1} if keeps_logits(model) else {}

    def run(self) -> list[Generated]:
        while not all(self.done):
            output = self.model(
                input_ids=self.ids,
                attention_mask=self.mask,
                position_ids=self.positions,
                use_cache=True,
                past_key_values=self.cache,
                **self.options,
            )
            self.cache = output.past_key_values
            chosen = output.logits[:, -1].argmax(dim=-1)
            self._note(chosen.tolist())
            self._advance(chosen)
        return [Generated(tuple(t), reason) for t, reason in zip(self.written, self.reason, strict=True)]

    def _tables(self) -> list[tuple[int, ...]]:
        """Name the rotary tables of each row, as long as it is now."""
        from paraknow_core.models.rotary import table_of

        return [table_of(self.rotary, length + 1) for length in self.positions[:, -1].tolist()] if self.rotary else []

    def _follow_tables(self) -> None:
        """Start the cache anew where a row that is being written grew into other rotary tables."""
        before, self.tables = self.tables, self._tables()
        grown = [row for row, old, new in zip(self.rows, before, self.tables, strict=True) if old != new]
        if any(not self.done[row] for row in grown):
            self.cache, self.ids = None, self.text
            self.positions = (self.mask.cumsum(-1) - 1).clamp(min=0)

    def _note(self, chosen: list[int]) -> None:
        for row, token in zip(self.rows, chosen, strict=True):
            if token in self.ends and not self.done[row]:
                self.done[row], self.reason[row] = True, "end"
            elif not self.done[row]:
                self.written[row].append(token)
                self.done[row] = len(self.written[row]) >= self.allowed[row]

    def _advance(self, chosen: Any) -> None:
        import torch

        self.ids = chosen[:, None]
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.rows), 1)], dim=1)
        self.positions = self.positions[:, -1:] + 1
        self.text = torch.cat([self.text, self.ids], dim=1)
        kept = [index for index, row in enumerate(self.rows) if not self.done[row]]
        if kept and len(kept) <= len(self.rows) // 2 and hasattr(self.cache, "batch_select_indices"):
            indices = torch.tensor(kept, device=self.ids.device)
            self.cache.batch_select_indices(indices)
            self.ids, self.mask, self.positions = self.ids[indices], self.mask[indices], self.positions[indices]
            self.rows = [self.rows[index] for index in kept]
            self.text, self.tables = self.text[indices], [self.tables[index] for index in kept if self.tables]
        if self.rotary:
            self._follow_tables()
