"""Who can answer in the playground: the draft's pair, bundled models, and every run with a trained adapter."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass

from paraknow_core.catalogue import BASELINE, PAPER_METHOD
from paraknow_core.display import arm_of, score_text, source_label
from paraknow_core.paths import Workspace
from paraknow_core.spec import RunSpec
from paraknow_core.workbench import reading
from paraknow_core.workbench.offers import bundled_models
from paraknow_core.workbench.playground.protocol import Generation, Slot
from paraknow_core.workbench.reading import Facts

NOBODY = ""
PAIRED = 24  # newest runs of a kind among which the two that differ least are looked for


@dataclass(frozen=True)
class Answerer:
    """Somebody who can answer: how it is called, and the colour that its arm has everywhere; of a run, its facts."""

    slot: Slot
    label: str
    arm: str
    detail: str = ""
    facts: Facts | None = None

    @property
    def option(self) -> str:
        """Its line in a list; a column is narrow: what tells runs apart must be seen."""
        label = self.label.replace(" (the method)", "")
        return f"{label} · {self.detail}" if self.detail else label


def answerers(place: Workspace, draft: RunSpec) -> dict[str, Answerer]:
    """Return by key all who can answer: the draft's teacher and student first, then bundled models, runs last."""
    people: list[Answerer] = []
    for who in ("teacher", "student"):
        model = getattr(draft, who)
        slot = Slot(source=model.source, revision=model.revision, untrained=model.untrained)
        people.append(Answerer(slot, source_label(model.source, 30), who, f"the draft's {who}, untouched"))
    for source in bundled_models():
        people.append(Answerer(Slot(source=source), source_label(source), "student", "bundled"))
    titles = reading.titles(place)
    for run, facts in reading.all_facts(place):
        spec = facts.spec
        if spec is None or not facts.result or not run.file("adapter").is_dir():
            continue
        revision = _at(facts.result, "revisions", "student")
        revision = revision if isinstance(revision, str) else spec.student.revision
        steps = _at(facts.result, "training", "steps")
        parts = [
            arm_of(spec.method).label,
            f"{steps:,} steps" if isinstance(steps, int) else "",
            source_label(spec.student.source, 24),
            facts.task,
            score_text(facts.scores[0]).split(" (")[0] if facts.scores else "",
        ]
        student = spec.student
        slot = Slot(source=student.source, revision=revision, untrained=student.untrained, run=run.id)
        detail = ", ".join(part for part in parts if part)
        people.append(Answerer(slot, titles.get(run.id, run.id), spec.method, detail, facts))
    by_key: dict[str, Answerer] = {}
    for person in people:
        by_key.setdefault(person.slot.key, person)
    return by_key


def _at(record: Mapping, part: str, key: str) -> object:
    inner = record.get(part)
    return inner.get(key) if isinstance(inner, dict) else None


def first_pair(people: Mapping[str, Answerer], named: str | None, student: str) -> tuple[str, str]:
    """Return a default LoRA and a transfer to start with: the two that differ least, in their seeds, too.

    Args:
        people: everybody, runs newest first.
        named: the run of the address; it is one of the two.
        student: the draft's source; runs of this model come first.
    """
    runs = [key for key, person in people.items() if person.slot.run]
    source = people[named].slot.source if named else student
    fits = [key for key in runs if people[key].slot.source == source] or runs
    pool = list(dict.fromkeys([named, *fits] if named else fits))
    controls = [key for key in pool if people[key].arm == BASELINE]
    others = [key for key in pool if key not in controls]
    methods = [key for key in others if people[key].arm == PAPER_METHOD] or others
    if named is not None:
        controls, methods = ([named], methods) if named in controls else (controls, [named])
    if not methods and len(controls) > 1:
        return controls[0], controls[1]
    pairs = ((control, method) for method in methods[:PAIRED] for control in controls[:PAIRED])
    nearest = min(pairs, key=lambda pair: _distance(people[pair[0]], people[pair[1]]), default=None)
    return nearest or (next(iter(controls), NOBODY), next(iter(methods), NOBODY))


def _distance(control: Answerer, transfer: Answerer) -> tuple[bool, bool, bool]:
    """Tell in what a control differs from a transfer: anything but the method, model or task, the seed."""
    if not transfer.facts or not control.facts:
        return (False, False, False)
    own, other = transfer.facts, control.facts
    asked = reading.question(own.spec) != reading.question(other.spec)
    return bool(set(reading.other_settings(own, other)) - {"seed"}), asked, own.spec.seed != other.spec.seed


def tokens_csv(generation: Generation, labels: Mapping[str, str]) -> str:
    """Return every token of every answer as CSV."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["who", "position", "token", "probability", "alternatives"])
    for key, column in generation.columns.items():
        for number, token in enumerate(column.tokens):
            rest = "; ".join(f"{text!r} {p:.4f}" for text, p in token.get("top") or [])
            text = token["text"] or token.get("end_mark", "")
            writer.writerow([_safe(labels.get(key, key)), number, _safe(text), f"{token['p']:.6f}", rest])
    return out.getvalue()


def _safe(text: str) -> str:
    """A spreadsheet must not take a token for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text
