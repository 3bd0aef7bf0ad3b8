"""The playground's upper half: who answers, what that takes in memory, and loading and freeing it."""

from dataclasses import dataclass
from html import escape

import streamlit as st

from pages._ui.frame import layout, reading, state
from pages._ui.frame import run_panel as widgets
from pages._ui.frame.layout import plain
from pages._ui.frame.reading import Facts
from paraknow_core.catalogue import BASELINE, PAPER_METHOD
from paraknow_core.display import arm_of, count, distinct, memory, score_text, source_label
from paraknow_core.errors import ParaknowError
from paraknow_core.workbench import playground
from paraknow_core.workbench.playground import Holding, Slot
from paraknow_core.workbench.playground.protocol import same_wish, service

COLUMNS = 4
PAIRED = 24  # newest runs of a kind among which the two that differ least are looked for
NOBODY = ""
CHOSEN = "playground.slots"
OWNED = "playground.loaded"  # keys that were loaded when this window was last drawn
WORDS = {"unknown": "looking", "free": "not loaded", "loading": "loading", "loaded": "loaded", "failed": "failed"}
IDLE_MINUTES = 15


@dataclass(frozen=True)
class Choice:
    """Somebody who can answer: how it is called, and the colour that its arm has everywhere; of a run, its facts."""

    slot: Slot
    label: str
    arm: str
    detail: str = ""
    facts: Facts | None = None


def choices() -> dict[str, Choice]:
    """Return by key all who can answer: the draft's pair, bundled models, and every run with a trained adapter."""
    draft = state.draft()
    found: dict[str, Choice] = {}

    def add(slot: Slot, label: str, arm: str, detail: str = "", facts: Facts | None = None) -> None:
        found.setdefault(slot.key, Choice(slot, label, arm, detail, facts))

    teacher, student = draft.teacher, draft.student
    add(
        Slot(source=teacher.source, revision=teacher.revision),
        source_label(teacher.source, 30),
        "teacher",
        "the draft's teacher, untouched",
    )
    add(
        Slot(source=student.source, revision=student.revision),
        source_label(student.source, 30),
        "student",
        "the draft's student, untouched",
    )
    for source in widgets.bundled_models() if widgets.MODELS.is_dir() else {}:
        add(Slot(source=source), source_label(source), "student", "bundled")
    titles = reading.titles(state.place())
    for run, one in reading.all_facts(state.place()):
        if one.spec is None or not one.result or not run.file("adapter").is_dir():
            continue
        revisions = one.result.get("revisions")
        known = revisions.get("student") if isinstance(revisions, dict) else None
        revision = known if isinstance(known, str) else one.spec.student.revision
        slot = Slot(source=one.spec.student.source, revision=revision, run=run.id)
        score = f", {score_text(one.scores[0]).split(' (')[0]}" if one.scores else ""
        training = one.result.get("training")
        steps = training.get("steps") if isinstance(training, dict) else None
        trained = f"{steps:,} steps, " if isinstance(steps, int) else ""
        add(
            slot,
            titles.get(run.id, run.id),
            one.spec.method,
            f"{arm_of(one.spec.method).label}, {trained}{source_label(one.spec.student.source, 24)}, {one.task}{score}",
            one,
        )
    return found


def choose(known: dict[str, Choice]) -> list[Choice]:
    """Draw one select box a column; return who was chosen, in order, nobody twice."""
    keys = _starting(known)
    options = distinct({NOBODY: "nobody", **{key: _option(one) for key, one in known.items()}})
    row = st.container(key="stack-fields-slots").columns(COLUMNS)
    for place, column in enumerate(row):
        widget = f"playground.slot.{place}"
        st.session_state[widget] = keys[place] if keys[place] in known else NOBODY
        keys[place] = column.selectbox(
            f"Column {place + 1}",
            list(options),
            key=widget,
            format_func=options.get,
            help="A model as it is, or the student of a finished run with the adapter that the run trained.",
            on_change=_remember,
            args=(place, widget),
        )
    st.session_state[CHOSEN] = keys
    return [known[key] for key in dict.fromkeys(keys) if key != NOBODY]


