"""Finished runs whose per-example records say something: answers with texts, two scorers, fingerprints."""

import json
import random

from paraknow_core.paths import Workspace
from paraknow_core.runs.folder import RunFolder
from tests.pages import fabricate

N = 60
HOSTILE = "<script>alert('x')</script> | *stars* [link](https://example.org) `code` $x$ " + "long" * 20


def run(place: Workspace, method: str, seed: int = 0, right: float = 0.4, n: int = N, **changes) -> RunFolder:
    """Write a finished run with about a share of `right` correct answers; the same examples are hard for all."""
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    folder = fabricate.run(place, "done", {"method": method, "seed": seed, **changes}, value=right)
    own, hard = random.Random(f"{method}{seed}"), random.Random(7)  # noqa: S311 - made-up answers
    lines = []
    for number in range(n):
        good = hard.random() + own.gauss(0, 0.1) < right
        record = {
            "id": f"test/{number}",
            "prompt": f"Tom has {number} <b>apples</b> and buys 2 more. How many?",
            "reference": f"#### {number + 2}",
            "output": f"#### {number + 2 if good else number - 2}",
            "detail": {},
        }
        lines.append({"scorer": "number_match", "score": float(good), **record})
        lines.append({"scorer": "rouge_l", "score": 0.75 if good else 0.5, **record})
    folder.file("predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = folder.result()
    result["scores"] = [score(lines, name) for name in ("number_match", "rouge_l")]
    untouched = {"value": 0.2, "low": 0.1, "high": 0.3}
    result["references"] = {"student": [{**score(lines, name), **untouched} for name in ("number_match", "rouge_l")]}
    result["fingerprints"] = {"student": "a" * 64, "test": "b" * 64}
    folder.file("result.json").write_text(json.dumps(result))
    return folder


def score(lines: list[dict], scorer: str) -> dict:
    """Summarise records as the pipeline does, with a rough interval."""
    values = [line["score"] for line in lines if line["scorer"] == scorer]
    value = sum(values) / len(values)
    return {
        "scorer": scorer,
        "value": value,
        "low": max(0.0, value - 0.1),
        "high": min(1.0, value + 0.1),
        "n": len(values),
        "unit": "share",
        "extra": {},
    }


def study(place: Workspace, seeds: int = 3) -> dict[str, list[RunFolder]]:
    """Write three arms with some seeds each."""
    shares = {"default_lora": 0.35, "pissa": 0.37, "seeking": 0.6}
    return {
        method: [run(place, method, seed, right, name=f"study {method}") for seed in range(seeds)]
        for method, right in shares.items()
    }
