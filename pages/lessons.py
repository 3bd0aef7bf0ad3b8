"""Lessons: five guided experiments. Predict, run, explain, go on."""

import streamlit as st

from pages._ui.frame import layout, state
from pages._ui.frame.layout import download, info, plain, say, warn
from pages._ui.frame.page import page
from pages._ui.lessons import runs as drawn_runs
from paraknow_core.display import duration
from paraknow_core.errors import ParaknowError
from paraknow_core.figures import lessons as charts
from paraknow_core.runs.folder import find_run
from paraknow_core.studies.lessons import LESSONS, Explanation, Lesson
from paraknow_core.studies.presets import PRESETS
from paraknow_core.workbench.study_draft import StudyDraft
from paraknow_core.workbench.views import lessons as view
from paraknow_core.workbench.views.lessons import LessonRuns

ANSWERS = "lessons.answers"  # number of a lesson -> the key that was predicted


def asked() -> Lesson | None:
    """Return the lesson that the address names; anything else is said, and all lessons are shown."""
    text = st.query_params.get("lesson", "")
    if not text:
        return None
    lesson = next((lesson for lesson in LESSONS if str(lesson.number) == text.strip()), None)
    if lesson is None:
        say(f"lesson '{text[:40]}': there is none of this number; choose one of 1 to {len(LESSONS)}")
    return lesson


def overview() -> None:
    """Draw the list of lessons."""
    st.markdown(
        "Short experiments on the bundled models: you predict, the machine measures, the numbers decide. "
        "Times are for two cores; runs that are there already are used again."
    )
    wait = view.wait_before(state.place(), 1, "A lesson's")
    if wait:
        info(plain(f"The queue is busy. {wait}"), "hourglass_empty")
    for lesson in LESSONS:
        lesson_runs = view.find(state.place(), lesson)
        with st.container(border=True):
            left, right = st.columns([5, 1.3], vertical_alignment="center")
            left.markdown(f"**{lesson.number}. {plain(lesson.title)}**  \n{plain(lesson.question)}")
            words = f"{len(lesson.specs)} runs, about {duration(lesson.seconds)}"
            words = f"{lesson_runs.finished} of {len(lesson.specs)} runs done" if lesson_runs.finished else words
            left.caption(plain("results are there" if lesson_runs.done else words))
            right.button(
                "Open",
                key=f"lesson.open.{lesson.number}",
                icon=":material/arrow_forward:",
                width="stretch",
                on_click=_open,
                args=(lesson.number,),
            )


def _open(number: int | None) -> None:
    """Put a lesson into the address: a link to the page that one is on already would leave the address as it is."""
    if number is None:
        st.query_params.pop("lesson", None)
    else:
        st.query_params["lesson"] = str(number)


def steps(lesson: Lesson) -> None:
    """Draw one lesson: question, prediction, runs, explanation."""
    navigation(lesson)
    st.header(f"{lesson.number}. {plain(lesson.title)}", anchor=False)
    st.markdown(f"**{plain(lesson.question)}**")
    st.markdown(plain(lesson.background))
    answer = predict(lesson)
    if answer is None:
        return
    lesson_runs = view.find(state.place(), lesson)
    if lesson_runs.done:
        explain(lesson, lesson_runs, answer)
    else:
        run(lesson, lesson_runs)


def navigation(lesson: Lesson) -> None:
    """Draw the way to the other lessons."""
    with st.container(horizontal=True, gap="small"):
        st.button("All lessons", icon=":material/school:", type="tertiary", on_click=_open, args=(None,))
        for other in LESSONS:
            st.button(
                f"**{other.number}**" if other is lesson else str(other.number),
                help=other.title,
                key=f"lesson.go.{other.number}",
                type="tertiary",
                disabled=other is lesson,
                on_click=_open,
                args=(other.number,),
            )


def predict(lesson: Lesson) -> str | None:
    """Draw the choice of a prediction; return it once it is explained. Results are not shown before."""
    answers = st.session_state.setdefault(ANSWERS, {})
    st.subheader("Predict", anchor=False)
    answer = answers.get(lesson.number)
    if answer is not None:
        left, right = st.columns([5, 1.2], vertical_alignment="center")
        left.markdown(f"You predicted: **{plain(lesson.options[answer])}**")
        if right.button("Start over", icon=":material/restart_alt:", width="stretch", help="Predict again."):
            del answers[lesson.number]
            st.rerun()
        return answer
    choice = st.radio(
        "What will come out?",
        list(lesson.options),
        format_func=lambda key: plain(lesson.options[key]),
        index=None,
        key=f"lesson.{lesson.number}.choice",
    )
    if st.button(
        "This is my prediction",
        type="primary",
        icon=":material/check:",
        disabled=choice is None,
        help=None if choice else "Choose an answer first: a guess is enough.",
    ):
        answers[lesson.number] = choice
        st.rerun()
    st.caption("The results are shown after you have predicted: what surprises is remembered.")
    return None


