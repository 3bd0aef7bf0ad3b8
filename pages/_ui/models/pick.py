"""Choosing teacher and student: bundled, from the hub, a folder, or what the hub's cache holds already."""

import streamlit as st

from pages._ui.frame import asking, state
from pages._ui.frame.fields import mirror, origin_switch
from paraknow_core.display import memory, shorten
from paraknow_core.errors import ParaknowError
from paraknow_core.files.naming import named
from paraknow_core.workbench.desk import requests
from paraknow_core.workbench.offers import bundled_models, hub_cache_stamp

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
    source = state.value_of(f"{who}.source")
    # Until something is chosen there, the switch alone changes nothing in the draft.
    origin = origin_switch(f"models.from.{who}", source, origin_of(source), ORIGINS, "models", ORIGINS_HELP)
    {"bundled": _bundled, "hub": _hub, "folder": _folder, "cache": _cache}[origin](who, source)


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


def _bundled(who: str, source: str) -> None:
    labels = bundled_models()
    mirror(
        st.selectbox,
        "Bundled model",
        f"models.bundled.{who}",
        source if source in labels else None,
        lambda name: choose(who, name or ""),
        options=list(labels),
        format_func=lambda name: labels.get(name, name),
        placeholder="Choose a bundled model",
        help="kin descends from the teacher, stranger was trained apart.",
    )


def _hub(who: str, source: str) -> None:
    keys = f"models.hub.{who}", f"models.revision.{who}"

    def store(_: str) -> None:
        choose(who, *(st.session_state[key] for key in keys))

    left, right = st.columns([2, 1])
    shown = {"max_chars": 200, "placeholder": "owner/name"}
    tip = "config.json, the tokenizer and the headers of the weights are read; no weights until a run needs them."
    own = source if origin_of(source) == "hub" else ""
    mirror(left.text_input, "Hub id", keys[0], own, store, help=tip, **shown)
    shown["placeholder"] = "main"
    tip = "Branch, tag or commit; a run records the commit."
    mirror(right.text_input, "Revision", keys[1], state.value_of(f"{who}.revision") or "", store, help=tip, **shown)


def _folder(who: str, source: str) -> None:
    mirror(
        st.text_input,
        "Folder",
        f"models.folder.{who}",
        source if origin_of(source) == "folder" else "",
        lambda path: choose(who, path),
        placeholder="/path/to/a/model",
        help="Holds config.json, *.safetensors and the tokenizer's files.",
    )


def _cache(who: str, source: str) -> None:
    reply = asking.answered(requests.HubCache(stamp=hub_cache_stamp()), "Looking through the hub's cache …")
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
    current = (source, state.value_of(f"{who}.revision"))
    mirror(
        st.selectbox,
        "Downloaded model",
        f"models.cache.{who}",
        current if current in options else None,
        lambda pair: choose(who, *(pair or ("", None))),
        options=list(options),
        format_func=lambda pair: options.get(pair, str(pair)),
        placeholder="Choose a downloaded model",
        help="The commit is written into the spec, so that the same weights are used everywhere.",
    )


def _cache_label(model: dict, revision: dict) -> str:
    refs = f" ({', '.join(revision['refs'])})" if revision["refs"] else ""
    weights = memory(model["bytes"]) if model["weights"] else "without weights"
    return f"{shorten(model['name'], 48)} · {revision['commit'][:8]}{refs} · {weights}"