def _option(one: Choice) -> str:
    label = one.label.replace(" (the method)", "")  # a column is narrow: what tells runs apart must be seen
    return f"{label} · {one.detail}" if one.detail else label


def _remember(place: int, widget: str) -> None:
    keys = list(st.session_state.get(CHOSEN) or [NOBODY] * COLUMNS)
    keys[place] = st.session_state[widget]
    st.session_state[CHOSEN] = keys


def _starting(known: dict[str, Choice]) -> list[str]:
    """Return the columns' choices: kept ones, else teacher, student, a default LoRA and the transfer it belongs to.

    One of the last two is the address's run; otherwise they are the newest two that differ least from one another.
    """
    linked = _run_in_link()
    named = next((k for k, one in known.items() if linked and one.slot.run == linked), None)
    kept = st.session_state.get(CHOSEN)
    if kept is None:
        default, method = _pair(known, named)
        kept = [*list(known)[:2], default, method]
        kept = (kept + [NOBODY] * COLUMNS)[:COLUMNS]
    if named is not None and st.session_state.get("playground.linked") != named:
        kept = kept if named in kept else _with_linked(known, kept, named)
        st.session_state["playground.linked"] = named  # once: afterwards the column can be changed
    return kept


def _with_linked(known: dict[str, Choice], kept: list[str], named: str) -> list[str]:
    """Return the columns with the address's run in the last; a default LoRA beside it becomes the one it belongs to."""
    beside = kept[COLUMNS - 2]
    if beside == NOBODY or (beside in known and known[beside].arm == BASELINE):
        pair = _pair(known, named)
        beside = next((key for key in pair if key not in (named, NOBODY)), beside)
    return [*kept[: COLUMNS - 2], beside, named]


def _pair(known: dict[str, Choice], named: str | None) -> tuple[str, str]:
    """Return a default LoRA and a transfer to start with: the two that differ least, in their seeds, too.

    Args:
        known: everybody, runs newest first.
        named: the run of the address; it is one of the two.
    """
    runs = [key for key, one in known.items() if one.slot.run]
    source = known[named].slot.source if named else state.draft().student.source
    fits = [key for key in runs if known[key].slot.source == source] or runs
    pool = list(dict.fromkeys([named, *fits] if named else fits))
    controls = [key for key in pool if known[key].arm == BASELINE]
    others = [key for key in pool if key not in controls]
    methods = [key for key in others if known[key].arm == PAPER_METHOD] or others
    if named is not None:
        controls, methods = ([named], methods) if named in controls else (controls, [named])
    if not methods and len(controls) > 1:
        return controls[0], controls[1]
    pairs = ((control, method) for method in methods[:PAIRED] for control in controls[:PAIRED])
    nearest = min(pairs, key=lambda pair: _distance(known[pair[0]], known[pair[1]]), default=None)
    return nearest or (next(iter(controls), NOBODY), next(iter(methods), NOBODY))


def _distance(control: Choice, transfer: Choice) -> tuple[bool, bool, bool]:
    """Tell in what a control differs from a transfer: anything but the method, model or task, the seed."""
    if not transfer.facts or not control.facts:
        return (False, False, False)
    one, other = transfer.facts, control.facts
    asked = reading.question(one.spec) != reading.question(other.spec)
    return bool(set(reading.other_settings(one, other)) - {"seed"}), asked, one.spec.seed != other.spec.seed


def _run_in_link() -> str:
    run, problem = reading.run_in_link(state.place())
    if problem:
        layout.say(problem)
    return run.id if run is not None else ""


