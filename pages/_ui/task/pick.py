"""Choosing a task: bundled, uploaded, a file or folder, or a hub data set; and how its examples are rendered."""

from typing import Any

import streamlit as st

from pages._ui.frame import asking, state
from pages._ui.frame import run_panel as widgets
from pages._ui.frame.layout import plain
from pages._ui.models.pick import cache_stamp
from pages._ui.task import uploads
from paraknow_core.catalogue import MANUAL, SCORERS
from paraknow_core.demo.tasks import TASKS
from paraknow_core.display import shorten
from paraknow_core.errors import ParaknowError
from paraknow_core.spec import TaskSpec
from paraknow_core.workbench.desk import requests

ORIGINS = {"bundled": "Bundled", "upload": "Upload", "path": "File or folder", "hub": "Hub data set"}
FROM = "task.from"
FORMATS = {
    "auto": "by extension and fields",
    "chat_jsonl": "conversations",
    "gsm8k": "questions and answers",
    "mmlu": "multiple choice",
    "text": "plain text",
}
MAPPING = "task.mapping"
COLUMN_KEYS = ("question", "answer", "choices", "input", "context", "system", "messages", "text")
TEMPLATES = {
    "tulu": "<|user|> question, <|assistant|> answer, end mark: as published",
    "chat": "the tokenizer's own chat template",
    "plain": "question and answer, nothing else",
}


def picker() -> bool:
    """Draw the choice of the task; return whether it can be read, False where that was said to be not so (yet)."""
    origin = _origin()
    return {"bundled": _bundled, "upload": _upload, "path": _path, "hub": _hub}[origin]() is not False


def origin_of(source: str) -> str:
    """Return where a task's source is from: a key of ORIGINS."""
    kind = source.partition(":")[0]
    if kind in ("bundled", "hub"):
        return kind
    return "upload" if source.startswith(str(state.place().uploads)) else "path"


def choose(source: str, **others: Any) -> None:
    """Make this the draft's task, everything that belongs to another source forgotten."""
    source = source.strip()
    if not source:
        return
    try:
        for named in (source, others.get("test_source")):
            if named:
                state.access().check_source(named, "task")
    except ParaknowError as error:
        state.tell(error)
        return
    fresh = {"format": "auto", "test_source": None, "subset": None, "revision": None, "columns": {}} | others
    changes = {f"task.{key}": value for key, value in fresh.items()}
    if state.draft().sensitivity.selection == MANUAL:  # those ids are of another task
        changes |= {"sensitivity.selection": "first", "sensitivity.ids": []}
    state.change({"task.source": source, **changes})


def _origin() -> str:
    source = state.value_of("task.source")
    return widgets.origin_switch(FROM, source, origin_of(source), ORIGINS, "tasks")


def _bundled() -> None:
    current, key = state.value_of("task.source"), "task.bundled"
    labels = {f"bundled:{name}": info for name, info in TASKS.items()}
    st.session_state[key] = current if current in labels else None
    st.selectbox(
        "Bundled task",
        list(labels),
        key=key,
        placeholder="Choose a bundled task",
        format_func=lambda name: f"{labels[name].title} (like {labels[name].mirrors})",
        on_change=lambda: choose(st.session_state[key] or ""),
    )
    if current in labels:
        st.caption(plain(labels[current].description))


def _upload() -> None:
    left, right = st.container(key="stack-pictures-upload").columns(2, gap="medium")
    with left:
        uploads.uploader(choose)
    with right:
        known = {str(upload.path): upload.text for upload in uploads.finished(state.place())}
        if not known:
            st.caption("Uploaded files will be listed here. They stay in this workspace.")
            return
        key, current = "task.upload", state.value_of("task.source")
        st.session_state[key] = current if current in known else None
        st.selectbox(
            "Uploaded before",
            list(known),
            key=key,
            format_func=lambda path: known.get(path, path),
            placeholder="Choose an upload",
            on_change=lambda: choose(st.session_state[key] or ""),
        )
        test, now = "task.upload.test", state.value_of("task.test_source")
        st.session_state[test] = now if now in known else None
        st.selectbox(
            "Test split from another upload",
            [path for path in known if path != current],
            key=test,
            format_func=lambda path: known.get(path, path),
            placeholder="none: held out from the same file",
            on_change=lambda: state.change({"task.test_source": st.session_state[test]}),
            disabled=current not in known,
        )
    if current in known:
        found = next(upload for upload in uploads.finished(state.place()) if str(upload.path) == current)
        for said in (uploads.fields_sentence(found.fields), *found.notes):
            if said:
                st.caption(plain(said))
        _fields(current)


