"""How often a verdict is false, and whether it finds what it promises, in synthetic studies of a known effect.

Run: python -m benchmarks.verdict [--small]
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks._common import arguments, machine, publish
from paraknow_core.ops.verdict import BETTER, EQUIVALENT, WORSE, Verdict, adjust, judge

SIZES = [(6, 2), (6, 20), (6, 1000), (10, 100), (20, 50)]
SMALL = [(8, 30)]
STUDIES = 1000
_AT_ONCE = 250
_ARMS = 4
NOTES = [
    f"{STUDIES:,} studies a figure (standard error of 5 %: 0.7 points; of 80 %: 1.3 points); with --small 100. False",
    "better or worse: no effect. False equivalent: the effect is exactly the margin. Smallest detectable: median of",
    "what studies without an effect print. Power: how often an effect of that size is found; a dash: none is, however",
    f"large. The family: any false word among {_ARMS} arms against one, after Holm; the power of one of them.",
]


@dataclass(frozen=True)
class Situation:
    """What scores are made of.

    Attributes:
        name: in the table.
        seeds, examples, rest: standard deviations of a single difference, in its parts.
        tails: degrees of freedom of Student's t in place of normal noise.
        unequal: every third seed is six times as noisy as the others.
        rate: share of right answers, for scores of right and wrong; spreads then do not count.
        alike: with a rate: all seeds answer alike.
    """

    name: str
    seeds: float = 0.0
    examples: float = 0.0
    rest: float = 0.0
    tails: float | None = None
    unequal: bool = False
    rate: float | None = None
    alike: bool = False

    def margin(self, seeds: int, n: int) -> float:
        """Return a margin that a study of this size can just see: 3.5 true standard errors."""
        if self.rate is not None:
            single = 2 * self.rate * (1 - self.rate)
            return min(0.5, 3.5 * math.sqrt(single / (n if self.alike else n * seeds)) + 3 / n)
        variance = self.seeds**2 / seeds + self.examples**2 / n + self.rest**2 / (seeds * n)
        return 3.5 * math.sqrt(variance)

    def scores(
        self, generator: np.random.Generator, studies: int, seeds: int, n: int, effect: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Make studies (studies, seeds, n) of both arms."""
        shape = (studies, seeds, n)
        if self.rate is not None:
            drawn = [generator.random((studies, 1 if self.alike else seeds, n)) for _ in range(3)]
            a, b, turned = (np.broadcast_to(each, shape) for each in drawn)
            return ((a < self.rate) | (turned < effect / (1 - self.rate))) * 1.0, (b < self.rate) * 1.0

        def noise(*size: int) -> np.ndarray:
            if self.tails is None:
                return generator.standard_normal(size)
            return generator.standard_t(self.tails, size) * math.sqrt((self.tails - 2) / self.tails)

        own = self.seeds * noise(studies, seeds, 1) + self.rest * noise(*shape)
        if self.unequal:
            factor = np.where(np.arange(seeds) % 3 == 0, 6.0, 1.0)
            own *= (factor / math.sqrt((factor**2).mean()))[:, None]
        return own + self.examples * noise(studies, 1, n) + effect, np.zeros(shape)


SITUATIONS = [
    Situation("independent noise", rest=1),
    Situation("seeds differ", seeds=1, rest=0.3),
    Situation("seeds alike: examples only", examples=1),
    Situation("seeds, examples and both", seeds=0.2, examples=1, rest=1),
    Situation("heavy tails (t, 2.5)", seeds=0.2, examples=1, rest=1, tails=2.5),
    Situation("seeds of unequal noise", seeds=0.2, examples=0.3, rest=1, unequal=True),
    Situation("right or wrong, 40 %", rate=0.4),
    Situation("right or wrong, 2 %", rate=0.02),
    Situation("right or wrong, 2 %, seeds alike", rate=0.02, alike=True),
]


def judged(situation: Situation, seeds: int, n: int, effect: float, studies: int, start: int) -> list[Verdict]:
    """Judge studies of one effect, a part of them at a time."""
    margin, generator = situation.margin(seeds, n), np.random.default_rng([start, seeds, n])
    results: list[Verdict] = []
    while len(results) < studies:
        part = min(_AT_ONCE, studies - len(results))
        results += judge(*situation.scores(generator, part, seeds, n, effect), margin)
    return results


def share(results: list[Verdict], *words: str) -> float:
    """Return how many of the verdicts are one of the words, as a share."""
    return sum(result.verdict in words for result in results) / len(results)


def promised(results: list[Verdict]) -> float | None:
    """Return the median of the smallest detectable effects; None where most studies print none."""
    sizes = [result.smallest_detectable for result in results]
    printed = [math.inf if size is None else size for size in sizes]
    median = float(np.median(printed))
    return median if 0 < median < math.inf else None


def measure(situation: Situation, seeds: int, n: int, studies: int) -> dict[str, Any]:
    """Measure one situation."""
    none = judged(situation, seeds, n, 0, studies, 1)
    row = {"case": situation.name, "seeds": seeds, "examples": n, "false_better_or_worse": share(none, BETTER, WORSE)}
    at_margin = judged(situation, seeds, n, situation.margin(seeds, n), studies, 2)
    size = promised(none)
    power = None if size is None else share(judged(situation, seeds, n, size, studies, 3), BETTER)
    return row | {"false_equivalent": share(at_margin, EQUIVALENT), "smallest_detectable": size, "power": power}


def family(seeds: int, n: int, studies: int) -> dict[str, Any]:
    """Measure several arms against one, whose noise they share."""
    situation = Situation("", seeds=0.2, examples=0.5, rest=1)
    margin, generator = situation.margin(seeds, n), np.random.default_rng(4)

    def judge_all(effect: float) -> list[list[Verdict]]:
        base, _ = situation.scores(generator, studies, seeds, n, 0)
        by_arm = []
        for arm in range(_ARMS):
            own, _ = situation.scores(generator, studies, seeds, n, 0 if arm else effect)
            by_arm.append(judge(own, base, margin, comparisons=_ARMS))
        return [adjust(studied) for studied in zip(*by_arm, strict=True)]

    none = judge_all(0)
    size = promised([each for studied in none for each in studied])
    found = judge_all(size)
    row = {"case": f"family of {_ARMS}", "seeds": seeds, "examples": n}
    row["false_better_or_worse"] = sum(any(v.verdict in (BETTER, WORSE) for v in each) for each in none) / studies
    at_margin = [each[0] for each in judge_all(margin)]
    row |= {"false_equivalent": share(at_margin, EQUIVALENT), "smallest_detectable": size}
    return row | {"power": share([each[0] for each in found], BETTER)}


def main() -> None:
    """Print the table and write results/verdict.json."""
    options = arguments(__doc__.splitlines()[0])
    facts, studies = machine(), 100 if options.small else STUDIES
    sizes = SMALL if options.small else SIZES
    rows = [measure(situation, *size, studies) for situation in SITUATIONS for size in sizes]
    rows.append(family(10, 50, studies))
    columns = {
        "case": str,
        "seeds": str,
        "examples": "{:,}".format,
        "false_better_or_worse": "{:.1%}".format,
        "false_equivalent": "{:.1%}".format,
        "smallest_detectable": "{:.3g}".format,
        "power": "{:.1%}".format,
    }
    publish(options, "verdict", "False words and power of the verdict", NOTES, facts, rows, columns)


if __name__ == "__main__":
    main()
