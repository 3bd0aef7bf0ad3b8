"""Widgets that write into the draft, and widgets whose value outlives their page.

Streamlit forgets a widget's value when its page is left. `mirror` is the one answer to that: the value is kept
somewhere else (the draft, the session, the address), the widget shows it on every draw and hands on what is chosen.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import streamlit as st

from pages._ui.frame import state
from pages._ui.frame.layout import say_unknown
from pages._ui.frame.vary import varied
from paraknow_core.display import source_label
from paraknow_core.spec import GROUP_OF_ROLE, GROUPS, ROLES, RunSpec, normal_origin
from paraknow_core.workbench import offers
from paraknow_core.workbench.uploads import task_label

GROUP_KEY, ROLE_KEY = "origin.groups", "origin.roles"
FROM_HUB = ("hub", "cache")  # origins that ask a hub, or list what was fetched from one
TYPED = "Choose a bundled one, or type a folder or a hub id (owner/name)"


def mirror(
    widget: Callable[..., Any], label: str, key: str, value: Any, store: Callable[[Any], object], /, **options: Any
) -> Any:
    """Draw a widget that shows a value kept elsewhere; return what it holds.

    Args:
        widget: of Streamlit, e.g. `st.number_input` or `column.selectbox`.
        label: its label.
        key: its key.
        value: what it shows.
        store: called with what was chosen.
        options: for the widget.
    """
    # On every draw: where a draw is followed at once by another, the browser only sees the second one.
    st.session_state[key] = value
    return widget(label, key=key, on_change=lambda: store(st.session_state.get(key)), **options)


def kept(widget: Callable[..., Any], label: str, key: str, first: Any, **options: Any) -> Any:
    """Draw a widget whose value is kept in the session, outside the draft; return the value.

    Args:
        widget: of Streamlit.
        label: its label.
        key: under which the session keeps the value; the widget's own key is `KEY.widget`.
        first: the value where there was none.
        options: for the widget.
    """

    def store(value: Any) -> None:
        st.session_state[key] = value

    store(mirror(widget, label, f"{key}.widget", st.session_state.get(key, first), store, **options))
    return st.session_state[key]


def linked(
    page: str,
    widget: Callable[..., Any],
    label: str,
    name: str,
    options: Sequence[str],
    default: str | None = None,
    **more: Any,
) -> str:
    """Draw a choice that is kept in the address and over a change of pages.

    Args:
        page: whose choice it is.
        widget: selectbox or segmented_control.
        label: its label.
        name: of the address's parameter.
        options: what can be chosen, not empty.
        default: where nothing was; the first by default.
        more: for the widget.
    """
    kept = f"{page}.{name}"
    asked = st.query_params.get(name, "")
    current = asked or st.session_state.get(kept)
    if current not in options:
        current = default if default in options else options[0]
        if asked and asked != st.session_state.get(kept):  # not what was there until another choice took it away
            say_unknown(name, asked, options, current)
    elif asked:
        st.session_state[kept] = asked

    def store(value: str | None) -> None:
        if value is not None:
            st.session_state[kept] = value
            st.query_params[name] = value

    return mirror(widget, label, f"{kept}.widget", current, store, options=options, **more) or current


def field(
    widget: Callable[..., Any],
    label: str,
    dotted: str,
    *,
    to_widget: Callable[[Any], Any] = lambda value: value,
    to_draft: Callable[[Any], Any] = lambda value: value,
    **options: Any,
) -> None:
    """Draw a widget that shows one key of the draft and writes into it.

    Args:
        widget: of Streamlit.
        label: its label.
        dotted: the key of the spec.
        to_widget, to_draft: translate between the draft's value and the widget's.
        options: for the widget.
    """

    def store(value: Any) -> None:
        if value is not None:
            state.change({dotted: to_draft(value)})

    mirror(widget, label, f"field:{dotted}", to_widget(state.value_of(dotted)), store, **options)


@dataclass(frozen=True)
class Number:
    """How a number of the spec is asked for; its bounds are the spec's own.

    Attributes:
        label, step, help, form: of the widget; `form` is its printf format.
        empty: what the widget shows where the spec has none.
        optional: it may be left out, which takes all there are, or the task's own.
        low, high: bounds of the widget where the spec sets none, or has an open one.
    """

    label: str
    step: float | None
    help: str = ""
    form: str | None = None
    empty: float | None = None
    optional: bool = False
    low: float | None = None
    high: float | None = 10_000_000


NUMBERS = {
    "seed": Number("Seed", 1, "Of adapter initialisation and data order; the first one if there are several."),
    "task.max_length": Number(
        "Max length [tokens]",
        64,
        "Prompt and answer together; longer examples are cut at the end. The model's own context counts where it is "
        "shorter.",
    ),
    "task.split_seed": Number(
        "Split seed", 1, "Shuffles a file that holds only one split before test and validation are held out."
    ),
    "task.sizes.train": Number(
        "Train examples", 100, "At most so many; empty takes all. The paper: 1,000.", optional=True
    ),
    "task.sizes.validation": Number(
        "Validation examples",
        50,
        "At most so many, kept out of training; empty takes all there are, 0 none. Their loss shows overfitting.",
        optional=True,
    ),
    "task.sizes.test": Number(
        "Test examples",
        100,
        "More examples make narrower intervals: the standard error of a share p is √(p (1 − p) / n).",
        optional=True,
    ),
    "task.max_new_tokens": Number("Max new tokens", None, "Of one answer; empty: the task's own.", optional=True),
    "sensitivity.samples": Number(
        "Seed samples",
        8,
        "N training examples with their answers. S = Σ over N seed samples of |θ · ∂L/∂θ|; the paper uses 32.",
    ),
    "sensitivity.seed": Number("Selection seed", 1),
    "mapping.seed": Number("Seed of the draw", 1, "Another seed draws other layers."),
    "extraction.seed": Number("Seed of random picks", 1, "Of structure random and of the control random offset."),
    "factorisation.rank": Number(
        "Rank r", 1, "A is (r, in), B is (out, r); the update is s·BA with scaling s = lora_alpha / r. The paper: 16."
    ),
    "factorisation.lora_alpha": Number(
        "lora_alpha", 1.0, "Scaling s = lora_alpha / r. The paper: 16.", "%g", low=0.001
    ),
    "finetuning.learning_rate": Number(
        "Learning rate", 1e-4, "η of AdamW at its highest, after the warm-up. The paper: 3e-4.", "%.1e"
    ),
    "finetuning.epochs": Number(
        "Epochs",
        1.0,
        "Passes over the training examples; 0 evaluates the injected student without training. The paper: 3.",
        "%g",
    ),
    "finetuning.batch_size": Number("Batch size", 8, "Examples per optimiser step. The paper: 64."),
    "finetuning.warmup_ratio": Number(
        "Warm-up", 0.01, "Share of the steps in which η grows from 0. The paper: 0.03.", "%g"
    ),
    "finetuning.weight_decay": Number("Weight decay", 0.01, "AdamW: θ ← θ − η·λ·θ beside the gradient's step.", "%g"),
    "finetuning.max_grad_norm": Number(
        "Gradient clipping",
        0.1,
        "A gradient g with a norm above this is scaled to it: g ← g · c / ‖g‖.",
        "%g",
        low=0.001,
        high=1e9,
    ),
    "finetuning.max_steps": Number(
        "At most steps", 10, "Optimiser steps in place of epochs; 0 means by epochs.", empty=0
    ),
    "finetuning.micro_batch_size": Number(
        "Examples at once",
        1,
        "Of a batch, in one forward pass; it must divide the batch size. 0: chosen to fit. Results do not depend on "
        "it.",
        empty=0,
        low=0,
        high=65_536,
    ),
    "finetuning.validations": Number(
        "Validations", 1, "How often the validation loss is measured during training; 0: never."
    ),
}


@lru_cache(maxsize=len(NUMBERS))
def bounds_of(dotted: str) -> tuple[float, float]:
    """Return the least and the largest value of a number's widget; both are floats where the number is one."""
    part, asked, (*parents, name) = RunSpec, NUMBERS[dotted], dotted.split(".")
    for parent in parents:
        part = part.model_fields[parent].annotation
    schema = part.model_json_schema()["properties"][name]
    schema = schema.get("anyOf", [schema])[0]  # the second is null
    high = schema.get("maximum", schema.get("exclusiveMaximum", asked.high + 1) - 1)
    kind = float if schema["type"] == "number" else int
    return kind(schema["minimum"] if asked.low is None else asked.low), kind(high)