def run(lesson: Lesson, lesson_runs: LessonRuns) -> None:
    """Draw what will be computed and its cost, or how far it is."""
    st.subheader("Run", anchor=False)
    if lesson_runs.active:
        _follow(lesson)
        return
    drawn_runs.problems(lesson_runs)
    st.markdown(
        f"{plain(view.cost(lesson, lesson_runs))} on two cores. You can leave this page meanwhile; the runs go on."
    )
    wait = view.wait_before(state.place(), len(lesson_runs.missing))
    if wait:
        info(plain(wait), "hourglass_empty")
    if st.button("Run the experiment", type="primary", icon=":material/play_arrow:"):
        drawn_runs.submit_missing(lesson, lesson_runs)
    with st.expander("What will be run", icon=":material/list:"):
        drawn_runs.table(lesson, lesson_runs)


def _follow(lesson: Lesson) -> None:
    def tick() -> None:
        lesson_runs = view.find(state.place(), lesson)
        if not lesson_runs.active:
            st.rerun()
        drawn_runs.progress(lesson, lesson_runs)

    st.fragment(tick, run_every=1.5)()


def explain(lesson: Lesson, lesson_runs: LessonRuns, answer: str) -> None:
    """Draw what the runs say, the prediction beside it, and what to try next."""
    st.subheader("What came out", anchor=False)
    try:
        explained = explanation(lesson.number, tuple((label, run.id) for label, run in lesson_runs.runs.items()))
    except (ParaknowError, KeyError, TypeError, ValueError) as error:
        damaged = "lesson: the files of one of its runs are damaged; delete that run and run the lesson again"
        say(error if isinstance(error, ParaknowError) else damaged)
        drawn_runs.table(lesson, lesson_runs)
        return
    _verdict(lesson, explained, answer)
    row = st.container(key="stack-pictures-lesson").columns(len(explained.panels), gap="medium")
    for number, (panel, column) in enumerate(zip(explained.panels, row, strict=True)):
        figure = charts.panel_figure(panel, dark=layout.is_dark())
        layout.chart(figure, f"lesson:{lesson.number}:{number}", charts.alternative(panel), column)
    st.subheader("In words", anchor=False)
    st.markdown("\n".join(f"- {plain(sentence)}" for sentence in explained.sentences))
    with st.container(horizontal=True):
        download("Numbers as CSV", explained.rows(), f"lesson-{lesson.number}.csv")
        with st.popover("The runs", icon=":material/list:"):
            drawn_runs.table(lesson, lesson_runs)
    _next(lesson)


def _verdict(lesson: Lesson, explained: Explanation, answer: str) -> None:
    """Say whether the prediction came true, from the numbers alone."""
    why = f"{explained.why[:1].upper()}{explained.why[1:]}"
    if not explained.right:
        info(plain(f"These runs do not decide it: {explained.why}"), "help")
    elif explained.right == answer:
        st.success(plain(f"As you predicted: {lesson.options[answer]}. {why}"), icon=":material/check_circle:")
    else:
        words = f"You predicted: {lesson.options[answer]}. The numbers say: {lesson.options[explained.right]}. {why}"
        warn(words, "lightbulb")


def _next(lesson: Lesson) -> None:
    st.subheader("What to try next", anchor=False)
    st.markdown(plain(lesson.after))
    for preset in lesson.presets:
        st.page_link(
            preset.page,
            label=plain(preset.label),
            icon=":material/arrow_forward:",
            query_params={"preset": preset.name},
        )
    preset = PRESETS[lesson.study]
    words = f"As a study, with as many seeds as an answer takes: {preset.title}"
    if st.button(plain(words), icon=":material/science:") and state.replace_study(
        StudyDraft(study=lesson.as_study(), own_base=True)
    ):
        st.switch_page("pages/ablations.py")
    following = next((other for other in LESSONS if other.number == lesson.number + 1), None)
    if following is not None:
        st.button(
            plain(f"Lesson {following.number}: {following.title}"),
            icon=":material/school:",
            on_click=_open,
            args=(following.number,),
        )


# Finished runs do not change: their ids name what they say.
@st.cache_data(max_entries=50, show_spinner="Comparing the runs …")
def explanation(number: int, runs: tuple[tuple[str, str], ...]) -> Explanation:
    """Return what the runs of a lesson say."""
    place, lesson = state.place(), next(lesson for lesson in LESSONS if lesson.number == number)
    return lesson.explain(place, {label: find_run(place, run_id) for label, run_id in runs})


with page("Lessons"):
    chosen = asked()
    if chosen is None:
        overview()
    else:
        steps(chosen)
