"""The seed samples: how many, which, and how long each is; by hand with a tick for each training example."""

from typing import Any

import numpy
import pandas
import streamlit as st

from pages._ui.frame import asking, state
from pages._ui.frame.layout import plain
from pages._ui.task.view import ask_lengths, limit_of, nothing_left, refuse_or_leave_out, seeds_question
from paraknow_core.catalogue import MANUAL, SELECTIONS
from paraknow_core.display import counted, shorten
from paraknow_core.spec import SensitivitySpec

SELECTION_HELP = (
    "First: as published. Random: another seed, another choice. By hand: tick examples below. "
    "S = Σ over the seed samples of |θ · ∂L/∂θ|."
)
BASE = "seeds.base"
SEARCH = "seeds.search"
ROUND = "seeds.round"
EDITOR = "seeds.editor"
MOST_IDS = 100_000


def controls(train: int) -> None:
    """Draw how many seed samples, and how they are chosen.

    Args:
        train: examples of the training split.
    """
    spec, key = state.draft().sensitivity, "seeds.selection"
    st.session_state[key] = spec.selection
    a, b, c = st.container(key="stack-fields-seeds").columns([1.5, 1, 1], vertical_alignment="bottom")
    a.segmented_control(
        "Selection",
        list(SELECTIONS),
        format_func=lambda name: SELECTIONS[name].label,
        key=key,
        required=True,
        help=SELECTION_HELP,
        on_change=_select,
        args=(key, train),
    )
    if spec.selection != MANUAL:
        with b:
            state.field(
                st.number_input,
                "Seed samples",
                "sensitivity.samples",
                min_value=1,
                max_value=MOST_IDS,
                step=8,
                help=f"N training examples with their answers, of {train:,}; the paper uses 32.",
            )
    if spec.selection == "random":
        with c:
            state.field(st.number_input, "Selection seed", "sensitivity.seed", min_value=0, max_value=2**32 - 1, step=1)


def _select(key: str, train: int) -> None:
    """Switch the selection; by hand starts from what is chosen now."""
    wanted, spec = st.session_state[key], state.draft().sensitivity
    if wanted != MANUAL:
        state.change(
            {"sensitivity.selection": wanted, "sensitivity.ids": [], "sensitivity.samples": min(spec.samples, train)}
        )
        return
    chosen = st.session_state.get("seeds.now") or []
    if chosen:
        state.change({"sensitivity.selection": MANUAL, "sensitivity.ids": chosen, "sensitivity.samples": len(chosen)})


def body(task: dict[str, Any]) -> None:
    """Draw which training examples are taken, with their lengths, and flag those a run would refuse."""
    spec = state.draft().sensitivity
    taken = _taken(task, spec)
    lengths = ask_lengths(task, "teacher", "train")
    if taken is None or lengths is None:
        return
    st.session_state["seeds.now"] = taken
    limit = limit_of(lengths.value["context"])
    table = examples_table(lengths.value, lengths.array("whole"), lengths.array("prompt"), limit)
    place = {name: index for index, name in enumerate(taken)}
    table.insert(0, "taken", table["id"].isin(place.keys()))
    if not table["question"].any():  # plain text
        table = table.drop(columns="question").rename(columns={"answer": "text"})
    if not table["note"].any():
        table = table.drop(columns="note")
    word = _find() if spec.selection == MANUAL else ""
    _summary(table, len(place), limit)
    if spec.selection == MANUAL:
        _by_hand(table, list(place), word)
        return
    shown = table[table["taken"]].drop(columns="taken").sort_values("id", key=lambda ids: ids.map(place))
    _read_only(shown)


def _taken(task: dict[str, Any], spec: SensitivitySpec) -> list[str] | None:
    """Return the ids of the seed samples; those chosen by hand are known without asking, and never waited for."""
    if spec.selection == MANUAL:
        return list(spec.ids)
    reply = asking.answered(seeds_question(task, spec), "Choosing seed samples …")
    return reply.value["ids"] if reply else None


def examples_table(value: dict[str, Any], whole: numpy.ndarray, prompt: numpy.ndarray, limit: int) -> pandas.DataFrame:
    """Return one row a training example: id, question, answer, tokens, learnt tokens, and a note.

    Args:
        value, whole, prompt: the desk's `lengths`; several windows of one text are added up.
        limit: tokens that are kept.
    """
    kept = numpy.minimum(whole, limit)
    table = pandas.DataFrame(
        {
            "id": value["ids"],
            "question": value["texts"],
            "answer": value["answers"],
            "tokens": kept,
            "learnt": numpy.maximum(0, kept - numpy.maximum(prompt, 1)),
            "cut": whole > limit,
            "empty": nothing_left(whole, prompt, limit),
        }
    )
    if not table["id"].is_unique:
        table = table.groupby("id", sort=False, as_index=False).agg(
            {"question": "first", "answer": "first", "tokens": "sum", "learnt": "sum", "cut": "any", "empty": "all"}
        )
    note = numpy.where(table["cut"], "cut at the end", "")
    table["note"] = numpy.where(table["empty"], "masked out: nothing to learn within the limit", note)
    return table.drop(columns=["cut", "empty"])


