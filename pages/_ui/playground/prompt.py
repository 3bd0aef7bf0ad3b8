"""The playground's prompt: a task's example or one's own text, how it is rendered, how tokens are drawn."""

from dataclasses import dataclass, field
from typing import Any

import streamlit as st

from pages._ui.frame import asking, state
from pages._ui.frame.fields import kept
from pages._ui.frame.layout import plain
from paraknow_core.demo.tasks import TASKS, examples
from paraknow_core.display import shorten
from paraknow_core.workbench.access import DEMO_LIMITS
from paraknow_core.workbench.desk import requests
from paraknow_core.workbench.playground import Generation
from paraknow_core.workbench.playground.protocol import MAX_NEW_TOKENS, MAX_PROMPT, Asked, Slot, Turn
from paraknow_core.workbench.uploads import task_label

PROMPT = "playground.prompt"
EXAMPLE = "playground.example"
TASK = "playground.task"  # the task that the kept example belongs to
TAKEN = "playground.taken"  # task and number of the example that the prompt was last filled with
TEMPLATE = "playground.template"
ANSWERED = "playground.answered"  # id of the answers whose prompt the fields were last filled with
TEMPLATES = {
    "task": "as the task renders it",
    "none": "raw: the text as it is",
    "tulu": "tulu: <|user|> … <|assistant|>",
    "chat": "chat: the model's own template",
    "plain": "plain: the text and a line break",
}


@dataclass(frozen=True)
class Material:
    """Examples of the draft's task, and how the task renders and scores them."""

    examples: list[dict[str, Any]] = field(default_factory=list)
    template: str = "tulu"
    max_new_tokens: int = 64
    scorer: str = ""


def read_material() -> Material | None:
    """Return examples of the draft's task; None while they are being read (a line says so) or cannot be."""
    task = state.draft().task
    name = task.source.removeprefix("bundled:")
    if task.source == f"bundled:{name}" and name in TASKS:
        info = TASKS[name]
        rows = [
            {"id": row["id"], "turns": row["messages"][:-1], "reference": row["messages"][-1]["content"]}
            for row in examples(name, "test")
        ]
        return Material(rows, task.template, task.max_new_tokens or info.max_new_tokens, info.scorer)
    reply = asking.answered(requests.TaskExamples(task=task, split="test"), waiting="Reading the task's examples …")
    if reply is None:
        return None
    value = reply.value
    return Material(value["examples"], value["template"], value["max_new_tokens"], value["scorer"])


def question(example: dict[str, Any]) -> str:
    """Return the text of an example's turns."""
    return "\n\n".join(turn["content"] for turn in example["turns"])


def fields(material: Material) -> dict[str, Any]:
    """Draw the prompt's fields; return what `request` needs."""
    left, right = st.container(key="stack-pictures-prompt").columns([1.9, 1], gap="medium")
    with left:
        example = _example(material)
        text = kept(
            st.text_area,
            "Prompt",
            PROMPT,
            question(example) if example else "",
            height=118,
            max_chars=MAX_PROMPT,
            help="Choose an example, or write your own.",
        )
        own = example is None or text != question(example)
        if example is not None:
            words = (
                "Your own prompt: there is no reference answer."
                if own
                else f"Reference: {' ⏎ '.join(example['reference'].splitlines())}"
            )
            st.caption(plain(shorten(words, 400)))
    with right:
        template = kept(
            st.selectbox,
            "Template",
            TEMPLATE,
            "task",
            options=list(TEMPLATES),
            format_func=lambda key: TEMPLATES[key] + (f" ({material.template})" if key == "task" else ""),
            help="What is put around the prompt. Models that were trained with a template answer badly without it. "
            "What each model is really given is shown under its answer.",
        )
        chance = _chance(material)
    return {"text": text, "example": None if own else example, "template": template, **chance}


def _example(material: Material) -> dict[str, Any] | None:
    if not material.examples:
        return None
    numbers = range(len(material.examples))
    task = state.draft().task.source
    if st.session_state.get(TASK) != task:  # another task: its first example, unless the prompt is one's own
        st.session_state[TASK] = task
        st.session_state[EXAMPLE] = 0
        st.session_state[PROMPT] = question(material.examples[0])
    st.session_state[EXAMPLE] = min(st.session_state.get(EXAMPLE, 0), len(material.examples) - 1)
    number = kept(
        st.selectbox,
        f"Example of {task_label(task, 30)}, test split",
        EXAMPLE,
        0,
        options=numbers,
        format_func=lambda n: f"{n + 1}. {shorten(' '.join(question(material.examples[n]).split()), 90)}",
        help="No model was trained on the test split. Type to search.",
    )
    example = material.examples[number]
    if st.session_state.get(TAKEN) != (task, number):
        st.session_state[TAKEN] = (task, number)
        st.session_state[PROMPT] = question(example)
    return example


