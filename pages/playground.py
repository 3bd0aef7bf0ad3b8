"""Playground: one prompt to teacher, student, default LoRA and transferred student, side by side, token by token."""

from collections.abc import Callable

import streamlit as st

from pages._ui.frame import layout, state
from pages._ui.frame.layout import download, info, plain, warn
from pages._ui.frame.page import page
from pages._ui.playground import answers, prompt, slots
from paraknow_core.display import memory, shorten
from paraknow_core.errors import ParaknowError
from paraknow_core.workbench import playground
from paraknow_core.workbench.playground import Generation, Holding, protocol
from paraknow_core.workbench.playground.answerers import Answerer, answerers, tokens_csv

EVERY_S = 0.35


def shown(*, quietly: bool = True) -> Generation | None:
    """Return the answers that the address names; None where there are none, which is said unless it is done quietly."""
    name = st.query_params.get("generation", "")
    try:
        return playground.generation(state.place(), name) if name else None
    except ParaknowError as error:
        if not quietly:
            layout.say(error)
        return None


def buttons(
    material: prompt.Material,
    form: dict,
    chosen: list[Answerer],
    held: dict[str, Holding],
    generation: Generation | None,
) -> None:
    """Draw what can be done with everybody at once: load, generate, stop, free."""
    loaded = [person for person in chosen if held[person.slot.key].state == "loaded"]
    missing = [person for person in chosen if held[person.slot.key].state in ("free", "failed", "unknown")]
    needed = sum(held[person.slot.key].bytes for person in missing)
    busy = generation is not None and generation.active
    with st.container(horizontal=True, vertical_alignment="center"):
        if missing:
            label = f"Load all ({memory(needed)})" if needed else "Load all"
            tip = "Puts everybody's weights into memory; students share theirs, so it may take less."
            if st.button(label, icon=":material/download:", type="secondary" if loaded else "primary", help=tip):
                _do(lambda: slots.do("load", *missing))
        tip = "Everybody who is loaded answers." if loaded else "Load a model first."
        kind = "primary" if loaded else "secondary"
        if st.button("Generate", icon=":material/play_arrow:", type=kind, disabled=not loaded or busy, help=tip):
            _generate(material, form, loaded)
        if busy and st.button("Stop", icon=":material/stop_circle:", help="Ends after the token it is at."):
            _do(lambda: protocol.stop(state.place(), generation.id))
        if loaded and st.button("Free all", icon=":material/eject:", help="Drops these weights, for every window."):
            _do(lambda: slots.do("free", *loaded))


def _do(what: Callable[[], object]) -> None:
    """Do what a button says and draw the page again; where that cannot be written, the page stays and says so."""
    with layout.sentences():
        what()
        st.rerun()


def _generate(material: prompt.Material, form: dict, loaded: list[Answerer]) -> None:
    try:
        asked = prompt.request(material, form, [person.slot for person in loaded])
    except ValueError as error:
        message = error.errors()[0]["msg"] if hasattr(error, "errors") else str(error)
        layout.say(f"prompt: {message.removeprefix('Value error, ')}")
        generation = shown()
        if generation is not None and any(column.error for column in generation.columns.values()):
            del st.query_params["generation"]  # what was wrong with another prompt is not wrong with this one
        return

    def begin() -> None:
        name = playground.begin(state.place(), asked)
        st.session_state[prompt.ANSWERED] = name  # the fields hold its prompt
        st.query_params["generation"] = name

    _do(begin)


def columns(material: prompt.Material, form: dict, people: dict[str, Answerer], chosen: list[Answerer]) -> None:
    """Draw a column for everybody: who it is, and the answer; again and again while something happens.

    Answers to another prompt than the one in the fields are not shown: they would pass for answers to this one.
    """
    held, generation = slots.look(chosen), shown()
    answered = generation is not None and prompt.is_answered(material, form, generation)
    judged = answered and prompt.is_judged(form, generation)
    if generation is not None and not answered:
        _of_another_prompt(material, generation)
    moving = slots.unsettled(chosen, held) or (generation is not None and generation.active)

    def tick() -> None:
        with layout.sentences():
            draw()

    def draw() -> None:
        holdings, answer = slots.look(chosen), shown()
        if moving and not (slots.unsettled(chosen, holdings) or (answer is not None and answer.active)):
            st.rerun()
        slots.memory_line(chosen, holdings)
        if answered and answer is not None and answer.orphaned:
            warn(
                "These answers were cut off: the process that wrote them is gone, perhaps because memory ran out. What "
                "was written is kept. Load the models and generate again.",
                "link_off",
            )
        if not chosen:
            info("Choose who answers in the columns above.", "chat")
        _grid(chosen, holdings, answer if answered else None, judged)

    st.fragment(tick, run_every=EVERY_S if moving else None)()
    _below(people, generation if answered else None)


def _of_another_prompt(material: prompt.Material, generation: Generation) -> None:
    """Say that the address holds answers to another prompt, and offer the way back to it."""
    about = shorten(" ".join(" ".join(turn.content for turn in generation.asked.turns).split()), 90)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(
            plain(
                f"The answers to «{about}» (template {generation.asked.template}) are not shown: the prompt above "
                "is another one. Generate asks it."
            )
        )
        st.button(
            "Back to that prompt",
            icon=":material/undo:",
            type="tertiary",
            on_click=prompt.fill,
            args=(material, generation),
        )


def _grid(chosen: list[Answerer], held: dict[str, Holding], generation: Generation | None, judged: bool) -> None:
    row = st.container(key="stack-fields-answers").columns(max(1, len(chosen)))
    for number, (person, column) in enumerate(zip(chosen, row, strict=False)):
        key = person.slot.key
        with column:
            slots.card(person, held[key], layout.is_dark())
            if generation is not None and key in generation.columns:
                answers.draw(generation.columns[key], generation.orphaned, number, judged)
            elif held[key].state == "loaded":
                st.caption("Its answer will appear here: press Generate.")


def _below(people: dict[str, Answerer], generation: Generation | None) -> None:
    """Draw the legend, what the models were given, and the numbers."""
    if generation is None:
        return
    answers.legend()
    if generation.active:
        return
    labels = {key: people[key].label if key in people else shorten(key, 8) for key in generation.columns}
    texts: dict[str, list[str]] = {}
    for key, column in generation.columns.items():
        if column.prompt:
            texts.setdefault(column.prompt, []).append(f"{labels[key]} ({column.prompt_tokens} tokens)")
    with st.expander("What the models were given", icon=":material/notes:"):
        for text, who in texts.items():
            st.caption(plain(", ".join(who)))
            st.code(text, language=None, wrap_lines=True)
    asked = generation.asked
    how = (
        f"temperature {asked.temperature:g}, top-p {asked.top_p:g}, seed {asked.seed}"
        if asked.temperature
        else "greedy"
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        download("Tokens as CSV", lambda: tokens_csv(generation, labels), f"tokens-{generation.id}.csv")
        st.caption(
            plain(
                f"{how}, at most {asked.max_new_tokens} new tokens, template {asked.template}. "
                "This page's address keeps the answers."
            )
        )


with page("Playground"):
    material = prompt.read_material()
    everybody = answerers(state.place(), state.draft())
    if material is not None:
        with st.container(border=True):
            linked = shown(quietly=False)
            prompt.take(material, linked)
            form = prompt.fields(material)
            chosen_ones = slots.choose(everybody)
            buttons(material, form, chosen_ones, slots.look(chosen_ones), linked)
        columns(material, form, everybody, chosen_ones)
