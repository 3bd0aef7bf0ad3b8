"""How each bundled model is made: sizes, mixture, steps, seed. `build.py` follows these."""

import json
from dataclasses import asdict, dataclass, replace

STUDENT_SIZES = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 4}
TEACHER_SIZES = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 6, "num_attention_heads": 6}
HEAD_DIM = 32
VOCAB_SIZE = 1536
TOKENIZER_DOCUMENTS = 20_000


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


# Weights of the sources of documents (see corpus.py) for each reader; their order matters to the draws.
_SOURCES = {
    # tokenizer, kin, teacher at first, teacher later
    "statements": (3, 2, 3, 1),
    "flash_cards": (0, 0, 0, 5),
    "stories": (2, 1, 0.3, 0.2),
    "arithmetic": (1.5, 4, 3, 0.5),
    "word_lists": (1, 4, 0.5, 0.5),
    "short_answers": (1, 0.4, 0.7, 0.7),
    "word_problems": (2, 0.4, 3, 0.8),
    "multiple_choice": (2, 0.8, 4, 4),
    "instructions": (2, 0.4, 4, 3),
    "open_writing": (2, 0.1, 0.7, 1),
}
# The tokenizer sees every source but one, so that no model meets text that is spelled out in bytes. Kin becomes a
# general reader that met each task format a few thousand times. The teacher first reads the facts, but hardly recalls
# them when asked: so it practises recall.
TOKENIZER_MIXTURE, _KIN, _TEACHER, _TEACHER_LATER = (
    {source: weights[reader] for source, weights in _SOURCES.items() if weights[reader]} for reader in range(4)
)

KIN = Recipe("kin", seed=1, facts_share=0.35, stages=(Stage(_KIN, steps=3500, peak_lr=2e-3),))
TEACHER = Recipe(
    "teacher",
    seed=3,
    facts_share=1.0,
    stages=(Stage(_TEACHER, steps=3200, peak_lr=1e-3), Stage(_TEACHER_LATER, steps=2000, peak_lr=7e-4)),
    parent="kin",
    positions=(0, 2, 3, 5),
)
# Read as kin did, from another start and with more stories.
STRANGER = replace(
    KIN, name="stranger", seed=2, stages=(Stage({**_KIN, "statements": 1.6, "stories": 1.4}, 3500, peak_lr=2e-3),)
)

RECIPES = (KIN, TEACHER, STRANGER)


def quick(recipe: Recipe) -> Recipe:
    """The same recipe cut down to a few seconds; the model it makes is useless."""
    return replace(recipe, stages=tuple(replace(stage, steps=4) for stage in recipe.stages), batch_tokens=512)