def most_tokens() -> int:
    """Return how many new tokens may be asked for here."""
    return DEMO_LIMITS["max_new_tokens"] if state.access().demo else MAX_NEW_TOKENS


def _chance(material: Material) -> dict[str, Any]:
    most = most_tokens()
    a, b = st.columns(2, vertical_alignment="bottom")
    tip = "An answer ends earlier at an end mark or the end of the context."
    longest = _number(a, "New tokens, at most", "new_tokens", min(material.max_new_tokens, most), 1, most, help=tip)
    tip = (
        "greedy: always the most likely token. sampled: drawn from softmax(logits / temperature), from the fewest most "
        "likely tokens whose probabilities add up to top-p."
    )
    ways = {"options": ["greedy", "sampled"], "help": tip}
    if kept(b.selectbox, "Next token", "playground.how", "greedy", **ways) == "greedy":
        return {"max_new_tokens": longest, "temperature": 0.0, "top_p": 1.0, "seed": 0}
    a, b, c = st.columns(3)
    tip = "Below 1: bolder on the likely ones; above 1: flatter."
    temperature = _number(a, "Temperature", "temperature", 0.8, 0.05, 5.0, step=0.1, help=tip)
    top_p = _number(b, "Top-p", "top_p", 0.95, 0.01, 1.0, step=0.05)
    tip = "The same seed gives the same answer on the same machine."
    seed = _number(c, "Seed", "seed", 0, 0, 2**32 - 1, help=tip)
    return {"max_new_tokens": longest, "temperature": temperature, "top_p": top_p, "seed": seed}


def _number(box: Any, label: str, name: str, first: float, low: float, high: float, **more: Any) -> float:
    return kept(box.number_input, label, f"playground.{name}", first, min_value=low, max_value=high, **more)


def take(material: Material, generation: Generation | None) -> None:
    """Fill the fields with the prompt of the answers that the address names, once: a link shows both or neither."""
    if generation is not None and st.session_state.get(ANSWERED) != generation.id:
        fill(material, generation)


def fill(material: Material, generation: Generation) -> None:
    """Fill the fields with the prompt of these answers, and how the next token was chosen."""
    asked, task = generation.asked, state.draft().task.source
    text = asked.text
    same = [n for n, example in enumerate(material.examples) if question(example) == text]
    number = next((n for n in same if material.examples[n]["reference"] == asked.reference), next(iter(same), None))
    st.session_state.update(
        {
            ANSWERED: generation.id,
            PROMPT: text,
            TASK: task,
            "playground.new_tokens": min(asked.max_new_tokens, most_tokens()),
            TEMPLATE: "task" if asked.template == material.template else asked.template,
            "playground.how": "sampled" if asked.temperature else "greedy",
        }
    )
    if asked.temperature:
        st.session_state.update(
            {
                "playground.temperature": max(0.05, asked.temperature),
                "playground.seed": asked.seed,
                "playground.top_p": max(0.01, asked.top_p),
            }
        )
    if number is None:
        number = max(0, min(st.session_state.get(EXAMPLE, 0), len(material.examples) - 1))
    st.session_state[EXAMPLE], st.session_state[TAKEN] = number, (task, number)


def is_answered(material: Material, form: dict[str, Any], generation: Generation) -> bool:
    """Tell whether these are answers to the prompt that the fields hold, in its template."""
    example = form["example"]
    text = question(example) if example else form["text"]
    template = material.template if form["template"] == "task" else form["template"]
    return generation.asked.text == text and generation.asked.template == template


def is_judged(form: dict[str, Any], generation: Generation) -> bool:
    """Tell whether the answers were compared with the reference that the fields show."""
    return generation.asked.reference == (form["example"]["reference"] if form["example"] else None)


def request(material: Material, form: dict[str, Any], slots: list[Slot]) -> Asked:
    """Make the request of the fields' values.

    Raises:
        ValueError: the prompt is empty (pydantic's error).
    """
    example = form["example"]
    turns = example["turns"] if example else [{"role": "user", "content": form["text"]}]
    return Asked(
        slots=tuple(slots),
        turns=tuple(Turn(**turn) for turn in turns),
        template=material.template if form["template"] == "task" else form["template"],
        max_length=state.draft().task.max_length,
        max_new_tokens=form["max_new_tokens"],
        temperature=form["temperature"],
        top_p=form["top_p"],
        seed=form["seed"],
        reference=example["reference"] if example else None,
        scorer=material.scorer if example else "",
    )
