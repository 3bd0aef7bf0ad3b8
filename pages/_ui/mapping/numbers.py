"""The numbers of a whole adapter: how large it is, what it holds, what it does before training."""

from html import escape
from typing import Any

import streamlit as st

from pages._ui.frame import layout
from pages._ui.mapping.choice import Choice
from paraknow_core.display import NOT_MEASURED, count, memory, percent, significant

BYTES = 4  # a parameter of an adapter, float32
CSS = """<style>
.pk-cells {display: grid; grid-template-columns: repeat(6, 1fr); gap: .6rem;}
@media (max-width: 1150px) {.pk-cells {grid-template-columns: repeat(3, 1fr);}}
.pk-cells div {border: 1px solid rgba(128,136,140,.35); border-radius: .35rem; padding: .45rem .7rem .5rem;}
.pk-cells span {display: block; font-size: .82rem; opacity: .78; line-height: 1.15rem;}
.pk-cells b {display: block; font-size: 1.2rem; font-weight: 600; line-height: 1.7rem;}
</style>"""


def numbers(choices: dict[str, tuple[Choice, list[dict[str, Any]]]]) -> None:
    """Draw what the adapter is and holds: as cells for one choice, as a table for two.

    Args:
        choices: by name, each with the rows of its overview as far as they are known.
    """
    found = {name: measures(choice, rows) for name, (choice, rows) in choices.items()}
    if len(found) == 1:
        [cells] = found.values()
        st.html(
            CSS
            + '<div class="pk-cells" data-testid="measures">'
            + "".join(
                f"<div><span>{escape(label)}</span><b>{escape(value)}</b><span>{escape(note)}</span></div>"
                for label, value, note in cells
            )
            + "</div>"
        )
        return
    rows = []
    for cells in zip(*found.values(), strict=True):
        label, notes = cells[0][0], {note for _, _, note in cells}
        shared = len(notes) == 1  # else each choice says what its own number is
        texts = [value if shared else f"{value} ({note})" for _, value, note in cells]
        rows.append([f"{label}: {notes.pop()}" if shared else label, *texts])
    layout.grid(["", *found], rows, "measures")


def measures(choice: Choice, rows: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Return (name, value, what it means) of what the whole adapter is, and what it holds.

    Args:
        choice: what would be injected.
        rows: of its overview, as far as they are known.
    """
    size, whole = choice.adapter_parameters(), choice.plan["student_parameters"]
    ratios = [row["captured"] / row["area"] for row in rows if row.get("captured") is not None]
    energies = [row["retained"] for row in rows if row.get("retained") is not None]
    so_far = "" if len(rows) >= len(choice.pairs) else f", {len(rows)} of {len(choice.pairs)} so far"
    return [
        ("Modules that receive", f"{len(choice.pairs):,}", f"of {choice.plan['student_modules']:,} in the student"),
        ("Adapter", f"{count(size)}, {bytes_text(size * BYTES)}", "parameters Σ r · (in + out), in float32"),
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
        step0(choice, rows),
    ]


def step0(choice: Choice, rows: list[dict[str, Any]]) -> tuple[str, str, str]:
    """Predict what injecting does to the student before any training: name, value, what it means."""
    if choice.spec.injection.mode == "residual":
        return "Step 0", "unchanged", "s·B₀A₀ is taken off W first: exact up to rounding"
    changes = sorted(row["change"] for row in rows if row.get("change") is not None)
    if not changes:
        return "Step 0", NOT_MEASURED, "‖s·BA‖ / ‖W‖"
    middle = changes[len(changes) // 2]
    return "Step 0", f"changed, {percent(middle)}", f"median ‖s·BA‖ / ‖W‖; largest {percent(changes[-1])}"


def bytes_text(size: float) -> str:
    """Return bytes, as kB where MB would round them away."""
    return memory(size) if size >= 1e6 else f"{size / 1e3:.0f} kB"
