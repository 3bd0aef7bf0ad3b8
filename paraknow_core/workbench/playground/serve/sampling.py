"""Choosing the next token, and writing tokens out as pieces of text. Pure functions of logits and tokens."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from paraknow_core.errors import NumericError

if TYPE_CHECKING:
    from torch import Generator, Tensor

UNFINISHED = "\ufffd"  # what a tokenizer writes for bytes that are not yet a whole character
CONTEXT = 8  # tokens before a piece: enough for spaces and characters that are made of several tokens


def choose(logits: "Tensor", temperature: float, top_p: float, generator: "Generator") -> int:
    """Choose the next token.

    Args:
        logits: (vocabulary,) of one position.
        temperature: divides the logits; 0 takes the most likely token (on ties, the first).
        top_p: draw only from the fewest most likely tokens that together have at least this probability.
        generator: where chance comes from.

    Raises:
        NumericError: a logit is NaN or +infinite, or all are -infinite.
    """
    import torch

    if torch.isnan(logits).any() or torch.isposinf(logits).any() or not torch.isfinite(logits).any():
        raise NumericError("the model gives no number (NaN or infinity) for the next token; its weights may be damaged")
    if temperature == 0:
        return int(logits.argmax())
    logits = logits.double().cpu()
    shares = torch.softmax((logits - logits.max()) / max(temperature, 1e-4), dim=-1)
    ordered, order = shares.sort(descending=True, stable=True)
    kept = (ordered.cumsum(0) - ordered) < top_p  # the token that crosses the border is the last one in
    kept[0] = True
    return int(order[torch.multinomial(ordered * kept, 1, generator=generator)])


def shortlist(logits: "Tensor", chosen: int, size: int) -> tuple[float, list[tuple[int, float]]]:
    """Return the chosen token's probability and the most likely tokens with theirs, at temperature 1.

    Args:
        logits: (vocabulary,) of one position.
        chosen: a token.
        size: how many of the most likely.
    """
    import torch

    shares = torch.softmax(logits.double(), dim=-1)
    top = shares.topk(min(size, shares.numel()))
    return float(shares[chosen]), list(zip(top.indices.tolist(), top.values.tolist(), strict=True))


class Pieces:
    """Turns tokens that come one by one into pieces of text that add up to the whole text."""

    def __init__(self, tokenizer: Any, prompt: Sequence[int]) -> None:
        """Args: prompt: what the tokens continue; some tokenizers write a first word without its space."""
        self._tokenizer = tokenizer
        self._tokens: list[int] = list(prompt[-CONTEXT:])
        self._shown = len(self._tokens)  # tokens whose text was given out

    def peek(self, token: int) -> str:
        """Return what a token would add, without adding it; what is no whole character alone is named as it is."""
        text = self._added([*self._tokens, token])
        if not text or UNFINISHED in text:
            return str(self._tokenizer.convert_ids_to_tokens(token))
        return text

    def add(self, token: int) -> str:
        """Add a token and return the text that is finished by it; empty within a character of several tokens."""
        self._tokens.append(token)
        text = self._added(self._tokens)
        if text.endswith(UNFINISHED) and len(self._tokens) - self._shown < CONTEXT:
            return ""
        self._tokens = self._tokens[-CONTEXT:]
        self._shown = len(self._tokens)
        return text

    def rest(self) -> str:
        """Return what was held back, as it is: nothing more will finish it."""
        text = self._added(self._tokens)
        self._shown = len(self._tokens)
        return text

    def _added(self, tokens: list[int]) -> str:
        before, after = self._decode(tokens[: self._shown]), self._decode(tokens)
        return after[len(before) :] if after.startswith(before) else after

    def _decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
