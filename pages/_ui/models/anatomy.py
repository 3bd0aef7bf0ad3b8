"""Two models side by side, before any weight is loaded: numbers, a picture, tokenizers, and what fits where."""

from html import escape
from typing import Any

import streamlit as st

from pages._ui.frame import asking, layout, state
from pages._ui.frame.layout import download, plain
from paraknow_core.catalogue import MANUAL
from paraknow_core.display import GROUP_COLOURS, count, memory, percent, shorten, source_label
from paraknow_core.figures import models as charts
from paraknow_core.spec import GROUP_OF_ROLE
from paraknow_core.workbench.desk import requests

NO_ZOOM = (*layout.NO_SELECTION, "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d")
ACTIONS = {
    "cut": "a window of the teacher's weight covers the student's",
    "whole": "both have the same shape",
    "place": "the teacher's part covers only some rows or columns",
    "skip": "nothing is transferred",
}


def ask_anatomy(who: str) -> dict[str, Any] | None:
    """Ask what a model is made of; draws a line while it is worked out, or why it cannot be."""
    reply = asking.answered(
        requests.Anatomy(model=getattr(state.draft(), who)), f"Reading the {who}'s config and headers …"
    )
    return reply.value if reply else None


def side_by_side(pair: dict[str, dict[str, Any] | None]) -> None:
    """Draw the numbers of both models as one table and their parameters as bars.

    Args:
        pair: `teacher` and `student`, each an answer of the desk's `anatomy`, or None where there is none.
    """
    if not any(pair.values()):
        return
    left, right = st.container(key="stack-pictures-anatomy").columns([1, 1.05], gap="large")
    left.html(_table(pair))
    with right:
        _parameters({who: anatomy for who, anatomy in pair.items() if anatomy})


def _parameters(anatomies: dict[str, dict[str, Any]]) -> None:
    labels = {f"{who}<br>{escape(source_label(a['label'], 18))}": a["parts"] for who, a in anatomies.items()}
    about = " → ".join(source_label(anatomy["label"], 28) for anatomy in anatomies.values())
    layout.chart(
        charts.parameter_bars(labels, "Where the parameters are", about, dark=layout.is_dark()),
        "parameters",
        "Bars: parameters of teacher and student by role, coloured by group; the table beside it holds the totals",
        without=NO_ZOOM,
    )
    rows = [{"model": who, **part, "shape": _by(part["shape"])} for who, a in anatomies.items() for part in a["parts"]]
    download("Parameters as CSV", rows, "parameters.csv")


def _table(pair: dict[str, dict[str, Any] | None]) -> str:
    teacher, student = pair["teacher"], pair["student"]
    rows = []
    for name, tip, shown in FACTS:
        if name == "Commit" and not any(anatomy and anatomy["revision"] for anatomy in pair.values()):
            continue
        values = [shown(anatomy) if anatomy else "–" for anatomy in (teacher, student)]
        differs = teacher is not None and student is not None and values[0] != values[1]
        mark = '<span class="pk-mark" title="differs">≠</span>' if differs else ""
        rows.append(
            f'<tr class="{"pk-other" if differs else ""}"><td title="{escape(tip, quote=True)}">{escape(name)}</td>'
            f"<td>{escape(values[0])}</td><td>{mark}</td><td>{escape(values[1])}</td></tr>"
        )
    names = {who: f": {escape(source_label(anatomy['label'], 28))}" if anatomy else "" for who, anatomy in pair.items()}
    heads = [f"{who.capitalize()}{name}" for who, name in names.items()]
    return (
        '<div class="pk-scroll"><table class="pk-table" data-testid="anatomy"><tr><th style="width:27%"></th>'
        f'<th style="width:35%">{heads[0]}</th><th style="width:3%"></th><th style="width:35%">{heads[1]}</th></tr>'
        f"{''.join(rows)}</table></div>"
    )


def _key_value_heads(anatomy: dict[str, Any]) -> str:
    shared = anatomy["num_attention_heads"] // anatomy["num_key_value_heads"]
    return f"{anatomy['num_key_value_heads']:,}" + (f", each for {shared} heads" if shared > 1 else "")


def _tokenizer(anatomy: dict[str, Any]) -> str:
    tokenizer = anatomy["tokenizer"]
    if tokenizer is None:
        return "none"
    size = f", {tokenizer['size']:,} tokens" if tokenizer["size"] else ""
    return f"{tokenizer['kind']}{size}, {tokenizer['sha256'][:6]}"


FACTS = (
    ("Architecture", "model_type and class of config.json", lambda a: f"{a['family']} ({a['architecture']})"),
    ("Parameters", "a tied weight is counted once", lambda a: f"{count(a['parameters'])} ({a['parameters']:,})"),
    ("On disk", "safetensors", lambda a: f"{memory(a['bytes'])}, {a['dtype']}"),
    ("Layers", "num_hidden_layers", lambda a: f"{a['num_hidden_layers']:,}"),
    ("Hidden", "hidden_size", lambda a: f"{a['hidden_size']:,}"),
    ("Feed-forward", "intermediate_size", lambda a: f"{a['intermediate_size']:,}"),
    ("Heads", "num_attention_heads, each of head_dim", lambda a: f"{a['num_attention_heads']:,} of {a['head_dim']:,}"),
    ("Key-value heads", "num_key_value_heads; fewer than heads: grouped-query attention", _key_value_heads),
    ("Vocabulary", "rows of the embedding", lambda a: f"{a['vocab_size']:,}"),
    ("Embedding and head", "tied: one weight serves both", lambda a: "one weight (tied)" if a["tied"] else "separate"),
    ("Context", "max_position_embeddings", lambda a: f"{a['max_position_embeddings']:,} tokens"),
    ("Inside", "activation, norm, positions", lambda a: f"{a['activation']}, {a['norm']}, {a['positions']}"),
    ("Tokenizer", "kind, tokens, start of the hash of its files", _tokenizer),
    ("Commit", "of a hub model", lambda a: (a["revision"] or "–")[:12]),
)


