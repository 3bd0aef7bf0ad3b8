"""The causal check: swap what a run put into one layer for its random twin, and test again, layer by layer.

Sensitivity says which weights should matter; only an edit shows which do. The trained student is the untouched one plus
a change D of each module. In one unit (a layer, or a module) D is replaced by a random matrix with the same singular
values, so that the unit is changed as much as before, but not to what was learnt; and, in a second edit, by nothing.
The effect is what that costs on the test split, example by example.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from paraknow_core.catalogue import METHODS, SCORERS
from paraknow_core.context import Context
from paraknow_core.display import count
from paraknow_core.errors import RunError
from paraknow_core.files.json_file import read_object, write_json
from paraknow_core.runs.folder import RunFolder
from paraknow_core.training.estimates import trained_parameters

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from paraknow_core.adapters.saved import Change
    from paraknow_core.tasks.examples import Example

By = Literal["layer", "module"]
NATS = "perplexity"  # the scorer whose records are nats per token of the reference: finer than right or wrong
EDITS = ("twin", "without")
_ROUNDING = 1e-6  # of a product: what is left of a difference of two equal ones
_VERSION = 1
BYTES_A_WEIGHT = 8  # value, and the untouched one
MOST_WHOLE = 50_000_000  # weights that were trained themselves: a twin of full rank costs the cube of a weight's side


def file_of(by: By) -> str:
    """Return the name of the file, in a run folder, that holds a check."""
    return f"causal-{by}.json"


def causal_check(context: Context, run: RunFolder, *, by: By = "layer", examples: int = 200) -> dict[str, Any]:
    """Edit a finished run's change unit by unit, and measure what each edit costs; kept in the run folder.

    Args:
        context: of the run's spec.
        run: trained, with init_adapter/ and adapter/.
        by: what is edited at once.
        examples: how many of the test split, from the first on.

    Returns:
        by, examples, scorer, unit (of the scorer); units: name, layer, role, sensitivity (S of the teacher's blocks
        that it received, None without a teacher), norm (Frobenius, of its change), and for each edit, `twin` and
        `without`: nats and score, each mean, low, high (95 %; positive: the edit made it worse); agreement: for
        each of nats and score, Spearman's rho between sensitivity and the twin's effect, low, high, units.

    Raises:
        RunError: the run has no trained adapter, or changed nothing; its changes are of full rank and too many; memory
            is short. ModelError: it does not fit the student.
    """
    from paraknow_core.adapters.saved import RECORD, saved_changes
    from paraknow_core.ops.low_rank import product_norm

    key = [_VERSION, by, examples, run.status().attempt]
    kept = read_object(run.file(file_of(by)))
    if kept.get("key") == key:
        return kept
    _refuse_large_whole(context, run)
    changes = list(saved_changes(run.path, context.student.anatomy))
    context.student.require_memory(BYTES_A_WEIGHT, "editing")
    units = _units(changes, by)
    sums = {name: record.get("window_sum") for name, record in read_object(run.file(RECORD)).get("modules", {}).items()}
    tested = context.task.split("test")[:examples]
    bench = _Bench(context, changes, tested, len(EDITS) * len(units))
    if all(bench.norms[change.module.name] <= _ROUNDING * product_norm(*change.last) for change in changes):
        raise RunError(
            f"run {run.id}: its student is as it was, so there is no change to swap; choose a run that was trained"
        )
    as_trained = bench.measure()
    edits = {name: {edit: bench.edited(unit, edit) for edit in EDITS} for name, unit in units.items()}
    scorer = context.task.scorers[0]
    result = {
        "key": key,
        "by": by,
        "examples": len(tested),
        "scorer": scorer,
        "unit": SCORERS[scorer].unit,
        "units": [
            {
                "name": name,
                "layer": unit[0].module.layer,
                "role": unit[0].module.role if by == "module" else None,
                "sensitivity": _sum([sums.get(change.module.name) for change in unit]),
                "norm": sum(bench.norms[change.module.name] ** 2 for change in unit) ** 0.5,
            }
            for name, unit in units.items()
        ],
    }
    _add_effects(result, as_trained, edits)
    write_json(run.file(file_of(by)), result)
    return result


def _refuse_large_whole(context: Context, run: RunFolder) -> None:
    trained = trained_parameters(context.student.anatomy, context.spec)
    if METHODS[context.spec.method].whole and trained > MOST_WHOLE:
        raise RunError(
            f"run {run.id}: trained {count(trained)} weights themselves, and random twins of full rank of more than "
            f"{count(MOST_WHOLE)} would take hours; choose a run that trained an adapter, or a smaller student"
        )


def _units(changes: "Sequence[Change]", by: By) -> "dict[str, list[Change]]":
    """Group changes by layer, in order, what lies outside the layers under its module's name; or module by module."""
    units: dict[str, list[Change]] = {}
    for change in changes:
        module = change.module
        name = f"layer {module.layer}" if by == "layer" and module.layer is not None else module.name
        units.setdefault(name, []).append(change)
    return units


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


