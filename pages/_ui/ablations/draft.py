"""The study draft: its arms, factors, seeds and rules, all of which Start takes as they are."""

from typing import Any

import streamlit as st

from pages._ui.frame import state
from pages._ui.frame.fields import mirror
from pages._ui.frame.layout import plain
from paraknow_core.catalogue import ARMS
from paraknow_core.display import source_label
from paraknow_core.errors import SpecError
from paraknow_core.studies.study import RATE, StudySpec, Tuning
from paraknow_core.studies.words import unit_text
from paraknow_core.workbench.uploads import task_label
from paraknow_core.workbench.views import study_draft as view

POINTS = (0, 3, 5, 7, 9)
HOLD = {"steps": "steps", "tokens": "tokens", "parameters": "trainable parameters"}
HOLD_HELP = "What is held equal to the base where a factor would change it. Where it cannot be, the table of arms says."
MARGIN_HELP = (
    "A smaller difference does not matter. It is declared before the start, written into the study and cannot be "
    "changed afterwards: `equivalent` means that the interval lies within it."
)
TUNING_HELP = (
    "Each arm trains at so many rates, a quarter of a decade apart, is judged by its validation loss alone, and is "
    "tested at the best one. At one fixed rate, an arm may win because the rate suits it."
)
SEEDS_HELP = (
    "With fewer than 6 seeds no difference can be more than undecided: an exact test cannot reach 5 %. More arms need "
    "more seeds, as each is one more comparison (Holm)."
)


def draw() -> StudySpec:
    """Draw everything about the study that can be set; return it."""
    study = state.study()
    _base(study)
    _arms(study)
    for factor in view.FACTORS.values():
        _factor(study, factor)
    for key, words in view.other_factors(study).items():
        _other(key, words)
    _rules(study)
    return study


def _base(study: StudySpec) -> None:
    base, own = study.base, state.whole_study().own_base
    teacher, student = (source_label(model.source, 28) for model in (base.teacher, base.student))
    task = task_label(base.task.source, 28)
    left, right = st.columns([5, 1.3], vertical_alignment="center")
    whose = "as its preset or file says" if own else "the draft"
    left.markdown(
        f"**Base:** {plain(whose)} :gray[{plain(f'{teacher} → {student} on {task}; {view.base_words(study)}')}]"
    )
    if own:
        right.button(
            "Use the draft",
            icon=":material/sync:",
            width="stretch",
            help="Takes the draft of a run, as Mapping and Train show it, as the base from now on.",
            on_click=lambda: state.replace_study(state.whole_study().model_copy(update={"own_base": False})),
        )
    else:
        right.page_link("pages/train.py", label="Change it on Train", icon=":material/show_chart:")


def _row(label: str, tip: str = "") -> Any:
    """Return the box beside a label."""
    left, right = st.container(key=f"ablations-row-{label}").columns([1.25, 6.5], vertical_alignment="center")
    left.markdown(f"**{label}**", help=plain(tip) if tip else None)
    return right


def _arms(study: StudySpec) -> None:
    def store(names: list[str]) -> None:
        try:
            state.change_study(**view.with_arms(state.study(), names))
        except SpecError as error:
            state.tell(error)

    options, ticked = view.arms_to_tick(study)
    box = _row("Arms", "Each is the base with the changes of its row in the catalogue; all run with the same seeds.")
    shown = {"options": options, "format_func": lambda name: ARMS[name].label, "selection_mode": "multi", "wrap": True}
    mirror(box.pills, "Arms", "ablations.arms", ticked, store, label_visibility="collapsed", **shown)
    own = [arm.label or arm.name for arm in study.arms if not isinstance(arm, str)]
    if own:
        box.caption(plain(f"and of its own: {', '.join(own)}"))


def _factor(study: StudySpec, factor: view.Factor) -> None:
    def store(choices: list[Any]) -> None:
        state.change_study(**view.with_factor(state.study(), factor.key, choices))

    options, ticked = view.choices_of(factor, study)
    shown = {"options": options, "format_func": view.choice_text, "selection_mode": "multi", "wrap": True}
    box = _row(factor.label, factor.tip())
    key = f"ablations.factor.{factor.key}"
    mirror(box.pills, factor.label, key, ticked, store, label_visibility="collapsed", **shown)


def _other(key: str, words: str) -> None:
    left, middle, right = st.columns([1, 5.2, 1.3], vertical_alignment="center")
    left.markdown(f"**{plain(key)}**")
    middle.markdown(plain(words))
    right.button(
        "Leave it out",
        key=f"ablations.without.{key}",
        icon=":material/close:",
        type="tertiary",
        on_click=lambda: state.change_study(**view.with_factor(state.study(), key, [])),
    )


def _rules(study: StudySpec) -> None:
    """Draw what every arm is measured with."""
    boxes = st.container(key="stack-fields-study").columns([1.4, 1, 1, 1.2, 1.9], vertical_alignment="bottom")
    labels = view.arm_labels(study)
    against = {"options": list(labels), "format_func": labels.get, "help": "All other arms are judged against it."}
    mirror(boxes[0].selectbox, "Judge against", "ablations.against", study.against, _store("against"), **against)
    seeds = {"min_value": 1, "max_value": 100, "step": 1, "help": SEEDS_HELP}
    mirror(boxes[1].number_input, "Seeds", "ablations.seeds", len(study.seeds), _seeds, **seeds)
    points = study.tuning.points if study.tuning else 0
    options = sorted({*POINTS, points})
    words = {0: "not tuned"}
    tuned = {"options": options, "format_func": lambda n: words.get(n, f"{n} rates"), "help": TUNING_HELP}
    mirror(boxes[2].selectbox, "Learning rates", "ablations.tuning", points, _tune, **tuned)
    unit = unit_text(study.unit)
    margin = {"min_value": 0.01, "step": 0.1, "format": "%g", "help": MARGIN_HELP}
    mirror(boxes[3].number_input, f"Margin [{unit}]", "ablations.margin", view.shown_margin(study), _margin, **margin)
    hold = {"options": list(HOLD), "format_func": HOLD.get, "selection_mode": "multi", "help": HOLD_HELP}
    mirror(boxes[4].pills, "Held equal", "ablations.hold", list(study.hold), _store("hold"), **hold)
    name, question = st.container(key="stack-fields-name").columns([1, 2.6])
    mirror(name.text_input, "Name", "ablations.name", study.name, _store("name"), max_chars=80)
    asked = {"max_chars": 400, "placeholder": "What it asks, for people"}
    mirror(question.text_input, "Question", "ablations.question", study.question, _store("question"), **asked)


def _store(key: str) -> Any:
    return lambda value: None if value is None else state.change_study(**{key: value})


def _seeds(number: int | None) -> None:
    if number:
        state.change_study(seeds=view.seeds_from(state.study(), int(number)))


def _tune(points: int) -> None:
    study = state.study()
    if not points:
        state.change_study(tuning=None)
        return
    tuning = (study.tuning or Tuning()).model_dump(mode="json")
    change = view.with_factor(study, RATE, ())  # a rate is either chosen by the study or varied by hand
    state.change_study(**change, tuning={**tuning, "points": points})


def _margin(shown: float | None) -> None:
    if shown:
        state.change_study(margin=view.margin_of(state.study(), shown))
