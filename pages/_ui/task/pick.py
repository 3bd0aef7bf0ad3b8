"""Choosing a task: bundled, uploaded, a file or folder, or a hub data set; and how its examples are rendered."""

from collections.abc import Callable, Mapping
from typing import Any

import streamlit as st

from pages._ui.frame import asking, state
from pages._ui.frame.fields import choice, field, kept, mirror, number, origin_switch
from pages._ui.frame.layout import plain
from pages._ui.task.upload import uploader
from paraknow_core.catalogue import MANUAL, SCORERS
from paraknow_core.demo.tasks import TASKS
from paraknow_core.display import shorten
from paraknow_core.errors import ParaknowError
from paraknow_core.spec import TaskSpec
from paraknow_core.workbench.desk import requests
from paraknow_core.workbench.offers import bundled_tasks, hub_cache_stamp
from paraknow_core.workbench.uploads import field_text, fields_sentence, finished, task_label

ORIGINS = {"bundled": "Bundled", "upload": "Upload", "path": "File or folder", "hub": "Hub data set"}
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
    source = state.value_of("task.source")
    origin = origin_switch("task.from", source, origin_of(source), ORIGINS, "tasks")
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


def _choice(
    label: str,
    key: str,
    current: str | None,
    labels: Mapping[str, str],
    store: Callable[[str | None], object],
    **more: Any,
) -> None:
    """Draw a choice in which nothing is chosen where the draft has something else."""
    shown = {"options": list(labels), "format_func": lambda name: labels.get(name, name), **more}
    mirror(st.selectbox, label, key, current if current in labels else None, store, **shown)


def _bundled() -> None:
    current = state.value_of("task.source")
    store = {"store": lambda source: choose(source or ""), "placeholder": "Choose a bundled task"}
    _choice("Bundled task", "task.bundled", current, bundled_tasks(), **store)
    info = TASKS.get(current.removeprefix("bundled:"))
    if info is not None and current.startswith("bundled:"):
        st.caption(plain(info.description))


def _upload() -> None:
    left, right = st.container(key="stack-pictures-upload").columns(2, gap="medium")
    with left:
        uploader(choose)
    with right:
        uploads = {str(upload.path): upload for upload in finished(state.place())}
        if not uploads:
            st.caption("Uploaded files will be listed here. They stay in this workspace.")
            return
        labels = {path: upload.text for path, upload in uploads.items()}
        current = state.value_of("task.source")
        store = {"store": lambda path: choose(path or ""), "placeholder": "Choose an upload"}
        _choice("Uploaded before", "task.upload", current, labels, **store)
        _choice(
            "Test split from another upload",
            "task.upload.test",
            state.value_of("task.test_source"),
            {path: text for path, text in labels.items() if path != current},
            lambda path: state.change({"task.test_source": path}),
            placeholder="none: held out from the same file",
            disabled=current not in uploads,
        )
    if current in uploads:
        for words in (fields_sentence(uploads[current].fields), *uploads[current].notes):
            if words:
                st.caption(plain(words))
        _fields(current)


def _path() -> None:
    source = state.value_of("task.source")
    own = origin_of(source) == "path"
    keys = "task.path", "task.path.test", "task.path.format"

    def store(_: str) -> None:
        path, other, layout = (st.session_state[key] for key in keys)
        same = path.strip() == state.value_of("task.source")
        columns = state.draft().task.columns if same else {}
        choose(path, test_source=other.strip() or None, format=layout, columns=columns)

    a, b, c = st.container(key="stack-fields-path").columns([2, 2, 1.4])
    tip = "A .jsonl, .csv or .txt file, or a folder of files named train, validation, test."
    shown = {"placeholder": "/path/to/train.jsonl", "help": tip}
    mirror(a.text_input, "File or folder", keys[0], source if own else "", store, **shown)
    shown = {"placeholder": "none: held out from the same file", "help": "A second file that holds the test split."}
    mirror(b.text_input, "Test file", keys[1], state.value_of("task.test_source") or "", store, **shown)
    layout = state.value_of("task.format") if own else "auto"
    formats = list(FORMATS) if layout in FORMATS else [*FORMATS, layout]
    shown = {"options": formats, "format_func": lambda name: FORMATS.get(name, name)}
    mirror(c.selectbox, "Format", keys[2], layout, store, **shown)
    if own and source:
        _fields(source)


