"""Scores of the bundled models on the bundled tasks, for their manifest: greedy answers, letters by log-probability."""

import math
import re
from collections.abc import Callable, Sequence

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from paraknow_core.demo.corpus import PROMPT, conversation
from paraknow_core.demo.open_writing import follows
from paraknow_core.demo.tasks import TASKS, examples
from paraknow_core.demo.tokenizer import EOS, PAD
from paraknow_core.demo.training import IGNORED, encode

_BATCH = 100


@torch.no_grad()
def greedy_answers(
    model: LlamaForCausalLM, tokenizer: Tokenizer, questions: Sequence[str], max_new_tokens: int
) -> list[str]:
    """Answer questions greedily.

    Args:
        model: in evaluation mode.
        tokenizer: the bundled one.
        questions: user messages, without template.
        max_new_tokens: longest answer, in tokens.

    Returns:
        The answers, without `</s>`.
    """
    answers: list[str] = []
    for start in range(0, len(questions), _BATCH):
        asked = [PROMPT.format(question=question) for question in questions[start : start + _BATCH]]
        prompts = [encoding.ids for encoding in tokenizer.encode_batch(asked)]
        width = max(map(len, prompts))
        ids = torch.tensor([[PAD] * (width - len(p)) + p for p in prompts], device=model.device)
        out = model.generate(
            input_ids=ids,
            attention_mask=(ids != PAD).long(),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=EOS,
            pad_token_id=PAD,
        )[:, width:].tolist()
        answers += [tokenizer.decode(row[: row.index(EOS)] if EOS in row else row) for row in out]
    return answers


@torch.no_grad()
def answer_losses(
    model: LlamaForCausalLM, tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]
) -> list[tuple[float, int]]:
    """Loss of given answers.

    Args:
        model: in evaluation mode.
        tokenizer: the bundled one.
        pairs: (question, answer).

    Returns:
        (summed cross-entropy in nats, tokens) of each answer, `</s>` included.
    """
    losses: list[tuple[float, int]] = []
    for start in range(0, len(pairs), _BATCH):
        encoded = encode([conversation(q, a) for q, a in pairs[start : start + _BATCH]], tokenizer)
        width = max(len(ids) for ids, _ in encoded)
        ids = torch.tensor([ids + [PAD] * (width - len(ids)) for ids, _ in encoded], device=model.device)
        labels = torch.tensor([t + [IGNORED] * (width - len(t)) for _, t in encoded], device=model.device)[:, 1:]
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        nats = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
        losses += zip(nats.sum(1).tolist(), (labels != IGNORED).sum(1).tolist(), strict=True)
    return losses


def final_number(answer: str) -> str | None:
    """The number after the last `####`, or None."""
    return next(reversed(re.findall(r"####\s*(-?\d+)", answer)), None)


def rouge_l(reference: str, answer: str) -> float:
    """F1 of the longest common subsequence of lower-case words."""
    a, b = reference.lower().split(), answer.lower().split()
    row = [0] * (len(b) + 1)
    for word in a:
        before = 0
        for j, other in enumerate(b, 1):
            before, row[j] = row[j], before + 1 if word == other else max(row[j], row[j - 1])
    return 2 * row[-1] / (len(a) + len(b)) if a or b else 1.0


# Of the tasks whose answers are written: metric -> how one (question, reference, answer) is rated, from 0 to 1.
_METRICS: dict[str, dict[str, Callable[[str, str, str], float]]] = {
    "word_problems": {"number_match": lambda _, reference, answer: final_number(answer) == final_number(reference)},
    "instructions": {
        "exact_match": lambda _, reference, answer: answer.strip() == reference,
        "rouge_l": lambda _, reference, answer: rouge_l(reference, answer),
    },
    "open_writing": {"follows": lambda question, _, answer: follows(question, answer)},
}


def score(
    model: LlamaForCausalLM, tokenizer: Tokenizer, task: str, split: str = "test", limit: int | None = None
) -> dict[str, float | int]:
    """Score a model on one bundled task.

    Args:
        model: the model; put into evaluation mode.
        tokenizer: the bundled one.
        task: a key of `TASKS`.
        split: usually "test".
        limit: only the first examples.

    Returns:
        `n` and the metrics: shares between 0 and 1, or `perplexity` (per answer token). `follows` is the share of
        stories that have the hero, the thing and the place asked for.
    """
    model.eval()
    rows = examples(task, split)[:limit]
    questions, references = zip(*([turn["content"] for turn in row["messages"]] for row in rows), strict=True)
    result: dict[str, float | int] = {"n": len(rows)}
    if task == "multiple_choice":
        letters = rows[0]["choices"]
        losses = answer_losses(model, tokenizer, [(q, letter) for q in questions for letter in letters])
        right = 0
        for i, reference in enumerate(references):
            of_letters = [loss for loss, _ in losses[i * len(letters) : (i + 1) * len(letters)]]
            right += letters[of_letters.index(min(of_letters))] == reference
        return result | {"accuracy": right / len(rows)}
    if task == "open_writing":
        losses = answer_losses(model, tokenizer, list(zip(questions, references, strict=True)))
        result["perplexity"] = math.exp(sum(loss for loss, _ in losses) / sum(tokens for _, tokens in losses))
    answers = greedy_answers(model, tokenizer, questions, TASKS[task].max_new_tokens)
    for metric, rate in _METRICS[task].items():
        rated = [rate(*triple) for triple in zip(questions, references, answers, strict=True)]
        result[metric] = sum(rated) / len(rows)
    return result