def compatibility() -> None:
    """Draw what of the teacher fits onto the student: one line a role, every module a click away."""
    draft = state.draft()
    mapping = list(draft.mapping.layers) if draft.mapping.strategy == MANUAL else None
    question = requests.Compat(
        teacher=draft.teacher, student=draft.student, roles=draft.extraction.roles, mapping=mapping
    )
    reply = asking.answered(question, "Comparing the two models …")
    if reply is None:
        return
    report = reply.value
    for reason in report["blocking"]:
        layout.say(f"not possible: {reason}")
    counts = report["counts"]
    words = ", ".join(f"**{counts[action]:,}** {action}" for action in ACTIONS if counts[action])
    st.markdown(
        f"Of {len(report['pairings']):,} student modules: {words}. "
        f"**{count(report['parameters_moved'])}** parameters of the student receive something.",
        help="; ".join(f"{action}: {text}" for action, text in ACTIONS.items()),
    )
    st.html(_roles(report["pairings"]))
    _overlap(report["overlap"], report["tokenizer_problem"])
    for note in report["notes"]:
        if note.startswith("tokenizers differ: teacher has") and report["overlap"]:
            continue  # said above
        st.caption(f":material/info: {plain(note[:1].upper() + note[1:])}.")
    _every_module(report["pairings"])


def _roles(pairings: list[dict[str, Any]]) -> str:
    """Return one row for all modules of a role that are treated alike."""
    alike: dict[tuple, int] = {}
    for pairing in pairings:
        reason = pairing["reason"] if "student layer" not in pairing["reason"] else "no teacher layer for these"
        shapes = tuple(_by(pairing[key]) for key in ("teacher_shape", "student_shape", "placed_shape"))
        key = (pairing["role"], *shapes, pairing["action"], reason)
        alike[key] = alike.get(key, 0) + 1
    rows = "".join(
        f'<tr><td class="pk-word"><span class="pk-dot" style="background:{GROUP_COLOURS[GROUP_OF_ROLE[role]]}"></span>'
        f"{role}</td>"
        f'<td class="pk-num">{number:,}</td><td class="pk-num">{teacher}</td><td class="pk-num">{student}</td>'
        f'<td class="pk-num">{placed}</td><td class="pk-word">{action}</td>'
        f'<td style="width:45%">{escape(reason)}</td></tr>'
        for (role, teacher, student, placed, action, reason), number in alike.items()
    )
    return (
        f'<div class="pk-scroll"><table class="pk-table" data-testid="compat"><tr><th>Role</th>'
        '<th class="pk-num">Modules</th><th class="pk-num">Teacher</th><th class="pk-num">Student</th>'
        f'<th class="pk-num">Transferred</th><th class="pk-word">Action</th><th>Why</th></tr>{rows}</table></div>'
    )


def _overlap(overlap: dict[str, Any] | None, problem: str) -> None:
    if overlap is None:
        st.caption(f":material/translate: Tokenizers were not compared: {plain(problem)}")
        return
    if overlap["identical"]:
        st.caption(f":material/translate: Tokenizers: the same {overlap['student']:,} tokens with the same ids.")
        return
    share = percent(overlap["shared"] / max(1, overlap["student"]))
    st.caption(
        f":material/translate: Tokenizers: teacher {overlap['teacher']:,} tokens, student {overlap['student']:,}; "
        f"{overlap['shared']:,} shared ({share} of the student's), {overlap['same_id']:,} with the same id."
    )
    only = [(who, overlap[f"only_{who}"]) for who in ("teacher", "student") if overlap[f"only_{who}"]]
    if only:
        with st.expander("Tokens that only one of the two has", icon=":material/translate:"):
            for who, tokens in only:
                shown = " ".join(f"<code>{escape(shorten(token, 24))}</code>" for token in tokens)
                st.html(f'<span class="pk-quiet">only the {who}, first ids:</span> {shown}')


def _every_module(pairings: list[dict[str, Any]]) -> None:
    rows = [
        {
            "student module": pairing["student_module"],
            "role": pairing["role"],
            "action": pairing["action"],
            "teacher module": pairing["teacher_module"] or "",
            "teacher": _by(pairing["teacher_shape"]),
            "student": _by(pairing["student_shape"]),
            "transferred": _by(pairing["placed_shape"]),
            "why": pairing["reason"],
        }
        for pairing in pairings
    ]
    with st.expander(f"Every module ({len(rows):,})", icon=":material/table:"):
        st.dataframe(rows, hide_index=True, height=min(420, 38 + 35 * len(rows)))
        download("Compatibility as CSV", rows, "compatibility.csv")


def _by(shape: list[int] | None) -> str:
    return " x ".join(f"{size}" for size in shape) if shape else ""
