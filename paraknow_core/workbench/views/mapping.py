"""One choice of what to transfer: a spec, its plan, the saved sensitivity it is seen with, and its numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from paraknow_core.catalogue import STRATEGIES
from paraknow_core.display import NOT_MEASURED, count, counted, memory, percent, significant, source_label
from paraknow_core.errors import DataError, ParaknowError
from paraknow_core.files.remember import while_unchanged
from paraknow_core.paths import Workspace
from paraknow_core.sensitivity.store import TOTALS, SensitivityStore
from paraknow_core.spec import RunSpec
from paraknow_core.workbench.desk.questions import answer_in
from paraknow_core.workbench.draft import differing
from paraknow_core.workbench.reading import totals_file
from paraknow_core.workbench.uploads import task_label

if TYPE_CHECKING:
    import pandas

BYTES = 4  # a parameter of an adapter, float32
NOTHING = {"fingerprint": None, "full": False, "saved": 0, "samples": 0, "task": "", "sums": {}, "teacher": ""}
Layers = Sequence[int | None]  # for each student layer the teacher layer, or None


@dataclass(frozen=True)
class Choice:
    """A spec with its plan.

    Attributes:
        spec: the draft's or the held one.
        plan: answer of the desk's `transfer_plan`.
        plan_id: changes whenever the plan, or a file of the two models, does.
        store: the saved sensitivity, or None.
        exact: whether it is of this very teacher, task and seed samples.
        problem: why the seed samples could not be read, or empty.
        similarity: of a mapping by hidden states, how alike the layers are, where that is kept; see `saved_similarity`.
        unlike: why the layers of the two models cannot be compared, or empty.
    """

    spec: RunSpec
    plan: dict[str, Any]
    plan_id: str
    store: SensitivityStore | None
    exact: bool
    problem: str = ""
    similarity: dict[str, Any] | None = None
    unlike: str = ""

    @property
    def pairs(self) -> list[dict[str, Any]]:
        """Pairings of the origin that transfer something."""
        return [pair for pair in self.plan["pairs"] if pair["action"] != "skip"]

    @property
    def by_layer(self) -> list[list[dict[str, Any]]]:
        """These pairings layer by layer, the embeddings first."""
        layers: dict[int | None, list[dict[str, Any]]] = {}
        for pair in self.pairs:
            layers.setdefault(pair["layer"], []).append(pair)
        return list(layers.values())

    @property
    def can_be_shown(self) -> bool:
        """Whether there are blocks to look at: the teacher was measured, and layers are mapped."""
        return self.store is not None and self.plan["layers"] is not None and bool(self.pairs)

    @property
    def mode(self) -> str:
        """What the factors approximate: the block, or its difference to the student's weight."""
        return "difference" if self.spec.injection.mode == "difference" else "block"

    @property
    def rank(self) -> int:
        """Rank of the adapter."""
        return self.spec.factorisation.rank

    def blocks(self) -> dict[str, Any]:
        """Return the fields of every question about blocks."""
        return {"spec": self.spec, "store": self.store.folder.name, "structure": self.spec.structure}

    def energy(self) -> dict[str, Any]:
        """Return the fields of a question about the singular values of blocks."""
        most = max(64, 1 << (self.rank - 1).bit_length())  # a power of two, so that few ranks are new questions
        return {**self.blocks(), "mode": self.mode, "rank": most}

    def rank_problem(self) -> str:
        """Return why nothing can be injected with this rank, or nothing."""
        most = self.plan["most_rank"]
        if not most or self.rank <= most:
            return ""
        return f"rank {self.rank:,} does not fit {self.plan['tightest']}; choose 1 to {most:,}, or another origin"

    def about(self) -> str:
        """Return the line under a chart's title: pair, task, n."""
        teacher, student = (source_label(model.source, 20) for model in (self.spec.teacher, self.spec.student))
        if self.store is None:
            return f"{teacher} → {student}"
        totals = totals_of(self.store)
        task = task_label(str(totals["task"]), 24).replace("_", " ")
        return f"{teacher} → {student}, {task}, n = {counted(totals['samples'], 'seed sample')}"

    def adapter_parameters(self) -> int:
        """Return how many parameters the adapter has: r (in + out) a module; fused weights hold r for each part."""
        return sum(self.rank * host["modules"] * host["sides"] for host in self.plan["hosts"])


# Saved sensitivities -------------------------------------------------------------------------------------------------