def number(dotted: str, box: Any = st, *, label: str = "", tip: str = "") -> None:
    """Draw a number of the draft as `NUMBERS` says.

    Args:
        dotted: the key of the spec.
        box: where.
        label, tip: in place of the table's, where the page has more to say.
    """
    asked, (low, high), box = NUMBERS[dotted], bounds_of(dotted), varied(dotted, box)
    label = label or asked.label
    shown = {"min_value": low, "max_value": high, "step": asked.step, "help": tip or asked.help or None}
    if asked.optional:
        value, key = state.value_of(dotted), f"field:{dotted}"
        options = {"placeholder": "all", "value": None, **shown}
        mirror(box.number_input, label, key, value, lambda chosen: state.change({dotted: chosen}), **options)
        return
    field(
        box.number_input,
        label,
        dotted,
        format=asked.form,
        to_widget=lambda value: asked.empty if value is None else type(low)(value),
        to_draft=lambda value: None if asked.empty is not None and value == asked.empty else value,
        **shown,
    )


def choice(
    label: str,
    dotted: str,
    options: Iterable[str],
    tip: str,
    shown: Callable[[str], str] = lambda name: name.replace("_", " "),
    box: Any = st,
) -> None:
    """Draw the choice of one of a few values of the draft; one that is none of them is offered, too."""
    names = list(options)
    current = state.value_of(dotted)
    names += [] if current in names else [current]
    field(varied(dotted, box).selectbox, label, dotted, options=names, help=tip, format_func=shown)


