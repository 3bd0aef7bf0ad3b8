"""The seed samples: how many, which, and how long each is; by hand with a tick for each training example."""

from typing import TYPE_CHECKING, Any

import streamlit as st

from pages._ui.frame import asking, state
from pages._ui.frame.fields import mirror, number
from pages._ui.frame.layout import download, info, plain, warn
from pages._ui.task.view import ask_lengths, limit_in_words, limit_of, refuse_or_leave_out, shown_seeds_question
from paraknow_core.catalogue import MANUAL, SELECTIONS
from paraknow_core.display import counted, shorten
from paraknow_core.workbench.views.task import MASKED, examples_table, merged, with_words

if TYPE_CHECKING:
    import pandas

SELECTION_HELP = (
    "First: as published. Random: another seed, another choice. By hand: tick examples below. "
    "S = Σ over the seed samples of |θ · ∂L/∂θ|."
)
BASE = "seeds.base"
SEARCH = "seeds.search"
ROUND = "seeds.round"
EDITOR = "seeds.editor"


def controls(train: int) -> None:
    """Draw how many seed samples, and how they are chosen.

    Args:
        train: examples of the training split.
    """
    spec = state.draft().sensitivity
    a, b, c = st.container(key="stack-fields-seeds").columns([1.5, 1, 1], vertical_alignment="bottom")
    mirror(
        a.segmented_control,
        "Selection",
        "seeds.selection",
        spec.selection,
        lambda selection: _select(selection, train),
        options=list(SELECTIONS),
        format_func=lambda name: SELECTIONS[name].label,
        required=True,
        help=SELECTION_HELP,
    )
    if spec.selection != MANUAL:
        tip = f"N training examples with their answers, of {train:,}; the paper uses 32."
        number("sensitivity.samples", b, tip=tip)
    if "sensitivity.seed" in SELECTIONS[spec.selection].reads:
        number("sensitivity.seed", c)


def _select(selection: str, train: int) -> None:
    """Switch the selection; by hand starts from what is chosen now."""
    ids = (st.session_state.get("seeds.now") or []) if selection == MANUAL else []
    samples = len(ids) or min(state.draft().sensitivity.samples, train)
    if ids or selection != MANUAL:
        state.change({"sensitivity.selection": selection, "sensitivity.ids": ids, "sensitivity.samples": samples})


def body(task: dict[str, Any]) -> None:
    """Draw which training examples are taken, with their lengths, and flag those a run would refuse."""
    spec = state.draft().sensitivity
    if spec.selection == MANUAL:  # known without asking, and never waited for
        taken = list(spec.ids)
    else:
        reply = asking.answered(shown_seeds_question(task, spec), "Choosing seed samples …")
        taken = reply.value["ids"] if reply else None
    lengths = ask_lengths(task, "teacher", "train")
    if taken is None or lengths is None:
        return
    st.session_state["seeds.now"] = taken
    limit = limit_of(lengths.value["context"])
    table = examples_table(lengths.value, lengths.array("whole"), lengths.array("prompt"), limit)
    order = {name: index for index, name in enumerate(taken)}
    table.insert(0, "taken", table["id"].isin(order.keys()))
    if not table["question"].any():  # plain text
        table = table.drop(columns="question").rename(columns={"answer": "text"})
    if not table["note"].any():
        table = table.drop(columns="note")
    words = _find() if spec.selection == MANUAL else ""
    _summary(table, len(order), limit)
    if spec.selection == MANUAL:
        _by_hand(table, list(order), words)
        return
    shown = table[table["taken"]].drop(columns="taken").sort_values("id", key=lambda ids: ids.map(order))
    st.dataframe(shown, hide_index=True, column_config=COLUMNS, height=min(460, 40 + 35 * len(shown)))
    download("Seed samples as CSV", shown, "seed-samples.csv")