def _fields(source: str) -> None:
    """Draw, where it is wanted, which field of a file is which part of the prompt, also where that was recognised."""
    shown = bool(state.draft().task.columns)
    tip = "Of a file that was not understood as you mean it, or to leave a field out."
    if kept(st.toggle, "Map the fields by hand", MAPPING, shown, help=tip) or shown:
        _columns(source)


def _hub() -> bool:
    source = state.value_of("task.source")
    name = source.removeprefix("hub:") if source.startswith("hub:") else ""
    keys = "task.hub", "task.hub.subset", "task.hub.revision"

    def store(_: str | None) -> None:
        chosen, subset, revision = ((st.session_state[key] or "").strip() for key in keys)
        if chosen:
            choose(f"hub:{chosen.removeprefix('hub:')}", subset=subset or None, revision=revision or None)

    a, b, c = st.container(key="stack-fields-hub").columns([2, 1, 1])
    cached = asking.answered(requests.HubCache(stamp=hub_cache_stamp()), "Looking through the hub's cache …")
    names = [dataset["name"] for dataset in cached.value["datasets"]] if cached else []
    mirror(
        a.selectbox,
        "Data set",
        keys[0],
        name or None,
        store,
        options=[*names, *([name] if name and name not in names else [])],
        accept_new_options=True,
        placeholder="owner/name",
        help="Type owner/name; those in this machine's cache are listed. Loading scripts are never run.",
    )
    subset, revision = ((state.value_of(f"task.{key}") or "") if name else "" for key in ("subset", "revision"))
    mirror(b.text_input, "Subset", keys[1], subset, store, placeholder="none", max_chars=200)
    mirror(c.text_input, "Revision", keys[2], revision, store, placeholder="main", max_chars=200)
    return _columns(f"hub:{name}") if name else True


def _columns(source: str) -> bool:
    """Draw which field is question, answer, choices and so on; where they cannot be known, names can be typed.

    Returns:
        Whether they are known: without them the task cannot be read either.
    """
    task, label = state.draft().task, task_label(source, 60)
    question = requests.Columns(task=TaskSpec(source=source, subset=task.subset, revision=task.revision))
    reply = asking.answered(question, f"Reading the fields of {label} …")
    columns, likely = (reply.value["columns"], reply.value.get("fields", {})) if reply else ({}, {})
    if reply and not columns:
        st.caption("It has no named fields: it is plain text, or a table without a header.")
        return True
    rows = st.container(key="stack-fields-columns")
    boxes = [box for _ in range(0, len(COLUMN_KEYS), 4) for box in rows.columns(4)]
    for box, word in zip(boxes, COLUMN_KEYS, strict=True):
        current = task.columns.get(word)
        names = [*columns, *([current] if current and current not in columns else [])]
        mirror(
            box.selectbox,
            f"Column: {word}",
            f"task.column.{word}",
            current or None,
            lambda column, word=word: _store_column(word, (column or "").strip()),
            options=names,
            accept_new_options=True,
            placeholder="none" if current == "" or word not in likely else shorten(likely[word], 30),
            format_func=lambda column: field_text(column, columns),
            help="Without a choice, what the name in grey says. Several fields for choices, with commas between, can "
            "be typed, and a field of a field: choices.text.",
        )
    return reply is not None


def _store_column(word: str, column: str) -> None:
    columns = {part: name for part, name in state.draft().task.columns.items() if part != word}
    state.change({"task.columns": columns | ({word: column} if column else {})})


def settings() -> None:
    """Draw how examples are rendered, cut, split and scored."""
    a, b, long, *sizes = st.container(key="stack-fields-task").columns([1.1, 1, 1.1, 0.9, 0.9, 0.9])
    tip = plain("; ".join(f"{name}: {text}" for name, text in TEMPLATES.items()))
    field(a.selectbox, "Template", "task.template", options=list(TEMPLATES), help=tip)
    number("task.max_length", b)
    tip = (
        "Examples whose prompt alone fills the limit: a run refuses them before it begins, or does without them and "
        "says how many there were."
    )
    choice("Too long", "task.too_long", ("refuse", "leave_out"), tip, box=long)
    for box, split in zip(sizes, ("train", "validation", "test"), strict=True):
        number(f"task.sizes.{split}", box)
    with st.expander("Splitting and scoring", icon=":material/tune:"):
        a, b, c = st.columns([1, 2, 1])
        number("task.split_seed", a)
        field(
            b.multiselect,
            "Scorers",
            "task.scorers",
            options=list(SCORERS),
            to_draft=list,
            format_func=lambda name: SCORERS[name].label,
            placeholder="the task's own",
        )
        number("task.max_new_tokens", c)
