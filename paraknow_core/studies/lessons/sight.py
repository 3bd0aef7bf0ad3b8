"""Lesson 1: what sensitivity sees. Two tasks, several draws of seed samples each, no training."""

from itertools import combinations, product

from paraknow_core.paths import Workspace
from paraknow_core.runs.folder import RunFolder
from paraknow_core.studies.lessons.base import (
    Explanation,
    Lesson,
    Panel,
    Preset,
    Row,
    Runs,
    mean_and_interval,
    module_sums,
    range_row,
    rank_correlation,
    specs_of,
    store_of,
)

TASKS = {"word_problems": "word problems", "multiple_choice": "multiple choice"}
DRAWS = 3
SAMPLES = 16
GROUPS = ("attention", "ffn", "embedding")


SPECS = specs_of(
    1,
    {
        f"{label}, draw {draw + 1}": {
            "task.source": f"bundled:{task}",
            "until": "sensitivity",
            "sensitivity.samples": SAMPLES,
            "sensitivity.selection": "random",
            "sensitivity.seed": draw,
        }
        for task, label in TASKS.items()
        for draw in range(DRAWS)
    },
)


def explain(place: Workspace, runs: Runs) -> Explanation:
    """Compare how modules rank within one task and between the two."""
    sums = {t: [module_sums(place, runs[f"{t}, draw {d + 1}"]) for d in range(DRAWS)] for t in TASKS.values()}
    within = {t: [rank_correlation(a, b) for a, b in combinations(draws, 2)] for t, draws in sums.items()}
    first, second = TASKS.values()  # the names under which the sums are kept
    between = [rank_correlation(a, b) for a, b in product(sums[first], sums[second])]
    right, why = _judge([value for values in within.values() for value in values], between)
    agreement = Panel(
        "Do two measurements rank the modules alike?",
        f"Spearman's rank correlation of {len(sums[first][0])} modules; bars: range over pairs of draws",
        "rank correlation",
        (
            *(range_row(f"{t}: two draws", "seeking", values) for t, values in within.items()),
            range_row("one task against the other", "teacher", between),
        ),
    )
    return Explanation((agreement, _groups(place, runs)), _sentences(sums, within, between), right, why)


def _judge(within: list[float], between: list[float]) -> tuple[str, str]:
    """Say which prediction the correlations bear out."""
    if max(between) >= min(within):
        return "same", (
            f"the two tasks agree as well as two draws of one task do ({max(between):.2f} against {min(within):.2f}), "
            "so nothing here tells the tasks apart."
        )
    if sum(between) / len(between) >= 0.5:
        return "alike", (
            f"every pair of draws of one task agrees better (at least {min(within):.2f}) than any pair across tasks "
            f"(at most {max(between):.2f}), yet the tasks still agree a lot."
        )
    return "other", f"across tasks the ranks hardly agree (at most {max(between):.2f})."


def _groups(place: Workspace, runs: Runs) -> Panel:
    rows = []
    for task in TASKS.values():
        shares = [_shares(place, runs[f"{task}, draw {draw + 1}"]) for draw in range(DRAWS)]
        for group in GROUPS:
            values = [100 * share[group] for share in shares]
            rows.append(Row(f"{group}, {task}", group, *mean_and_interval(values), tuple(values)))
    rows.sort(key=lambda row: GROUPS.index(row.arm))
    subtitle = f"share of the teacher's S; bars: 95 % t interval over {DRAWS} draws of {SAMPLES} seed samples"
    return Panel("Where the sensitivity lies", subtitle, "share of all [%]", tuple(rows))


def _shares(place: Workspace, run: RunFolder) -> dict[str, float]:
    totals = store_of(place, run).totals
    return {group: totals["groups"].get(group, 0.0) / (totals["total"] or 1.0) for group in GROUPS}


def _sentences(sums: dict, within: dict, between: list[float]) -> tuple[str, ...]:
    tops = {t: _top([{k: v / sum(d.values()) for k, v in d.items()} for d in draws]) for t, draws in sums.items()}
    words = [
        f"Most sensitive for {task}: {_short(name)}, {100 * share:.1f} % of the layers' S."
        for task, (name, share) in tops.items()
    ]
    mean = sum(between) / len(between)
    own = [value for values in within.values() for value in values]
    words.append(
        f"Across the two tasks the rank correlation is {mean:.2f} on average (range {min(between):.2f} to "
        f"{max(between):.2f}, {len(between)} pairs); between draws of one task {sum(own) / len(own):.2f} "
        f"({min(own):.2f} to {max(own):.2f}, {len(own)} pairs)."
    )
    words.append(
        "A measurement alone shows where weights matter, not why: compare it with its own noise, as here, before "
        "reading a difference between two heatmaps."
    )
    return tuple(words)


def _top(draws: list[dict[str, float]]) -> tuple[str, float]:
    means = {name: sum(draw[name] for draw in draws) / len(draws) for name in draws[0]}
    name = max(means, key=means.get)
    return name, means[name]


def _short(module: str) -> str:
    return module.removeprefix("model.")


LESSON = Lesson(
    1,
    "What sensitivity sees",
    "Two tasks, one teacher. Do they depend on the same modules?",
    "Sensitivity of a weight is S = Σ over seed samples of |θ · ∂L/∂θ|: how much the loss would change, to first "
    "order, if the weight were removed. Summed over a module it ranks the modules of the teacher. The bundled "
    "teacher knows word problems and multiple choice. Each task is measured three times, on three random draws of its "
    "training examples, so that you see how much of a difference is only the choice of samples.",
    {
        "same": "The same: the ranking belongs to the model, not to the task",
        "alike": "Much alike, but two tasks differ more than two draws of one task",
        "other": "Different: each task has modules of its own",
    },
    SPECS,
    25,
    explain,
    (
        Preset(
            "instructions",
            "Measure a third task: instructions",
            "pages/sensitivity.py",
            {"task.source": "bundled:instructions", "until": "sensitivity"},
        ),
        Preset(
            "choice",
            "Look into multiple choice, module by module",
            "pages/sensitivity.py",
            {"task.source": "bundled:multiple_choice", "until": "sensitivity"},
        ),
    ),
    "Click a cell of the map: which rows and columns carry the module? Compare two tasks there, cell by cell.",
    study="task_transfer",
)