def model_field(label: str, dotted: str, tip: str, box: Any = st) -> None:
    """Draw the choice of a model; anything typed is taken as a folder or hub id."""
    labels = offers.bundled_models()
    _source(label, dotted, labels, lambda source: source_label(source, 60), f"{tip} {TYPED}.", box)


def task_field(box: Any = st) -> None:
    """Draw the choice of a task; anything typed is taken as a data file, a folder, or hub:ID."""
    tip = (
        "Choose a bundled task, or type the path of a data file (.jsonl, .csv, .txt), a folder of split files, or "
        "hub:ID."
    )
    _source("Task", "task.source", offers.bundled_tasks(), lambda source: task_label(source, 60), tip, box)


def _source(label: str, dotted: str, labels: Mapping[str, str], name: Callable[[str], str], tip: str, box: Any) -> None:
    current = state.value_of(dotted)
    field(
        box.selectbox,
        label,
        dotted,
        options=[*labels, *([] if current in labels else [current])],
        format_func=lambda source: labels.get(source) or name(source),
        accept_new_options=True,
        to_draft=str.strip,
        help=tip,
    )


def origin_switch(
    key: str, source: str, of_source: str, origins: Mapping[str, str], what: str, tip: str | None = None
) -> str:
    """Draw where a source is taken from; what was switched to counts until the draft names another source.

    Args:
        key: where the session keeps the switch.
        source, of_source: the draft's source, and where that one is from.
        origins: what can be chosen, with its label.
        what: `models` or `tasks`, for the sentence of the demo mode.
        tip: the switch's help.
    """
    if state.access().demo:
        st.caption(f"Demo mode: bundled {what} only.")
        return "bundled"
    chosen, for_source = st.session_state.get(key, ("", None))
    origin = chosen if for_source == source else of_source
    # Where visitors may not name hub ids, only a draft that has one already shows it.
    offered = [name for name in origins if state.access().hub_allowed or name not in FROM_HUB or name == origin]

    def store(name: str) -> None:
        st.session_state[key] = (name, source)

    shown = {"options": offered, "format_func": origins.get, "required": True, "help": tip}
    mirror(st.segmented_control, "From", f"{key}.widget", origin, store, **shown)
    return origin


def origin_pills(student_roles: Sequence[str]) -> None:
    """Draw which modules give a block: a group is lit when all its roles are, so nothing can be chosen twice.

    Args:
        student_roles: the roles that the student has; empty while nobody knows, which offers all that there are.
    """
    roles = [role for role in ROLES if role in student_roles] or list(ROLES)
    chosen = [role for role in state.draft().extraction.roles if role in roles]
    groups = [group for group in GROUPS if any(GROUP_OF_ROLE[role] == group for role in roles)]
    whole = [group for group in groups if all(role in chosen for role in roles if GROUP_OF_ROLE[role] == group)]

    def put(names: list[str]) -> None:
        if names:
            state.change({"extraction.origin": list(normal_origin(names, roles))})
        else:
            state.tell("origin: nothing would give a block; choose at least one role")

    def take_groups(lit: list[str]) -> None:
        added, removed = set(lit) - set(whole), set(whole) - set(lit)
        put([r for r in roles if GROUP_OF_ROLE[r] in added or (r in chosen and GROUP_OF_ROLE[r] not in removed)])

    def take_roles(lit: list[str]) -> None:
        put([role for role in roles if role in lit])

    left, right = st.container(key="stack-fields-origin").columns([1, 2.1])
    pills = {"selection_mode": "multi", "wrap": True}
    tip = "Which modules give a block; a group is all its roles."
    mirror(
        varied("extraction.origin", left).pills,
        "Origin by group",
        GROUP_KEY,
        whole,
        take_groups,
        options=groups,
        help=tip,
        **pills,
    )
    tip = "Only these modules get an adapter; the rest stays as it is."
    mirror(right.pills, "Origin by role", ROLE_KEY, chosen, take_roles, options=roles, help=tip, **pills)