def saved_for(place: Workspace, fingerprint: str, key: str | None) -> tuple[list[str], bool]:
    """Return the names of the saved sensitivities to look at, and whether they are of the draft's own seed samples.

    Args:
        place: the workspace.
        fingerprint: of the teacher's weights.
        key: of the draft's sensitivity; without it, or where it was not measured, the teacher's newest one is taken.
    """
    exact, others = [], []
    root = place.sensitivity
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        if folder.name.startswith(".") or not (folder / TOTALS).exists():
            continue
        totals = totals_of(SensitivityStore(folder))
        if totals["fingerprint"] != fingerprint:
            continue
        if key and folder.name.split("-")[0] == key:
            exact.append((not totals["full"], folder.name))
        else:
            others.append((-totals["saved"], folder.name))
    return [name for _, name in sorted(exact) or sorted(others)[:1]], bool(exact)


@while_unchanged(totals_file, most=200)
def totals_of(store: SensitivityStore) -> dict[str, Any]:
    """Return what is said about a saved sensitivity; `NOTHING` where it cannot be read."""
    try:
        totals = store.totals
    except ParaknowError:
        return NOTHING
    return {
        "fingerprint": totals.get("fingerprint"),
        "full": store.has_full,
        "samples": totals.get("samples", 0),
        "saved": (store.folder / TOTALS).stat().st_mtime,
        "task": totals.get("task", ""),
        "teacher": totals.get("teacher", ""),
        "sums": {name: module["sum"] for name, module in totals["modules"].items()},
    }


def most_sensitive_pair(choice: Choice) -> dict[str, Any]:
    """Return the pairing whose teacher module has the largest S."""
    sums = totals_of(choice.store)["sums"] if choice.store else {}
    return max(choice.pairs, key=lambda pair: sums.get(pair["teacher_module"], 0.0))


# The layer mapping ---------------------------------------------------------------------------------------------------


def fitted(choice: Choice) -> list[int | None]:
    """Return the spec's mapping cut or filled to the student's layers, without what the teacher does not have.

    Where it has none, the layers in order.
    """
    teacher_layers, student_layers = choice.plan["teacher_layers"], choice.plan["student_layers"]
    layers = choice.spec.mapping.layers or range(student_layers)
    kept = [None if layer is None or layer >= teacher_layers else layer for layer in layers]
    return (kept + [None] * student_layers)[:student_layers]


def reads_states(spec: RunSpec) -> bool:
    """Tell whether the layer mapping compares hidden states."""
    return "activations" in STRATEGIES[spec.mapping.strategy].needs


def similarity_words(choice: Choice) -> str:
    """Say what the similarity of layers is, and of what: the line under its picture's title."""
    kept = choice.similarity or {}
    measure = {"cka": "linear CKA, 1: alike", "stitch": "held-out R² of a ridge map from the teacher's, 1: all of it"}
    tokens, samples = counted(kept["tokens"], "token"), counted(kept["samples"], "seed sample")
    return f"{measure[choice.spec.mapping.strategy]}; n = {tokens} of {samples}; framed: the mapping"


def notes(layers: Layers, teacher_layers: int) -> list[str]:
    """Return sentences about what is allowed in a mapping but worth knowing: duplicates, gaps, order.

    Args:
        layers: for each student layer the teacher layer, or None.
        teacher_layers: how many the teacher has.
    """
    sources = [layer for layer in layers if layer is not None]
    sentences = []
    twice = sorted({layer for layer in sources if sources.count(layer) > 1})
    if twice:
        sentences.append(
            f"Teacher layer{'s' if len(twice) > 1 else ''} {', '.join(map(str, twice))} given more than once: allowed, "
            "but those student layers start alike."
        )
    empty = [i for i, layer in enumerate(layers) if layer is None]
    if empty:
        named = ", ".join(map(str, empty[:12])) + (" …" if len(empty) > 12 else "")
        plural = "s" if len(empty) > 1 else ""
        sentences.append(f"Student layer{plural} {named}: nothing received, starts as default LoRA.")
    if any(a > b for a, b in zip(sources[:-1], sources[1:], strict=True)):
        sentences.append("Not in the teacher's order: a later student layer receives an earlier teacher layer.")
    unused = teacher_layers - len(set(sources))
    if unused:
        sentences.append(f"{unused} of {teacher_layers} teacher layers give nothing.")
    return sentences


