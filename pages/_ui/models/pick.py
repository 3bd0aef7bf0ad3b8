"""Choosing teacher and student: bundled, from the hub, a folder, or what the hub's cache holds already."""

import os
from pathlib import Path

import streamlit as st

from pages._ui.frame import asking, state
from pages._ui.frame import run_panel as widgets
from pages._ui.frame.run_panel import MODELS, bundled_models
from paraknow_core.display import memory, shorten
from paraknow_core.errors import ParaknowError
from paraknow_core.files.naming import named
from paraknow_core.workbench.desk import requests

ORIGINS = {"bundled": "Bundled", "hub": "Hub", "folder": "Folder", "cache": "Hub cache"}
ORIGINS_HELP = (
    "Bundled: comes with the project. Hub: owner/name, only its small files and headers are read here. Folder: "
    "config.json and safetensors on this machine. Hub cache: what was downloaded before."
)
SAID = {"teacher": "The larger model that gives.", "student": "The smaller model that receives."}


def picker(who: str) -> None:
    """Draw the choice of the teacher or the student.

    Args:
        who: `teacher` or `student`, a key of the spec.
    """
    st.subheader(who.capitalize(), anchor=False, help=SAID[who])
    origin = _origin(who)
    if origin == "bundled":
        _bundled(who)
    elif origin == "hub":
        _hub(who)
    elif origin == "folder":
        _folder(who)
    else:
        _cache(who)


def origin_of(source: str) -> str:
    """Return where a source is from: `bundled`, `folder` or `hub`."""
    return {"bundled": "bundled", "hub": "hub", "path": "folder"}[named(source).kind]


def choose(who: str, source: str, revision: str | None = None) -> None:
    """Make a model the draft's teacher or student; what is not allowed or empty is told and changes nothing."""
    source, revision = source.strip(), (revision or "").strip() or None
    if not source:
        return
    try:
        state.access().check_source(source, who)
    except ParaknowError as error:
        state.tell(error)
        return
    state.change({f"{who}.source": source, f"{who}.revision": revision})


def _origin(who: str) -> str:
    """Draw where from; until something is chosen there, the switch alone changes nothing in the draft."""
    source = state.value_of(f"{who}.source")
    return widgets.origin_switch(f"models.from.{who}", source, origin_of(source), ORIGINS, "models", ORIGINS_HELP)


def _bundled(who: str) -> None:
    labels = bundled_models() if MODELS.is_dir() else {}
    current, key = state.value_of(f"{who}.source"), f"models.bundled.{who}"
    st.session_state[key] = current if current in labels else None
    st.selectbox(
        "Bundled model",
        list(labels),
        key=key,
        format_func=lambda name: labels.get(name, name),
        placeholder="Choose a bundled model",
        on_change=lambda: choose(who, st.session_state[key] or ""),
        help="kin descends from the teacher, stranger was trained apart.",
    )


def _hub(who: str) -> None:
    source, revision = state.value_of(f"{who}.source"), state.value_of(f"{who}.revision")
    names = f"models.hub.{who}", f"models.revision.{who}"
    st.session_state[names[0]] = source if origin_of(source) == "hub" else ""
    st.session_state[names[1]] = revision or ""

    def store() -> None:
        choose(who, st.session_state[names[0]], st.session_state[names[1]])

    left, right = st.columns([2, 1])
    left.text_input(
        "Hub id",
        key=names[0],
        placeholder="owner/name",
        max_chars=200,
        on_change=store,
        help="config.json, the tokenizer and the headers of the weights are read; no weights until a run needs them.",
    )
    right.text_input(
        "Revision",
        key=names[1],
        placeholder="main",
        max_chars=200,
        on_change=store,
        help="Branch, tag or commit; a run records the commit.",
    )


def _folder(who: str) -> None:
    source, key = state.value_of(f"{who}.source"), f"models.folder.{who}"
    st.session_state[key] = source if origin_of(source) == "folder" else ""
    st.text_input(
        "Folder",
        key=key,
        placeholder="/path/to/a/model",
        on_change=lambda: choose(who, st.session_state[key]),
        help="Holds config.json, *.safetensors and the tokenizer's files.",
    )


def _cache(who: str) -> None:
    reply = asking.answered(requests.HubCache(stamp=cache_stamp()), "Looking through the hub's cache …")
    if reply is None:
        return
    options = {
        (model["name"], revision["commit"]): _cache_label(model, revision)
        for model in reply.value["models"]
        for revision in model["revisions"]
        if model["config"]
    }
    if not options:
        st.caption("Models that were downloaded from the hub will be listed here; the cache holds none yet.")
        return
    key = f"models.cache.{who}"
    current = (state.value_of(f"{who}.source"), state.value_of(f"{who}.revision"))
    st.session_state[key] = current if current in options else None
    st.selectbox(
        "Downloaded model",
        list(options),
        key=key,
        format_func=lambda pair: options.get(pair, str(pair)),
        placeholder="Choose a downloaded model",
        on_change=lambda: choose(who, *(st.session_state[key] or ("", None))),
        help="The commit is written into the spec, so that the same weights are used everywhere.",
    )


def _cache_label(model: dict, revision: dict) -> str:
    refs = f" ({', '.join(revision['refs'])})" if revision["refs"] else ""
    weights = memory(model["bytes"]) if model["weights"] else "without weights"
    return f"{shorten(model['name'], 48)} · {revision['commit'][:8]}{refs} · {weights}"


def cache_stamp() -> int:
    """Return something that changes when the hub's cache of this machine does: the newest time of its folders."""
    home = Path(os.environ.get("HF_HOME") or Path("~/.cache/huggingface").expanduser())
    folder = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    newest = 0
    try:
        for entry in [folder, *folder.glob("*--*--*/snapshots"), *folder.glob("*--*--*/refs")]:
            newest = max(newest, entry.stat().st_mtime_ns)
    except OSError:
        pass
    return newest
