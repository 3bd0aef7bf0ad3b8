"""Does the teacher still know where it came from? Checks on a teacher that was grown from a student.

Three questions: are its most sensitive layers the original ones; is the most sensitive block of every original matrix
the corner (0, 0) where the student's weight was put; and does moving that block's difference at low rank carry the
skill.
"""

import copy
from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaForCausalLM

from paraknow_core.demo.corpus import conversation
from paraknow_core.demo.scoring import score
from paraknow_core.demo.tasks import TASKS, examples
from paraknow_core.demo.training import encode
from paraknow_core.ops.window import best_window

MATRICES = (
    "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj mlp.gate_proj mlp.up_proj mlp.down_proj"
).split()


def sensitivities(model: LlamaForCausalLM, tokenizer: Tokenizer, task: str) -> dict[str, Tensor]:
    """Sum over the seed samples of abs(theta * dL/dtheta), the absolute value taken sample by sample.

    Args:
        model: float32, put into evaluation mode.
        tokenizer: the bundled one.
        task: whose 32 seed samples are used.

    Returns:
        parameter name -> tensor of the parameter's shape.
    """
    model.eval()
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    pairs = [(row["messages"][0]["content"], row["messages"][1]["content"]) for row in examples(task, "seed")]
    for ids, labels in encode([conversation(q, a) for q, a in pairs], tokenizer):
        model.zero_grad(set_to_none=True)
        model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss.backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                total[name] += (parameter.detach() * parameter.grad).abs()
    model.zero_grad(set_to_none=True)
    return total


def inject_difference(
    student: LlamaForCausalLM, teacher: LlamaForCausalLM, positions: Sequence[int], rank: int
) -> LlamaForCausalLM:
    """A copy of the student that moves towards the teacher's corner blocks, rank by rank; norms and embeddings stay.

    Args:
        student, teacher: the pair; the teacher was grown from the student.
        positions: teacher layer of each student layer.
        rank: of the moved difference, per matrix.
    """
    moved = copy.deepcopy(student)
    with torch.no_grad():
        for i, position in enumerate(positions):
            for matrix in MATRICES:
                target = moved.get_submodule(f"model.layers.{i}.{matrix}").weight
                source = teacher.get_submodule(f"model.layers.{position}.{matrix}").weight
                u, s, vh = torch.linalg.svd(source[: target.shape[0], : target.shape[1]] - target, full_matrices=False)
                target += (u[:, :rank] * s[:rank]) @ vh[:rank]
    return moved


def alignment(
    student: LlamaForCausalLM,
    teacher: LlamaForCausalLM,
    tokenizer: Tokenizer,
    positions: Sequence[int],
    rank: int = 16,
    limit: int | None = None,
) -> dict:
    """Measure how far a trained teacher is still aligned with the student it was grown from.

    Args:
        student, teacher: the pair, float32 on the CPU.
        tokenizer: the bundled one.
        positions: teacher layer of each student layer.
        rank: of the difference injection.
        limit: only this many test examples a task.

    Returns:
        By task: `layers` (the most sensitive teacher layers), `layers_recovered`, `windows_at_origin` and `windows`
        (counts), `injected` (test scores of the student after difference injection, no training).
    """
    count = len(positions)
    moved = inject_difference(student, teacher, positions, rank)
    by_task = {}
    for task in TASKS:
        scores = sensitivities(teacher, tokenizer, task)
        of_layer = [
            sum(s.sum().item() for name, s in scores.items() if name.startswith(f"model.layers.{i}."))
            for i in range(teacher.config.num_hidden_layers)
        ]
        top = sorted(sorted(range(len(of_layer)), key=lambda i: -of_layer[i])[:count])
        corners = []
        for i, position in enumerate(positions):
            for matrix in MATRICES:
                height, width = student.get_submodule(f"model.layers.{i}.{matrix}").weight.shape
                window = best_window(scores[f"model.layers.{position}.{matrix}.weight"], height, width)
                corners.append((window.row, window.col))
        by_task[task] = {
            "layers": top,
            "layers_recovered": len(set(top) & set(positions)),
            "layer_share": [round(v / sum(of_layer), 4) for v in of_layer],
            "windows_at_origin": sum(c == (0, 0) for c in corners),
            "windows": len(corners),
            "injected": score(moved, tokenizer, task, "test", limit),
        }
    return {"rank": rank, "positions": list(positions), "tasks": by_task}