class _Bench:
    """The trained student in memory: its weights are edited in place, and put back from the untouched ones."""

    def __init__(
        self, context: Context, changes: "Sequence[Change]", examples: "Sequence[Example]", edits: int
    ) -> None:
        from paraknow_core.models.load import parameters_of
        from paraknow_core.ops.low_rank import product_norm

        self.context, self.changes, self.examples = context, changes, examples
        self.model: PreTrainedModel = context.student.load()
        self.parameters = parameters_of(self.model, context.student.anatomy)
        names = {change.module.parameter for change in changes}
        self.untouched: dict[str, Tensor] = {name: self.parameters[name].detach().clone() for name in names}
        self.norms = {change.module.name: product_norm(*change.total) for change in changes}
        self.done, self.total = 0, 1 + edits
        for change in changes:
            self._add(change, change.total)

    def edited(self, unit: "Sequence[Change]", edit: str) -> dict[str, list[float]]:
        """Measure with one unit's change replaced by its twin, or left out; then put the change back."""
        from paraknow_core.ops.chance import generator_of
        from paraknow_core.ops.low_rank import random_twin

        edited = {change.module.name for change in unit}
        sharing = {change.module.parameter for change in unit}
        beside = [c for c in self.changes if c.module.parameter in sharing and c.module.name not in edited]
        self._restore(sharing)
        for change in beside:  # a fused weight holds modules that are not edited
            self._add(change, change.total)
        if edit == "twin":
            for change in unit:
                self._add(change, random_twin(*change.total, generator_of(self.context.spec.seed, change.module.name)))
        measured = self.measure()
        self._restore(sharing)
        for change in [*beside, *unit]:
            self._add(change, change.total)
        return measured

    def measure(self) -> dict[str, list[float]]:
        """Return nats per token and the main scorer's score of every example, in order."""
        from paraknow_core.tasks.model_scores import evaluate_all

        context, main = self.context, self.context.task.scorers[0]
        context.report.check_stop()
        context.report.progress(self.done, self.total, "edits")
        scorers = tuple(dict.fromkeys((NATS, *(() if SCORERS[main].judged else (main,)))))
        records = evaluate_all(self.model, context.student.tokenizer, context.task, self.examples, scorers)
        self.done += 1
        by_id = {scorer: {record.id: record.score for record in records[scorer]} for scorer in scorers}
        ids = [example.id for example in self.examples if example.id in by_id[NATS]]
        sides = {"nats": NATS} | ({"score": main} if main in scorers and main != NATS else {})
        return {side: [by_id[scorer][name] for name in ids] for side, scorer in sides.items()}

    def _add(self, change: "Change", factors: "tuple[Tensor, Tensor]") -> None:
        from paraknow_core.models.modules import add_product_

        b, a = factors
        if change.module.role == "embed":
            b, a = a.T, b.T
        add_product_(self.parameters[change.module.parameter], change.module, b, a)

    def _restore(self, names: set[str]) -> None:
        for name in names:
            self.parameters[name].data.copy_(self.untouched[name])


def _add_effects(result: dict[str, Any], as_trained: dict[str, list[float]], edits: dict[str, Any]) -> None:
    """Add to each unit what its edits cost, and to the whole how that goes with sensitivity."""
    import numpy as np

    from paraknow_core.ops.effects import mean_effects, rank_agreement

    result["agreement"] = {}
    for side, before in as_trained.items():
        # More nats are worse, a higher score is better: positive is what the edit costs.
        sign = 1.0 if side == "nats" or result["unit"] != "share" else -1.0
        tables = {
            edit: sign * (np.array([edits[unit["name"]][edit][side] for unit in result["units"]]) - np.array(before))
            for edit in EDITS
        }
        for edit, table in tables.items():
            for unit, (mean, low, high) in zip(result["units"], mean_effects(table), strict=True):
                unit.setdefault(edit, {})[side] = {"mean": mean, "low": low, "high": high}
        inside = result["by"] == "module"  # what lies outside the layers is no layer, but it is a module
        known = [
            place
            for place, unit in enumerate(result["units"])
            if unit["sensitivity"] is not None and (inside or unit["layer"] is not None)
        ]
        if known:
            agreement = rank_agreement([result["units"][k]["sensitivity"] for k in known], tables["twin"][known])
            result["agreement"][side] = vars(agreement)
