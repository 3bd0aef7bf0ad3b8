"""One choice of Mapping & extraction: a spec, the saved sensitivity it is seen with, and what it would transfer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from pages._ui.frame import state
from pages._ui.frame.asking import answered
from paraknow_core.display import counted, source_label
from paraknow_core.errors import ParaknowError
from paraknow_core.files.disk import file_stamp
from paraknow_core.sensitivity.store import TOTALS, SensitivityStore
from paraknow_core.spec import RunSpec
from paraknow_core.workbench.desk import requests

PLOT = {
    "displaylogo": False,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
    "toImageButtonOptions": {"format": "svg"},
}


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
    """

    spec: RunSpec
    plan: dict[str, Any]
    plan_id: str
    store: SensitivityStore | None
    exact: bool
    problem: str = ""

    @property
    def pairs(self) -> list[dict[str, Any]]:
        """Pairings of the origin that transfer something."""
        return [pair for pair in self.plan["pairs"] if pair["action"] != "skip"]

    @property
    def structure(self) -> str:
        """How blocks are picked."""
        return self.spec.structure

    @property
    def mode(self) -> str:
        """What the factors approximate: the block, or its difference to the student's weight."""
        return "difference" if self.spec.injection.mode == "difference" else "block"

    @property
    def rank(self) -> int:
        return self.spec.factorisation.rank

    @property
    def scaling(self) -> float:
        return self.spec.factorisation.lora_alpha / self.rank

    def blocks(self) -> dict[str, Any]:
        """Return what every question about blocks holds."""
        return {"spec": self.spec, "store": self.store.folder.name, "structure": self.structure}

    def energy(self) -> dict[str, Any]:
        """Return what a question about the singular values of blocks holds."""
        return {**self.blocks(), "mode": self.mode, "rank": self.spectrum_rank()}

    def spectrum_rank(self) -> int:
        """Return how many singular values to ask for: a power of two, so that few ranks are new questions."""
        return max(64, 1 << (self.rank - 1).bit_length())

    def about(self) -> str:
        """Return the line under a chart's title: pair, task, n."""
        teacher, student = (source_label(m.source, 20) for m in (self.spec.teacher, self.spec.student))
        if self.store is None:
            return f"{teacher} → {student}"
        totals = totals_of(str(self.store.folder))
        task = state.task_label(str(totals["task"]), 24).replace("_", " ")
        return f"{teacher} → {student}, {task}, n = {counted(totals['samples'], 'seed sample')}"

    def adapter_parameters(self) -> int:
        """Return how many parameters the adapter has: r (in + out) a module; fused weights hold r for each part."""
        return sum(self.rank * host["modules"] * host["sides"] for host in self.plan["hosts"])


def choice_of(spec: RunSpec) -> Choice | None:
    """Return a spec's choice; while the desk works it out a line is drawn and None returned."""
    source = answered(requests.TransferSource(spec=spec), "Reading the teacher and the seed samples …")
    if source is None:
        return None
    names, exact = saved_for(source.value["fingerprint"], source.value["key"])
    structure = spec.extraction.structure if len(names) > 1 else ""
    reply = answered(requests.TransferPlan(spec=spec, stores=names, structure=structure), "Reading both models …")
    if reply is None:
        return None
    store = SensitivityStore(state.place().sensitivity / reply.value["store"]) if reply.value["store"] else None
    return Choice(spec, reply.value, reply.folder.name, store, exact, source.value["problem"])


def saved_for(fingerprint: str, key: str | None) -> tuple[list[str], bool]:
    """Return names of saved sensitivities to look at, and whether they are of the very seed samples.

    Args:
        fingerprint: of the teacher's weights.
        key: of the draft's sensitivity; without it, or where it was not measured, the teacher's newest one is taken.
    """
    exact, others = [], []
    root = state.place().sensitivity
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        if folder.name.startswith(".") or not (folder / TOTALS).exists():
            continue
        totals = totals_of(str(folder))
        if totals["fingerprint"] != fingerprint:
            continue
        if key and folder.name.split("-")[0] == key:
            exact.append((not totals["full"], folder.name))
        else:
            others.append((-totals["saved"], folder.name))
    if exact:
        return [name for _, name in sorted(exact)], True
    return [name for _, name in sorted(others)[:1]], False


def totals_of(folder: str) -> dict[str, Any]:
    """Return what is said about a saved sensitivity, which never changes: its key names its content."""
    return _totals(folder, file_stamp(Path(folder) / TOTALS))


@st.cache_data(max_entries=200, show_spinner=False)
def _totals(folder: str, stamp: tuple[int, int]) -> dict[str, Any]:
    del stamp  # only part of the key: what was damaged or is measured anew is read again
    store = SensitivityStore(Path(folder))
    try:
        totals = store.totals
    except ParaknowError:
        return {"fingerprint": None, "full": False, "saved": 0, "samples": 0, "task": "", "sums": {}, "teacher": ""}
    return {
        "fingerprint": totals.get("fingerprint"),
        "full": store.has_full,
        "samples": totals.get("samples", 0),
        "saved": (store.folder / TOTALS).stat().st_mtime,
        "task": totals.get("task", ""),
        "teacher": totals.get("teacher", ""),
        "sums": {name: m["sum"] for name, m in totals["modules"].items()},
    }


def side_by_side(one: RunSpec, other: RunSpec) -> list[tuple[str, str, str]]:
    """Return (key, value, other value) of every setting in which two specs differ, names apart."""
    found = []
    ours, theirs = one.model_dump(mode="json"), other.model_dump(mode="json")
    for key in state.differing(ours, theirs):
        if key != "name":
            found.append((key, _shown(_at(ours, key)), _shown(_at(theirs, key))))
    return found


def _at(data: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        data = data[key] if isinstance(data, dict) else None
    return data


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join("–" if v is None else str(v) for v in value) or "–"
    return "–" if value is None else str(value)
