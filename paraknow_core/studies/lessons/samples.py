"""Lesson 4: how many seed samples. Independent draws of growing size, no training."""

from itertools import combinations

from paraknow_core.paths import Workspace
from paraknow_core.studies.lessons.base import (
    Explanation,
    Lesson,
    Panel,
    Preset,
    Runs,
    module_sums,
    range_row,
    rank_correlation,
    specs_of,
    store_of,
)

SIZES = (1, 4, 16, 64)
DRAWS = 3
ENOUGH = 0.95
KEPT = 4  # layers of the bundled students


SPECS = specs_of(
    4,
    {
        f"{size} samples, draw {draw + 1}": {
            "until": "sensitivity",
            "sensitivity.samples": size,
            "sensitivity.selection": "random",
            "sensitivity.seed": draw,
        }
        for size in SIZES
        for draw in range(DRAWS)
    },
)


def explain(place: Workspace, runs: Runs) -> Explanation:
    """Compare independent draws of the same size with each other."""
    agreement, layers = {}, {}
    for size in SIZES:
        own = [runs[f"{size} samples, draw {draw + 1}"] for draw in range(DRAWS)]
        sums = [module_sums(place, run) for run in own]
        agreement[size] = [rank_correlation(a, b) for a, b in combinations(sums, 2)]
        layers[size] = [_kept(store_of(place, run).layer_scores()) for run in own]
    panel = Panel(
        "Do two draws of seed samples rank the modules alike?",
        f"teacher on word problems; Spearman's correlation, {DRAWS} draws each; bars: range over pairs",
        "rank correlation",
        tuple(
            range_row(f"{size} sample{'s' if size > 1 else ''}", "seeking", correlations)
            for size, correlations in agreement.items()
        ),
    )
    right, why = _judge(agreement)
    return Explanation((panel,), _sentences(agreement, layers), right, why)


def _kept(scores: list[float]) -> tuple[int, ...]:
    return tuple(sorted(sorted(range(len(scores)), key=lambda layer: -scores[layer])[:KEPT]))


def _judge(agreement: dict[int, list[float]]) -> tuple[str, str]:
    """Return the smallest size from which on every pair of draws agrees well enough."""
    good = [size for size in SIZES if all(min(agreement[s]) >= ENOUGH for s in SIZES if s >= size)]
    if not good:
        return "more", f"even with {SIZES[-1]} samples a pair of draws agrees only to {min(agreement[SIZES[-1]]):.2f}."
    return str(good[0]), f"from {good[0]} on, every pair of draws agrees to at least {min(agreement[good[0]]):.2f}."


def _sentences(agreement: dict, layers: dict) -> tuple[str, ...]:
    first, last = SIZES[0], SIZES[-1]
    words = [
        f"Two draws of {size} agree to {sum(v) / len(v):.3f} (range {min(v):.3f} to {max(v):.3f})."
        for size, v in ((first, agreement[first]), (last, agreement[last]))
    ]
    same = [size for size in SIZES if len(set(layers[size])) == 1]
    whole = {choice for size in SIZES for choice in layers[size]}
    if len(whole) == 1:
        kept = ", ".join(map(str, next(iter(whole))))
        words.append(
            f"Every draw of every size chose the same {KEPT} layers ({kept}): the choice of layers needs far "
            "fewer samples than the order of modules."
        )
    elif same:
        words.append(
            f"All draws choose the same {KEPT} layers with {', '.join(map(str, same))} samples, not with the "
            "other sizes."
        )
    else:
        words.append(f"No size makes all {DRAWS} draws choose the same {KEPT} layers.")
    words.append("The paper takes 32. Agreement of draws says that a measurement is repeatable, not that it is useful.")
    return tuple(words)


LESSON = Lesson(
    4,
    "How many seed samples?",
    f"From how many seed samples on do independent draws agree on the order of modules (rank correlation ≥ {ENOUGH})?",
    "Sensitivity is a sum over a few training examples. With other examples the numbers change. Here three independent "
    "draws of 1, 4, 16 and 64 examples measure the same teacher on word problems; two draws of one size are compared "
    "by Spearman's rank correlation over all modules of the layers: 1 is the same order, 0 none.",
    {**{str(size): f"{size}" for size in SIZES}, "more": f"Not even {SIZES[-1]}"},
    SPECS,
    35,
    explain,
    (
        Preset(
            "one-sample",
            "Measure with a single sample",
            "pages/sensitivity.py",
            {"until": "sensitivity", "sensitivity.samples": 1},
        ),
        Preset(
            "few-windows", "See whether windows move with 4 samples", "pages/mapping.py", {"sensitivity.samples": 4}
        ),
    ),
    "Modules may keep their order while the windows inside them move: look at the windows with few samples.",
    study="seed_samples",
)