def _path() -> None:
    source, test = state.value_of("task.source"), state.value_of("task.test_source")
    keys = "task.path", "task.path.test", "task.path.format"
    own = origin_of(source) == "path"
    values = (source if own else "", test or "", state.value_of("task.format") if own else "auto")
    for key, value in zip(keys, values, strict=True):
        st.session_state[key] = value

    def store() -> None:
        path, other, layout = (st.session_state[key] for key in keys)
        same = path.strip() == state.value_of("task.source")
        columns = state.draft().task.columns if same else {}
        choose(path, test_source=other.strip() or None, format=layout, columns=columns)

    a, b, c = st.container(key="stack-fields-path").columns([2, 2, 1.4])
    a.text_input(
        "File or folder",
        key=keys[0],
        placeholder="/path/to/train.jsonl",
        on_change=store,
        help="A .jsonl, .csv or .txt file, or a folder of files named train, validation, test.",
    )
    b.text_input(
        "Test file",
        key=keys[1],
        placeholder="none: held out from the same file",
        on_change=store,
        help="A second file that holds the test split.",
    )
    formats = list(FORMATS) if values[2] in FORMATS else [*FORMATS, values[2]]
    c.selectbox("Format", formats, key=keys[2], format_func=lambda name: FORMATS.get(name, name), on_change=store)
    if own and source:
        _fields(source)


def _fields(source: str) -> None:
    """Draw, where it is wanted, which field of a file is which part of the prompt, also where that was recognised."""
    shown = bool(state.draft().task.columns)
    tip = "Of a file that was not understood as you mean it, or to leave a field out."
    if state.kept(st.toggle, "Map the fields by hand", MAPPING, shown, help=tip) or shown:
        _columns(source)


def _hub() -> bool:
    source = state.value_of("task.source")
    name = source.removeprefix("hub:") if source.startswith("hub:") else ""
    keys = "task.hub", "task.hub.subset", "task.hub.revision"
    own = [name or None, *((state.value_of(f"task.{key}") or "") if name else "" for key in ("subset", "revision"))]
    for key, value in zip(keys, own, strict=True):
        st.session_state[key] = value

    def store() -> None:
        chosen, subset, revision = ((st.session_state[key] or "").strip() for key in keys)
        if chosen:
            choose(f"hub:{chosen.removeprefix('hub:')}", subset=subset or None, revision=revision or None)

    a, b, c = st.container(key="stack-fields-hub").columns([2, 1, 1])
    cached = asking.answered(requests.HubCache(stamp=cache_stamp()), "Looking through the hub's cache …")
    known = [each["name"] for each in cached.value["datasets"]] if cached else []
    a.selectbox(
        "Data set",
        [*known, *([name] if name and name not in known else [])],
        key=keys[0],
        on_change=store,
        accept_new_options=True,
        placeholder="owner/name",
        help="Type owner/name; those in this machine's cache are listed. Loading scripts are never run.",
    )
    b.text_input("Subset", key=keys[1], placeholder="none", max_chars=200, on_change=store)
    c.text_input("Revision", key=keys[2], placeholder="main", max_chars=200, on_change=store)
    return _columns(f"hub:{name}") if name else True


