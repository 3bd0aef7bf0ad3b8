"""What a task holds: split sizes and warnings, lengths against the limit, and examples as a model reads them."""

from html import escape
from typing import Any

import streamlit as st

from pages._ui.frame import asking, layout, state
from pages._ui.frame.fields import kept, mirror
from pages._ui.frame.layout import download, plain, warn
from paraknow_core.catalogue import SCORERS
from paraknow_core.display import counted, shorten
from paraknow_core.figures import models as charts
from paraknow_core.spec import RunSpec, SensitivitySpec, TaskSpec
from paraknow_core.workbench.desk import Reply, requests
from paraknow_core.workbench.uploads import fields_sentence, task_label
from paraknow_core.workbench.views.task import learnt, length_sentence, lengths_table

NO_LIMIT = 1_048_576
BLOCK = 8  # examples of one answer: stepping through them is instant
SPLIT, WHO, INDEX = "task.view.split", "task.view.who", "task.view.index"


def task_reference(cut: bool = False) -> TaskSpec:
    """Return the draft's task as the desk is asked about it.

    Args:
        cut: keep the limit; otherwise another limit is no other question. Plain text is always cut.
    """
    task = state.draft().task
    return task if cut else task.model_copy(update={"max_length": NO_LIMIT})


def ask_task() -> dict[str, Any] | None:
    """Ask what the task holds; draws a line while it is read, or why it cannot be."""
    reply = asking.answered(requests.Task(task=task_reference()), "Reading the task …")
    return reply.value if reply else None


def ask_lengths(task: dict[str, Any], who: str, split: str) -> Reply | None:
    """Ask how many tokens the examples of a split have for the teacher's or the student's tokenizer."""
    question = requests.Lengths(
        task=task_reference(cut=task["is_text"]), model=getattr(state.draft(), who), split=split
    )
    return asking.answered(question, f"Counting tokens with the {who}'s tokenizer …")


def limit_of(context: int) -> int:
    """Return how many tokens of an example are kept: the draft's limit, or the model's context where it is shorter."""
    return min(state.draft().task.max_length, context)


def limit_in_words(limit: int) -> tuple[str, str]:
    """Return a limit as it is said, and what would leave more of an answer: `64 tokens`, `raise the max length`."""
    if limit < state.draft().task.max_length:
        return f"{limit:,} tokens, the model's context", "take a model with a longer context"
    return f"{limit:,} tokens", "raise the max length"


def overview(task: dict[str, Any]) -> None:
    """Draw the sizes of the splits, how answers are scored, and what to be wary of."""
    sizes = "".join(f"<span><b>{number:,}</b>{name}</span>" for name, number in task["sizes"].items())
    scorers = ", ".join(SCORERS[name].label for name in task["scorers"])
    more = f'<span class="pk-quiet">scored by {escape(scorers)}, at most {task["max_new_tokens"]:,} new tokens</span>'
    if task["is_text"]:
        more = '<span class="pk-quiet">plain text, scored by perplexity; pieces of about 1,000 characters</span>'
    commit = f'<span class="pk-quiet">commit {escape(task["revision"][:12])}</span>' if task["revision"] else ""
    st.html(f'<div class="pk-sizes" data-testid="sizes">{sizes}{more}{commit}</div>')
    read = fields_sentence(task.get("fields", {}))
    if read:
        st.caption(f":material/view_column: {plain(read)}")
    for warning in task["warnings"]:
        warn(warning, "warning")
    if not any("also occur" in warning for warning in task["warnings"]):
        st.caption(":material/check: No prompt of validation or test also occurs in train, up to case and white space.")
    if task["sizes"]["test"] < 100:
        tested = counted(task["sizes"]["test"], "test example")
        st.caption(f":material/info: {tested}: a score's 95 % interval will be wide.")


def view(task: dict[str, Any]) -> None:
    """Draw the lengths of one split, and its examples one by one."""
    a, b, _ = st.container(key="stack-fields-view").columns([1.3, 1.1, 1.2])
    sizes = {name: number for name, number in task["sizes"].items() if number}
    if st.session_state.get(SPLIT) not in sizes:
        st.session_state[SPLIT] = next(iter(sizes))
    split = kept(a.segmented_control, "Split", SPLIT, None, options=list(sizes), required=True)
    names = {"teacher": "teacher's", "student": "student's"}
    shown = {"options": list(names), "format_func": names.get, "required": True}
    who = kept(b.segmented_control, "Tokenizer", WHO, "teacher", **shown)
    left, right = st.container(key="stack-pictures-task").columns([1.25, 1], gap="large")
    with right:
        _lengths(task, who, split)
    with left:
        _example(task, who, split)