def look(chosen: list[Choice]) -> dict[str, Holding]:
    """Return what the process says about everybody chosen, asking it about those it has not looked at."""
    place = state.place()
    held = {one.slot.key: playground.holding(place, one.slot) for one in chosen}
    for one in chosen:
        if held[one.slot.key].state == "unknown":
            if same_wish(place, "look", one.slot):
                service(place).start()
                continue
            try:
                playground.ask(place, "look", one.slot)
            except ParaknowError as error:  # this visitor may not use the model
                held[one.slot.key] = Holding(state="failed", error=str(error))
    return held


def unsettled(chosen: list[Choice], held: dict[str, Holding]) -> bool:
    """True while something about the weights will change by itself."""
    place = state.place()
    moving = any(one.state in ("unknown", "loading") for one in held.values())
    return moving or any(same_wish(place, wish, one.slot) for one in chosen for wish in ("load", "free"))


def memory_line(chosen: list[Choice], held: dict[str, Holding]) -> None:
    """Say what the process takes as a whole, and say so once when it is gone with what it had loaded."""
    place = state.place()
    loaded = {one.slot.key for one in chosen if held[one.slot.key].state == "loaded"}
    before = st.session_state.get(OWNED, set())
    alive = playground.process_memory(place)
    if before and not loaded and all(held.get(key, Holding()).state in ("unknown", "free") for key in before):
        if not st.session_state.get("playground.freed"):
            st.warning(
                "The process that held the weights is gone: it was ended, ran out of memory, or nobody used it for "
                f"{IDLE_MINUTES} minutes. Load the models again.",
                icon=":material/link_off:",
            )
    else:
        st.session_state[OWNED] = loaded
    st.session_state["playground.freed"] = st.session_state.get("playground.freed", False) and not loaded
    problem = service(place).last_error() if alive is None and not service(place).starting else ""
    if problem:
        layout.say(f"playground: its process does not start; the end of its log: {problem}")
    words = f"The playground's process takes {memory(alive)} in all" if alive else "No process yet"
    st.caption(
        f"{words}; weights that nobody uses for {IDLE_MINUTES} minutes are freed. Other windows of this "
        "workspace share them."
    )


def card(one: Choice, holding: Holding, dark: bool) -> None:
    """Draw who answers in a column: name, state, memory, and the button that loads or frees."""
    shared = f" ({memory(holding.shared)} shared)" if holding.shared else ""
    takes = "takes" if holding.state == "loaded" else "needs"
    size = f"{takes} {memory(holding.bytes)}{shared}" if holding.bytes else ""
    parameters = f"{count(holding.parameters)} weights" if holding.parameters else ""
    st.html(
        f'<div class="pk-who" title="{escape(one.slot.run or one.slot.source, quote=True)}" '
        f'style="border-color:{arm_of(one.arm).shade(dark)}"><b>{escape(one.label)}</b>'
        f'<span class="pk-quiet">{escape(one.detail)}</span>'
        f'<span data-testid="holding"><span class="pk-hold pk-hold-{holding.state}">{WORDS[holding.state]}</span> '
        f'<span class="pk-quiet">{escape(" · ".join(part for part in (parameters, size) if part))}</span></span></div>'
    )
    if holding.error:
        layout.say(holding.error)
    if holding.state == "loaded":
        _button("Free", "free", one, ":material/eject:", "Drops the weights from memory, for every window.")
    elif holding.state in ("free", "failed", "unknown"):
        _button("Load", "load", one, ":material/download:", f"Puts the weights into memory. {plain(size)}")


def _button(label: str, wish: str, one: Choice, icon: str, tip: str) -> None:
    place = state.place()
    waiting = same_wish(place, wish, one.slot)
    if st.button(label, key=f"{wish}:{one.slot.key}", icon=icon, help=tip, disabled=waiting, width="stretch"):
        with layout.sentences():
            do(wish, one)
            st.rerun()


def do(wish: str, *them: Choice) -> None:
    """Leave a wish for each of them; a model that this visitor may not use is refused."""
    if wish == "free":
        st.session_state["playground.freed"] = True
    playground.ask(state.place(), wish, *(one.slot for one in them))