def _columns(source: str) -> bool:
    """Draw which field is question, answer, choices and so on; where they cannot be known, names can be typed.

    Returns:
        Whether they are known: without them the task cannot be read either.
    """
    task, label = state.draft().task, state.task_label(source, 60)
    question = requests.Columns(task=TaskSpec(source=source, subset=task.subset, revision=task.revision))
    reply = asking.answered(question, f"Reading the fields of {label} …")
    found, likely = (reply.value["columns"], reply.value.get("fields", {})) if reply else ({}, {})
    if reply and not found:
        st.caption("It has no named fields: it is plain text, or a table without a header.")
        return True
    rows = st.container(key="stack-fields-columns")
    boxes = [box for _ in range(0, len(COLUMN_KEYS), 4) for box in rows.columns(4)]
    for box, word in zip(boxes, COLUMN_KEYS, strict=True):
        current, key = task.columns.get(word), f"task.column.{word}"
        names = [*found, *([current] if current and current not in found else [])]
        st.session_state[key] = current or None
        box.selectbox(
            f"Column: {word}",
            names,
            key=key,
            accept_new_options=True,
            placeholder="none" if current == "" or word not in likely else shorten(likely[word], 30),
            format_func=lambda column: uploads.field_text(column, found),
            on_change=_store_column,
            args=(word,),
            help="Without a choice, what the name in grey says. Several fields "
            "for choices, with commas between, can be typed, and a field of a field: choices.text.",
        )
    return reply is not None


def _store_column(word: str) -> None:
    columns = dict(state.draft().task.columns)
    chosen = (st.session_state[f"task.column.{word}"] or "").strip()
    columns.pop(word, None)
    if chosen:
        columns[word] = chosen
    state.change({"task.columns": columns})


def settings() -> None:
    """Draw how examples are rendered, cut, split and scored."""
    a, b, long, c, d, e = st.container(key="stack-fields-task").columns([1.1, 1, 1.1, 0.9, 0.9, 0.9])
    with a:
        state.field(
            st.selectbox,
            "Template",
            "task.template",
            options=list(TEMPLATES),
            help=plain("; ".join(f"{name}: {text}" for name, text in TEMPLATES.items())),
        )
    with b:
        state.field(
            st.number_input,
            "Max length [tokens]",
            "task.max_length",
            min_value=2,
            max_value=1_048_576,
            step=64,
            help="Prompt and answer together; longer examples are cut at the end. The model's "
            "own context counts where it is shorter.",
        )
    with long:
        state.field(
            st.selectbox,
            "Too long",
            "task.too_long",
            options=list(TOO_LONG),
            format_func=TOO_LONG.get,
            help="Examples whose prompt alone fills the limit: a run refuses them before it begins, or does "
            "without them and says how many there were.",
        )
    for box, (split, tip) in zip((c, d, e), SPLITS.items(), strict=True):
        with box:
            optional_number(f"{split.capitalize()} examples", f"task.sizes.{split}", split != "validation", tip)
    with st.expander("Splitting and scoring", icon=":material/tune:"):
        a, b, c = st.columns([1, 2, 1])
        with a:
            state.field(
                st.number_input,
                "Split seed",
                "task.split_seed",
                min_value=0,
                max_value=2**32 - 1,
                step=1,
                help="Shuffles a file that holds only one split before test and validation are held out.",
            )
        with b:
            state.field(
                st.multiselect,
                "Scorers",
                "task.scorers",
                options=list(SCORERS),
                to_draft=list,
                format_func=lambda name: SCORERS[name].label,
                placeholder="the task's own",
            )
        with c:
            optional_number("Max new tokens", "task.max_new_tokens", True, "Of one answer; empty: the task's own.")


TOO_LONG = {"refuse": "refuse", "leave_out": "leave out"}
SPLITS = {
    "train": "At most so many; empty takes all. The paper: 1,000.",
    "validation": "At most so many; empty takes all there are, 0 none.",
    "test": "More examples make narrower intervals: the standard error of a share p is √(p (1 − p) / n).",
}


def optional_number(label: str, dotted: str, positive: bool, tip: str) -> None:
    """Draw a number that may be left out."""
    key = f"field:{dotted}"
    st.session_state[key] = state.value_of(dotted)
    st.number_input(
        label,
        min_value=1 if positive else 0,
        max_value=10_000_000,
        step=None,
        key=key,
        placeholder="all",
        help=tip,
        on_change=lambda: state.change({dotted: st.session_state[key]}),
        value=None,
    )
