"""Scores of the bundled models on the bundled tasks, for their manifest: greedy answers, letters by log-probability."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

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
        prompts = [
            t.ids
            for t in tokenizer.encode_batch([PROMPT.format(question=q) for q in questions[start : start + _BATCH]])
        ]
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
        for row in out:
            answers.append(tokenizer.decode(row[: row.index(EOS)] if EOS in row else row))
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
        each = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
        ).sum(1)
        losses += zip(each.tolist(), (labels != IGNORED).sum(1).tolist(), strict=True)
    return losses


def final_number(answer: str) -> str | None:
    """The number after the last `####`, or None."""
    found = re.findall(r"####\s*(-?\d+)", answer)
    return found[-1] if found else None


def rouge_l(reference: str, answer: str) -> float:
    """F1 of the longest common subsequence of lower-case words."""
    a, b = reference.lower().split(), answer.lower().split()
    row = [0] * (len(b) + 1)
    for word in a:
        before = 0
        for j, other in enumerate(b, 1):
            before, row[j] = row[j], before + 1 if word == other else max(row[j], row[j - 1])
    return 2 * row[-1] / (len(a) + len(b)) if a or b else 1.0


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
    questions = [row["messages"][0]["content"] for row in rows]
    references = [row["messages"][1]["content"] for row in rows]
    n = len(rows)
    result: dict[str, float | int] = {"n": n}
    if task == "multiple_choice":
        letters = rows[0]["choices"]
        losses = answer_losses(model, tokenizer, [(q, letter) for q in questions for letter in letters])
        right = 0
        for i, reference in enumerate(references):
            of_letters = [loss for loss, _ in losses[i * len(letters) : (i + 1) * len(letters)]]
            right += letters[of_letters.index(min(of_letters))] == reference
        result["accuracy"] = right / n
        return result
    if task == "open_writing":
        losses = answer_losses(model, tokenizer, list(zip(questions, references, strict=True)))
        result["perplexity"] = math.exp(sum(loss for loss, _ in losses) / sum(tokens for _, tokens in losses))
        answers = greedy_answers(model, tokenizer, questions, TASKS[task].max_new_tokens)
        result["follows"] = sum(follows(q, a) for q, a in zip(questions, answers, strict=True)) / n
        return result
    answers = greedy_answers(model, tokenizer, questions, TASKS[task].max_new_tokens)
    if task == "word_problems":
        result["number_match"] = (
            sum(final_number(a) == final_number(r) for a, r in zip(answers, references, strict=True)) / n
        )
    else:
        result["exact_match"] = sum(a.strip() == r for a, r in zip(answers, references, strict=True)) / n
        result["rouge_l"] = sum(rouge_l(r, a) for a, r in zip(answers, references, strict=True)) / n
    return result