def _summary(table: pandas.DataFrame, number: int, limit: int) -> None:
    seen = table[table["taken"]]
    tokens, learnt = int(seen["tokens"].sum()), int(seen["learnt"].sum())
    said = f"{counted(number, 'seed sample')}, {counted(tokens, 'token')}, {learnt:,} learnt"
    beyond = number - len(seen)
    if beyond:
        said += f"; {beyond:,} of them are not among the {len(table):,} training examples looked at here"
    st.markdown(plain(said + "."))
    refused = seen[seen["note"].str.startswith("masked out")] if "note" in seen else ()
    if len(refused):
        of_model = limit < state.draft().task.max_length
        within = f"{limit:,} tokens, the model's context" if of_model else f"{limit:,} tokens"
        mend = "Take a model with a longer context" if of_model else "Raise the max length"
        st.warning(
            plain(
                f"{len(refused):,} of them have nothing to learn within {within} (first: "
                f"{shorten(refused['id'].iloc[0], 60)}); a run would {refuse_or_leave_out('them')}. {mend}, or choose "
                "others."
            ),
            icon=":material/content_cut:",
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


def _read_only(shown: pandas.DataFrame) -> None:
    st.dataframe(shown, hide_index=True, column_config=COLUMNS, height=min(460, 40 + 35 * len(shown)))
    st.download_button(
        "Seed samples as CSV",
        shown.to_csv(index=False),
        "seed-samples.csv",
        "text/csv",
        icon=":material/download:",
        on_click="ignore",
    )


def _find() -> str:
    """Draw the field for words to find, and the button that brings the ticked examples to the top."""
    left, right = st.container(key="stack-fields-hand").columns([2, 1], vertical_alignment="bottom")
    word = left.text_input("Find", key=SEARCH, placeholder="words of the question or answer", max_chars=200)
    if right.button("Put the ticked ones first", icon=":material/vertical_align_top:", width="stretch"):
        st.session_state.pop(BASE, None)
    return word


def _by_hand(table: pandas.DataFrame, chosen: list[str], word: str) -> None:
    """Draw a tick for each training example; every change is the draft's at once."""
    base = _base(table, chosen, word)
    if not base["order"]:
        st.info(
            plain(f'Nothing found with "{shorten(word.strip(), 60)}"; the ticked examples stay ticked.'),
            icon=":material/search_off:",
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
        st.session_state[BASE]["for"] = (word, tuple(ids))
        state.change({"sensitivity.ids": ids, "sensitivity.samples": len(ids)})
    st.rerun()


def merged(chosen: list[str], shown: list[str], ticked: set[str]) -> list[str]:
    """Return the new choice: those not shown stay, of those shown the ticked ones; new ones come last, in order."""
    here = set(shown)
    kept = [name for name in chosen if name not in here or name in ticked]
    return kept + [name for name in shown if name in ticked and name not in set(chosen)]


def _base(table: pandas.DataFrame, chosen: list[str], word: str) -> dict[str, Any]:
    """Return the rows of the editor and their ticks at its start: they stay, while the editor keeps what is ticked.

    Another word to find, or ids that changed elsewhere, begin a new editor, the ticked examples on top.
    """
    known = st.session_state.get(BASE)
    # Streamlit forgets an editor's ticks when its page is left: then it begins anew, too.
    if known and known["for"] == (word, tuple(chosen)) and f"{EDITOR}.{known['round']}" in st.session_state:
        return known
    st.session_state[ROUND] = st.session_state.get(ROUND, 0) + 1  # another key: nothing ticked in an old one counts
    matching = table
    if word.strip():
        words = [table[name] for name in ("id", "question", "answer", "text") if name in table]
        found = pandas.concat([each.str.contains(word.strip(), case=False, regex=False) for each in words], axis=1)
        matching = table[found.any(axis=1)]
    ordered = pandas.concat([matching[matching["taken"]], matching[~matching["taken"]]])
    base = {
        "for": (word, tuple(chosen)),
        "order": list(ordered.index),
        "ticked": list(ordered["taken"]),
        "round": st.session_state[ROUND],
    }
    st.session_state[BASE] = base
    return base