def after_click(
    clicked: tuple[str, int] | None, picked: tuple[str, int] | None, layers: Layers
) -> tuple[tuple[str, int] | None, list[int | None] | None]:
    """Take a click: the first chooses one end of a link, the second, on the other side, sets it.

    Args:
        clicked: ("teacher" or "student", layer), or None where a choice was clicked once more.
        picked: what was chosen before.
        layers: the mapping as it is.

    Returns:
        What is chosen now, and the new mapping if there is one.
    """
    if clicked is None or picked is None or picked[0] == clicked[0]:
        return clicked, None
    ends = dict([clicked, picked])
    if not 0 <= ends["student"] < len(layers):
        return None, None
    linked = list(layers)
    linked[ends["student"]] = ends["teacher"]
    return None, linked


def after_edit(edited: Mapping[Any, Mapping[str, Any]], column: str, layers: Layers) -> list[int | None]:
    """Return the mapping with a table's edits (row number -> column -> value) of one column in it."""
    mapping = list(layers)
    for row, cells in edited.items():
        if column in cells and 0 <= int(row) < len(mapping):
            mapping[int(row)] = None if cells[column] is None else int(cells[column])
    return mapping


def layers_table(layers: Layers, scores: Sequence[float] | None, column: str) -> "pandas.DataFrame":
    """Return one row a student layer: the teacher layer that it receives, that one's S and share of S.

    Args:
        layers: the mapping.
        scores: S of each teacher layer, where it was measured.
        column: the name of the teacher layer's column.
    """
    import pandas

    table = pandas.DataFrame({"student layer": range(len(layers)), column: pandas.array(layers, dtype="Int64")})
    if scores:
        total = sum(scores)
        table["S"] = [None if i is None else scores[i] for i in layers]
        table["share"] = ["" if i is None else percent(scores[i] / total if total else 0.0) for i in layers]
    return table


def setting_differences(first: RunSpec, second: RunSpec) -> list[tuple[str, str, str]]:
    """Return (key, first value, second value) of every setting in which two specs differ, names apart."""
    dumps = [spec.model_dump(mode="json") for spec in (first, second)]
    keys = [key for key in differing(first, second) if key != "name"]
    return [(key, *(_shown(data, key) for data in dumps)) for key in keys]


def _shown(data: Any, dotted: str) -> str:
    for key in dotted.split("."):
        data = data[key] if isinstance(data, dict) else None
    if isinstance(data, list):
        return ", ".join("–" if value is None else str(value) for value in data) or "–"
    return "–" if data is None else str(data)


# What would be injected ----------------------------------------------------------------------------------------------


@lru_cache(maxsize=600)
def _layer(folder: Path) -> list[tuple[dict[str, Any], numpy.ndarray | None]]:
    """Read one layer's answer: numbers of each module, and its retained energy at rank 1, 2, ..."""
    reply = answer_in(folder)
    if reply is None:  # being written anew; what is raised is not remembered
        raise DataError("desk: the answer about a layer was removed just now; reload the page to ask again")
    return [(row, None if row["problem"] else reply.array(row["student_module"])) for row in reply.value["rows"]]


def layer_rows(choice: Choice, folder: Path) -> list[dict[str, Any]]:
    """Return one row a module of the desk's answer about one layer: where it is taken, what it holds, what it does.

    Keys of a row: student_module, teacher_module, problem; where there is none also top_left, kind, and as fractions
    of 1 captured, area, cosine, retained, at_most (None where not known), positions, and change: ‖s·BA‖ / ‖W‖.
    """
    rows = []
    for answer, retained in _layer(folder):
        row = {key: answer[key] for key in ("student_module", "teacher_module", "problem")}
        if not answer["problem"]:
            kept = float(retained[choice.rank - 1]) if choice.rank <= len(retained) else None
            row |= {
                "top_left": answer["top_left"],
                "kind": answer["kind"],
                "captured": answer["captured_mass"],
                "area": answer["area_fraction"],
                "cosine": answer["cosine"],
                "retained": kept,
                "at_most": answer["offsets"] and answer["offsets"]["at_most"],
                "positions": answer["positions"],
                "change": _change(choice, answer, kept),
            }
        rows.append(row)
    return rows


def _change(choice: Choice, answer: dict[str, Any], kept: float | None) -> float | None:
    """Return ‖s·BA‖ / ‖W‖ of a module; in difference mode s·BA itself approximates the target."""
    if kept is None or not answer["own_squared"]:
        return None
    factors = choice.spec.factorisation
    scale = 1.0 if choice.mode == "difference" else factors.lora_alpha / factors.rank
    return scale * (kept * answer["total_squared"] / answer["own_squared"]) ** 0.5