def _summary(table: "pandas.DataFrame", count: int, limit: int) -> None:
    samples = table[table["taken"]]
    tokens, learnt = int(samples["tokens"].sum()), int(samples["learnt"].sum())
    words = f"{counted(count, 'seed sample')}, {counted(tokens, 'token')}, {learnt:,} learnt"
    beyond = count - len(samples)
    if beyond:
        words += f"; {beyond:,} of them are not among the {len(table):,} training examples looked at here"
    st.markdown(plain(words + "."))
    refused = samples[samples["note"] == MASKED] if "note" in samples else ()
    if len(refused):
        within, mend = limit_in_words(limit)
        warn(
            f"{len(refused):,} of them have nothing to learn within {within} (first: "
            f"{shorten(refused['id'].iloc[0], 60)}); a run would {refuse_or_leave_out('them')}. "
            f"{mend.capitalize()}, or choose others.",
            "content_cut",
        )


COLUMNS = {
    "taken": st.column_config.CheckboxColumn("Taken", width=84),
    "id": st.column_config.TextColumn("Example", width=170),
    "question": st.column_config.TextColumn("Question", width=340),
    "answer": st.column_config.TextColumn("Answer", width=170),
    "text": st.column_config.TextColumn("Text", width=510),
    "tokens": st.column_config.NumberColumn("Tokens", width=70, help="after the cut"),
    "learnt": st.column_config.NumberColumn("Learnt", width=70, help="tokens that the loss is on"),
    "note": st.column_config.TextColumn("Note", width=150),
}


def _find() -> str:
    """Draw the field for words to find, and the button that brings the ticked examples to the top."""
    left, right = st.container(key="stack-fields-hand").columns([2, 1], vertical_alignment="bottom")
    words = left.text_input("Find", key=SEARCH, placeholder="words of the question or answer", max_chars=200)
    if right.button("Put the ticked ones first", icon=":material/vertical_align_top:", width="stretch"):
        st.session_state.pop(BASE, None)
    return words


def _by_hand(table: "pandas.DataFrame", chosen: list[str], words: str) -> None:
    """Draw a tick for each training example; every change is the draft's at once."""
    base = _base(table, chosen, words)
    if not base["order"]:
        info(
            plain(f'Nothing found with "{shorten(words.strip(), 60)}"; the ticked examples stay ticked.'), "search_off"
        )
        return
    shown = table.loc[base["order"]].assign(taken=base["ticked"])
    edited = st.data_editor(
        shown,
        hide_index=True,
        key=f"{EDITOR}.{base['round']}",
        column_config=COLUMNS,
        height=460,
        disabled=[name for name in shown.columns if name != "taken"],
    )
    ids = merged(chosen, list(shown["id"]), set(edited.loc[edited["taken"], "id"]))
    if ids == chosen:
        return
    if not ids:
        state.tell("seed samples: the last one was unticked; tick at least one, or choose First or Random")
        st.session_state.pop(BASE, None)
    else:
        st.session_state[BASE]["for"] = (words, tuple(ids))
        state.change({"sensitivity.ids": ids, "sensitivity.samples": len(ids)})
    st.rerun()


def _base(table: "pandas.DataFrame", chosen: list[str], words: str) -> dict[str, Any]:
    """Return the rows of the editor and their ticks at its start: they stay, while the editor keeps what is ticked.

    Other words to find, or ids that changed elsewhere, begin a new editor, the ticked examples on top.
    """
    last = st.session_state.get(BASE)
    # Streamlit forgets an editor's ticks when its page is left: then it begins anew, too.
    if last and last["for"] == (words, tuple(chosen)) and f"{EDITOR}.{last['round']}" in st.session_state:
        return last
    st.session_state[ROUND] = st.session_state.get(ROUND, 0) + 1  # another key: nothing ticked in an old one counts
    ordered = with_words(table, words).sort_values("taken", ascending=False, kind="stable")
    base = {
        "for": (words, tuple(chosen)),
        "order": list(ordered.index),
        "ticked": list(ordered["taken"]),
        "round": st.session_state[ROUND],
    }
    st.session_state[BASE] = base
    return base