def _lengths(task: dict[str, Any], who: str, split: str) -> None:
    reply = ask_lengths(task, who, split)
    if reply is None:
        return
    whole, prompt, limit = reply.array("whole"), reply.array("prompt"), limit_of(reply.value["context"])
    if not whole.size:
        st.caption("No example of this split has a token to predict.")
        return
    partly = reply.value["looked_at"] < reply.value["examples"]
    n = f"first {reply.value['looked_at']:,} of {reply.value['examples']:,}" if partly else f"n = {len(whole):,}"
    unit = "windows" if task["is_text"] else "examples"
    about = f"{shorten(task_label(state.draft().task.source), 30)}, {who}'s tokenizer, {n}"
    layout.chart(
        charts.length_histogram(whole, limit, f"Length of {split} {unit}", about, dark=layout.is_dark()),
        f"lengths:{split}:{who}",
        f"Histogram: tokens of each {split} example, with the limit of {limit} tokens; the sentence below says how "
        "many are cut",
    )
    of_model = limit < state.draft().task.max_length
    why = "the model's context" if of_model else "the max length"
    mend = "take a model with a longer one" if of_model else "raise it"
    st.markdown(plain(length_sentence(whole, prompt, limit, why, mend, refuse_or_leave_out("them"))))
    download("Lengths as CSV", lengths_table(reply.value["ids"], whole, prompt), f"lengths-{split}-{who}.csv")


def refuse_or_leave_out(what: str) -> str:
    """Say what a run of the draft does to examples that are too long."""
    return f"leave {what} out" if state.draft().task.too_long == "leave_out" else f"refuse {what}"


def _example(task: dict[str, Any], who: str, split: str) -> None:
    total = task["sizes"][split]
    index = min(st.session_state.get(INDEX, 0), total - 1)
    index = _stepper(index, total)
    start = index // BLOCK * BLOCK
    content = task_reference(cut=task["is_text"])
    question = requests.Examples(task=content, model=getattr(state.draft(), who), split=split, start=start, count=BLOCK)
    reply = asking.answered(question, "Rendering examples …")
    if reply is None:
        return
    shown = reply.value["examples"][index - start]
    limit = limit_of(reply.value["context"])
    left = learnt(shown["tokens"], shown["prompt"], limit)
    st.html(
        f'<div class="pk-legend"><span class="pk-name">{escape(shorten(shown["id"], 60))}</span>'
        f'<span class="pk-quiet">{shown["tokens"]:,} tokens, {left:,} learnt</span></div>'
    )
    st.html(tokens_html(shown, min(shown["tokens"], limit)))
    st.html(
        '<div class="pk-legend"><span><i class="pk-given">given</i>prompt, masked</span><span>'
        '<i class="pk-learnt">learnt</i>the loss is on these</span><span><i class="pk-cut">cut</i>beyond the limit'
        '</span><span><i class="pk-given pk-special">&lt;s&gt;</i>special token</span></div>'
    )
    if not left:
        within, mend = limit_in_words(limit)
        warn(
            f"Nothing of the answer is left within {within}: a run would {refuse_or_leave_out('this example')}. "
            f"Shorten it, or {mend}.",
            "content_cut",
        )
    if shown["without_row"]:
        warn(
            f"The model's embedding has no row for the token {shown['without_row']}: a run would refuse this example. "
            "Choose the tokenizer that belongs to the weights.",
            "error",
        )
    for note in reply.value["notes"]:
        st.caption(f":material/info: {plain(note)}")
    if shown["choices"]:
        st.caption("Choices: " + plain(", ".join(shown["choices"])))


def _stepper(index: int, total: int) -> int:
    """Draw the number of the example and buttons to the one before and after; return the index from 0."""

    def go(number: int) -> None:
        st.session_state[INDEX] = max(0, min(total, number) - 1)

    with st.container(horizontal=True, vertical_alignment="bottom"):
        shown = {"min_value": 1, "max_value": total, "step": 1, "width": 150}
        mirror(st.number_input, f"Example, of {total:,}", f"{INDEX}.widget", index + 1, go, **shown)
        st.button("Previous", icon=":material/chevron_left:", on_click=go, args=(index,), disabled=index == 0)
        st.button("Next", icon=":material/chevron_right:", on_click=go, args=(index + 2,), disabled=index >= total - 1)
    return index


def tokens_html(shown: dict[str, Any], kept: int) -> str:
    """Return an example's tokens as spans: given, learnt or cut, each with its id to hover over.

    Args:
        shown: one entry of the desk's `examples`.
        kept: tokens within the limit.
    """
    special, parts = set(shown["special"]), []
    for index, (text, token) in enumerate(zip(shown["texts"], shown["ids"], strict=True)):
        kind = "pk-cut" if index >= kept else "pk-given" if index < max(1, shown["prompt"]) else "pk-learnt"
        word = {"pk-cut": "cut off", "pk-given": "given", "pk-learnt": "learnt"}[kind]
        body = escape(text).replace("\n", '<span class="pk-line-end">↵</span>\n').replace("\t", "⇥\t")
        mark = " pk-special" if index in special else ""
        parts.append(f'<i class="{kind}{mark}" title="token {index + 1}, id {token}, {word}">{body}</i>')
    more = shown["tokens"] - len(shown["ids"])
    rest = f'<span class="pk-quiet"> … {more:,} more tokens</span>' if more else ""
    return f'<div class="pk-tokens" data-testid="tokens">{"".join(parts)}{rest}</div>'


def shown_seeds_question(task: dict[str, Any], sensitivity: SensitivitySpec) -> requests.Seeds:
    """Return the question which training examples are the seed samples."""
    if state.draft().task.too_long == "leave_out" and not task["is_text"]:
        return asking.seeds_question(state.draft())
    parts = {"task": task_reference(cut=task["is_text"]), "sensitivity": sensitivity}
    return requests.Seeds(spec=RunSpec().model_copy(update=parts), with_models=False)