def modules_table(rows: list[dict[str, Any]]) -> "pandas.DataFrame":
    """Return rows of `layer_rows` as a table that is shown and downloaded: shares as percent."""
    import pandas

    def place(row: dict[str, Any]) -> str:
        if row["problem"]:
            return row["problem"]
        return "{}, {}".format(*row["top_left"]) if row.get("top_left") else row["kind"]

    def percent_of(row: dict[str, Any], key: str) -> float | None:
        return None if row.get(key) is None else 100 * row[key]

    return pandas.DataFrame(
        {
            "student module": row["student_module"],
            "teacher module": row["teacher_module"],
            "taken at": place(row),
            "captured": percent_of(row, "captured"),
            "area": percent_of(row, "area"),
            "ratio": row["captured"] / row["area"] if row.get("captured") is not None else None,
            "percentile": percent_of(row, "at_most"),
            "cosine": row.get("cosine"),
            "retained": percent_of(row, "retained"),
            "change": percent_of(row, "change"),
        }
        for row in rows
    )


def measures(choice: Choice, rows: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Return (name, value, what it means) of what the whole adapter is, and what it holds.

    Args:
        choice: what would be injected.
        rows: of `layer_rows`, as far as they are known.
    """
    size, whole = choice.adapter_parameters(), choice.plan["student_parameters"]
    ratios = [row["captured"] / row["area"] for row in rows if row.get("captured") is not None]
    energies = [row["retained"] for row in rows if row.get("retained") is not None]
    so_far = "" if len(rows) >= len(choice.pairs) else f", {len(rows)} of {len(choice.pairs)} so far"
    bytes_ = size * BYTES
    in_bytes = memory(bytes_) if bytes_ >= 1e6 else f"{bytes_ / 1e3:.0f} kB"  # MB would round it away
    return [
        ("Modules that receive", f"{len(choice.pairs):,}", f"of {choice.plan['student_modules']:,} in the student"),
        ("Adapter", f"{count(size)}, {in_bytes}", "parameters Σ r · (in + out), in float32"),
        ("Trainable share", percent(size / whole), f"of the student's {count(whole)}"),
        (
            "Mass over area",
            f"{significant(sum(ratios) / len(ratios))} ×" if ratios else NOT_MEASURED,
            f"captured S / area, mean{so_far}; 1: as chance",
        ),
        (
            "Retained energy",
            percent(sum(energies) / len(energies)) if energies else NOT_MEASURED,
            f"Σ of {choice.rank} largest σ² / ‖block‖², mean{so_far}",
        ),
        _step0(choice, rows),
    ]


def _step0(choice: Choice, rows: list[dict[str, Any]]) -> tuple[str, str, str]:
    """Predict what injecting does to the student before any training: name, value, what it means."""
    if choice.spec.injection.mode == "residual":
        return "Step 0", "unchanged", "s·B₀A₀ is taken off W first: exact up to rounding"
    changes = sorted(row["change"] for row in rows if row.get("change") is not None)
    if not changes:
        return "Step 0", NOT_MEASURED, "‖s·BA‖ / ‖W‖"
    middle = changes[len(changes) // 2]
    return "Step 0", f"changed, {percent(middle)}", f"median ‖s·BA‖ / ‖W‖; largest {percent(changes[-1])}"


def standing(choice: Choice, facts: dict[str, Any]) -> str:
    """Say in a few words where a block stands among all offsets.

    Args:
        choice: that the block is of.
        facts: the desk's answer about the block.
    """
    offsets, places = facts["offsets"], f"{facts['positions']:,} offsets"
    median = f"their median holds {percent(offsets['median'])}"
    if choice.spec.structure == "submatrix":
        return f"best of {places} by choice; {median}"
    if offsets["at_most"] == 1:
        return f"more than any of {places}; {median}"
    return f"more than {percent(offsets['at_most'])} of {places}; {median}"


def kept_energy(values: numpy.ndarray, rank: int, total: float) -> float:
    """Return the share of a block's squared norm that its first singular values hold.

    Args:
        values: singular values, largest first.
        rank: how many of them.
        total: the squared norm.
    """
    return min(1.0, float((values[:rank].astype(float) ** 2).sum()) / total) if total else 1.0
