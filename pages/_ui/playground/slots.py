"""The playground's upper half: who answers, what that takes in memory, and loading and freeing it."""

from html import escape

import streamlit as st

from pages._ui.frame import layout, state
from pages._ui.frame.fields import mirror
from pages._ui.frame.layout import plain
from paraknow_core.catalogue import BASELINE
from paraknow_core.display import arm_of, count, distinct, memory
from paraknow_core.errors import ParaknowError
from paraknow_core.workbench import playground
from paraknow_core.workbench.playground import Holding
from paraknow_core.workbench.playground.answerers import NOBODY, Answerer, first_pair
from paraknow_core.workbench.playground.protocol import same_wish, service

COLUMNS = 4
CHOSEN = "playground.slots"
OWNED = "playground.loaded"  # keys that were loaded when this window was last drawn
WORDS = {"unknown": "looking", "free": "not loaded", "loading": "loading", "loaded": "loaded", "failed": "failed"}
IDLE_MINUTES = 15


def choose(people: dict[str, Answerer]) -> list[Answerer]:
    """Draw one select box a column; return who was chosen, in order, nobody twice."""
    keys = _starting(people)
    options = distinct({NOBODY: "nobody", **{key: person.option for key, person in people.items()}})
    tip = "A model as it is, or the student of a finished run with the adapter that the run trained."
    shown = {"options": list(options), "format_func": options.get, "help": tip}
    for place, column in enumerate(st.container(key="stack-fields-slots").columns(COLUMNS)):

        def store(key: str, place: int = place) -> None:
            chosen = list(st.session_state.get(CHOSEN) or [NOBODY] * COLUMNS)
            chosen[place] = key
            st.session_state[CHOSEN] = chosen

        key = keys[place] if keys[place] in people else NOBODY
        keys[place] = mirror(column.selectbox, f"Column {place + 1}", f"playground.slot.{place}", key, store, **shown)
    st.session_state[CHOSEN] = keys
    return [people[key] for key in dict.fromkeys(keys) if key != NOBODY]


def _starting(people: dict[str, Answerer]) -> list[str]:
    """Return the columns' choices: kept ones, else teacher, student, a default LoRA and the transfer it belongs to.

    One of the last two is the address's run; otherwise they are the newest two that differ least from one another.
    """
    run, problem = state.run_in_link()
    if problem:
        layout.say(problem)
    named = next((key for key, person in people.items() if run is not None and person.slot.run == run.id), None)
    kept = st.session_state.get(CHOSEN)
    if kept is None:
        kept = [*list(people)[:2], *first_pair(people, named, state.draft().student.source)]
        kept = (kept + [NOBODY] * COLUMNS)[:COLUMNS]
    if named is not None and st.session_state.get("playground.linked") != named:
        kept = kept if named in kept else _with_linked(people, kept, named)
        st.session_state["playground.linked"] = named  # once: afterwards the column can be changed
    return kept


def _with_linked(people: dict[str, Answerer], kept: list[str], named: str) -> list[str]:
    """Return the columns with the address's run in the last; a default LoRA beside it becomes the one it belongs to."""
    beside = kept[COLUMNS - 2]
    if beside == NOBODY or (beside in people and people[beside].arm == BASELINE):
        pair = first_pair(people, named, state.draft().student.source)
        beside = next((key for key in pair if key not in (named, NOBODY)), beside)
    return [*kept[: COLUMNS - 2], beside, named]


def look(chosen: list[Answerer]) -> dict[str, Holding]:
    """Return what the process says about everybody chosen, asking it about those it has not looked at."""
    place = state.place()
    held = {person.slot.key: playground.holding(place, person.slot) for person in chosen}
    for person in chosen:
        if held[person.slot.key].state == "unknown":
            if same_wish(place, "look", person.slot):
                service(place).start()
                continue
            try:
                playground.ask(place, "look", person.slot)
            except ParaknowError as error:  # this visitor may not use the model
                held[person.slot.key] = Holding(state="failed", error=str(error))
    return held


def unsettled(chosen: list[Answerer], held: dict[str, Holding]) -> bool:
    """True while something about the weights will change by itself."""
    place = state.place()
    moving = any(holding.state in ("unknown", "loading") for holding in held.values())
    return moving or any(same_wish(place, wish, person.slot) for person in chosen for wish in ("load", "free"))


def memory_line(chosen: list[Answerer], held: dict[str, Holding]) -> None:
    """Say what the process takes as a whole, and say so once when it is gone with what it had loaded."""
    place = state.place()
    loaded = {person.slot.key for person in chosen if held[person.slot.key].state == "loaded"}
    before = st.session_state.get(OWNED, set())
    alive = playground.process_memory(place)
    if before and not loaded and all(held.get(key, Holding()).state in ("unknown", "free") for key in before):
        if not st.session_state.get("playground.freed"):
            layout.warn(
                "The process that held the weights is gone: it was ended, ran out of memory, or nobody used it for "
                f"{IDLE_MINUTES} minutes. Load the models again.",
                "link_off",
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


def card(person: Answerer, holding: Holding, dark: bool) -> None:
    """Draw who answers in a column: name, state, memory, and the button that loads or frees."""
    shared = f" ({memory(holding.shared)} shared)" if holding.shared else ""
    takes = "takes" if holding.state == "loaded" else "needs"
    size = f"{takes} {memory(holding.bytes)}{shared}" if holding.bytes else ""
    parameters = f"{count(holding.parameters)} weights" if holding.parameters else ""
    st.html(
        f'<div class="pk-who" title="{escape(person.slot.run or person.slot.source, quote=True)}" '
        f'style="border-color:{arm_of(person.arm).shade(dark)}"><b>{escape(person.label)}</b>'
        f'<span class="pk-quiet">{escape(person.detail)}</span>'
        f'<span data-testid="holding"><span class="pk-hold pk-hold-{holding.state}">{WORDS[holding.state]}</span> '
        f'<span class="pk-quiet">{escape(" · ".join(part for part in (parameters, size) if part))}</span></span></div>'
    )
    if holding.error:
        layout.say(holding.error)
    if holding.state == "loaded":
        _button("Free", "free", person, ":material/eject:", "Drops the weights from memory, for every window.")
    elif holding.state in ("free", "failed", "unknown"):
        _button("Load", "load", person, ":material/download:", f"Puts the weights into memory. {plain(size)}")


def _button(label: str, wish: str, person: Answerer, icon: str, tip: str) -> None:
    place = state.place()
    waiting = same_wish(place, wish, person.slot)
    if st.button(label, key=f"{wish}:{person.slot.key}", icon=icon, help=tip, disabled=waiting, width="stretch"):
        with layout.sentences():
            do(wish, person)
            st.rerun()


def do(wish: str, *people: Answerer) -> None:
    """Leave a wish for each of them; a model that this visitor may not use is refused."""
    if wish == "free":
        st.session_state["playground.freed"] = True
    playground.ask(state.place(), wish, *(person.slot for person in people))
