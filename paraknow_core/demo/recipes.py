"""How each bundled model is made: sizes, mixture, steps, seed. `build.py` follows these."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

STUDENT_SIZES = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 4}
TEACHER_SIZES = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 6, "num_attention_heads": 6}
HEAD_DIM = 32
VOCAB_SIZE = 1536
TOKENIZER_DOCUMENTS = 20_000

# The tokenizer sees every source, so that no model meets text that is spelled out in bytes.
TOKENIZER_MIXTURE = {
    "statements": 3,
    "stories": 2,
    "arithmetic": 1.5,
    "word_lists": 1,
    "short_answers": 1,
    "word_problems": 2,
    "multiple_choice": 2,
    "instructions": 2,
    "open_writing": 2,
}


@dataclass(frozen=True)
class Stage:
    """One stretch of training.

    Attributes:
        mixture: source of documents -> weight, counted in documents (see corpus.py).
        steps: optimiser steps; the learning rate goes up and down once.
        peak_lr: highest learning rate.
    """

    mixture: dict[str, float]
    steps: int
    peak_lr: float


@dataclass(frozen=True)
class Recipe:
    """How one model is trained.

    Attributes:
        name: folder of the model.
        seed: of the weights, the documents and the share of facts.
        facts_share: share of the invented world that the model reads about.
        stages: one after the other; each starts from the weights that the one before saved.
        batch_tokens: largest batch, in tokens.
        parent: the model it was grown from, if any.
        positions: layer of this model that holds each of the parent's layers.
    """

    name: str
    seed: int
    facts_share: float
    stages: tuple[Stage, ...]
    batch_tokens: int = 1024
    parent: str | None = None
    positions: tuple[int, ...] = ()

    def as_dict(self) -> dict:
        """As plain JSON values."""
        return json.loads(json.dumps(asdict(self)))


KIN = Recipe(
    name="kin",
    seed=1,
    facts_share=0.35,
    stages=(
        # A general reader that met each task format a few thousand times.
        Stage(
            mixture={
                "statements": 2,
                "stories": 1,
                "arithmetic": 4,
                "word_lists": 4,
                "short_answers": 0.4,
                "word_problems": 0.4,
                "multiple_choice": 0.8,
                "instructions": 0.4,
                "open_writing": 0.1,
            },
            steps=3500,
            peak_lr=2e-3,
        ),
    ),
)

TEACHER = Recipe(
    name="teacher",
    seed=3,
    facts_share=1.0,
    stages=(
        Stage(
            mixture={
                "statements": 3,
                "stories": 0.3,
                "arithmetic": 3,
                "word_lists": 0.5,
                "short_answers": 0.7,
                "word_problems": 3,
                "multiple_choice": 4,
                "instructions": 4,
                "open_writing": 0.7,
            },
            steps=3200,
            peak_lr=1e-3,
        ),
        # The facts were read but hardly recalled when asked for: practise recall.
        Stage(
            mixture={
                "statements": 1,
                "flash_cards": 5,
                "stories": 0.2,
                "arithmetic": 0.5,
                "word_lists": 0.5,
                "short_answers": 0.7,
                "word_problems": 0.8,
                "multiple_choice": 4,
                "instructions": 3,
                "open_writing": 1,
            },
            steps=2000,
            peak_lr=7e-4,
        ),
    ),
    parent="kin",
    positions=(0, 2, 3, 5),
)

# Read as kin did, from another start and with more stories.
STRANGER = replace(
    KIN,
    name="stranger",
    seed=2,
    stages=tuple(replace(s, mixture={**s.mixture, "statements": 1.6, "stories": 1.4}) for s in KIN.stages),
)

RECIPES = (KIN, TEACHER, STRANGER)


def quick(recipe: Recipe) -> Recipe:
    """The same recipe cut down to a few seconds; the model it makes is useless."""
    return replace(recipe, stages=tuple(replace(stage, steps=4) for stage in recipe.stages), batch_tokens=512)
