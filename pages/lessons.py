"""Lessons: five guided experiments. Predict, run, explain, go on."""

import csv
import io

import streamlit as st

from pages._ui.frame import layout, state
from pages._ui.frame.layout import plain
from pages._ui.lessons import runs as lesson_runs
from pages._ui.lessons.runs import Found
from paraknow_core.display import duration
from paraknow_core.errors import ParaknowError
from paraknow_core.figures import lessons as charts
from paraknow_core.studies.lessons import LESSONS, Explanation, Lesson

PLOT = {"displaylogo": False, "toImageButtonOptions": {"format": "svg"}}
ANSWERS = "lessons.answers"  # number of a lesson -> the key that was predicted


def asked() -> Lesson | None:
    """Return the lesson that the address names; anything else is said, and all lessons are shown."""
    text = st.query_params.get("lesson", "")
    if not text:
        return None
    found = next((one for one in LESSONS if str(one.number) == text.strip()), None)
    if found is None:
        layout.say(f"lesson '{text[:40]}': there is none of this number; choose one of 1 to {len(LESSONS)}")
    return found


def overview() -> None:
    """Draw the list of lessons."""
    st.markdown(
        "Short experiments on the bundled models: you predict, the machine measures, the numbers decide. "
        "Times are for two cores; runs that are there already are used again."
    )
    wait = lesson_runs.wait_before(1, "A lesson's")
    if wait:
        st.info(plain(f"The queue is busy. {wait}"), icon=":material/hourglass_empty:")
    for one in LESSONS:
        found = lesson_runs.find(one)
        with st.container(border=True):
            left, right = st.columns([5, 1.3], vertical_alignment="center")
            left.markdown(f"**{one.number}. {plain(one.title)}**  \n{plain(one.question)}")
            word = (
                "results are there"
                if found.done
                else f"{found.finished} of {len(one.specs)} runs done"
                if (found.finished)
                else f"{len(one.specs)} runs, about {duration(one.seconds)}"
            )
            left.caption(plain(word))
            right.button(
                "Open",
                key=f"lesson.open.{one.number}",
                icon=":material/arrow_forward:",
                width="stretch",
                on_click=_open,
                args=(one.number,),
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
    found = lesson_runs.find(lesson)
    if found.done:
        explain(lesson, found, answer)
    else:
        run(lesson, found)


def navigation(lesson: Lesson) -> None:
    """Draw the way to the other lessons."""
    with st.container(horizontal=True, gap="small"):
        st.button("All lessons", icon=":material/school:", type="tertiary", on_click=_open, args=(None,))
        for one in LESSONS:
            label = f"**{one.number}**" if one is lesson else str(one.number)
            st.button(
                label,
                help=one.title,
                key=f"lesson.go.{one.number}",
                type="tertiary",
                disabled=one is lesson,
                on_click=_open,
                args=(one.number,),
            )


def predict(lesson: Lesson) -> str | None:
    """Draw the choice of a prediction; return it once it is made. Results are not shown before."""
    answers = st.session_state.setdefault(ANSWERS, {})
    st.subheader("Predict", anchor=False)
    given = answers.get(lesson.number)
    if given is not None:
        left, right = st.columns([5, 1.2], vertical_alignment="center")
        left.markdown(f"You predicted: **{plain(lesson.options[given])}**")
        if right.button("Start over", icon=":material/restart_alt:", width="stretch", help="Predict again."):
            del answers[lesson.number]
            st.rerun()
        return given
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


def run(lesson: Lesson, found: Found) -> None:
    """Draw what will be computed and its cost, or how far it is."""
    st.subheader("Run", anchor=False)
    if found.active:
        _follow(lesson)
        return
    lesson_runs.problems(found)
    st.markdown(
        f"{plain(lesson_runs.cost(lesson, found))} on two cores. You can leave this page meanwhile; the runs go on."
    )
    wait = lesson_runs.wait_before(len(found.missing))
    if wait:
        st.info(plain(wait), icon=":material/hourglass_empty:")
    if st.button("Run the experiment", type="primary", icon=":material/play_arrow:"):
        lesson_runs.submit(lesson, found)
    with st.expander("What will be run", icon=":material/list:"):
        lesson_runs.table(lesson, found)


def _follow(lesson: Lesson) -> None:
    def tick() -> None:
        found = lesson_runs.find(lesson)
        if not found.active:
            st.rerun()
        lesson_runs.progress(lesson, found)

    st.fragment(tick, run_every=1.5)()


def explain(lesson: Lesson, found: Found, answer: str) -> None:
    """Draw what the runs say, the prediction beside it, and what to try next."""
    st.subheader("What came out", anchor=False)
    try:
        made = explanation(lesson.number, tuple((label, run.id) for label, run in found.runs.items()))
    except (ParaknowError, KeyError, TypeError, ValueError) as error:
        damaged = "lesson: the files of one of its runs are damaged; delete that run and run the lesson again"
        layout.say(error if isinstance(error, ParaknowError) else damaged)
        lesson_runs.table(lesson, found)
        return
    _verdict(lesson, made, answer)
    row = st.container(key="stack-pictures-lesson").columns(len(made.panels), gap="medium")
    for number, (panel, column) in enumerate(zip(made.panels, row, strict=True)):
        column.plotly_chart(
            charts.panel_figure(panel, dark=layout.is_dark()),
            theme=None,
            config=PLOT,
            alt=charts.alternative(panel),
            key=f"lesson:{lesson.number}:{number}",
        )
    st.subheader("In words", anchor=False)
    st.markdown("\n".join(f"- {plain(sentence)}" for sentence in made.sentences))
    with st.container(horizontal=True):
        st.download_button(
            "Numbers as CSV",
            _csv(made),
            f"lesson-{lesson.number}.csv",
            "text/csv",
            icon=":material/download:",
            on_click="ignore",
        )
        with st.popover("The runs", icon=":material/list:"):
            lesson_runs.table(lesson, found)
    _next(lesson)


def _verdict(lesson: Lesson, made: Explanation, answer: str) -> None:
    """Say whether the prediction came true, from the numbers alone."""
    if not made.right:
        st.info(plain(f"These runs do not decide it: {made.why}"), icon=":material/help:")
    elif made.right == answer:
        st.success(
            plain(f"As you predicted: {lesson.options[answer]}. {made.why[:1].upper()}{made.why[1:]}"),
            icon=":material/check_circle:",
        )
    else:
        st.warning(
            plain(
                f"You predicted: {lesson.options[answer]}. The numbers say: {lesson.options[made.right]}. "
                f"{made.why[:1].upper()}{made.why[1:]}"
            ),
            icon=":material/lightbulb:",
        )


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
    following = next((one for one in LESSONS if one.number == lesson.number + 1), None)
    if following is not None:
        st.button(
            plain(f"Lesson {following.number}: {following.title}"),
            icon=":material/school:",
            on_click=_open,
            args=(following.number,),
        )


def _csv(made: Explanation) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["picture", "row", "unit", "value", "low", "high", "single values"])
    for panel in made.panels:
        for row in panel.rows:
            singles = " ".join(f"{value:.6g}" for value in row.points)
            writer.writerow([panel.title, row.label, panel.unit, row.value, row.low, row.high, singles])
    return out.getvalue()


# Finished runs do not change: their ids name what they say.
@st.cache_data(max_entries=50, show_spinner="Comparing the runs …")
def explanation(number: int, runs: tuple[tuple[str, str], ...]) -> Explanation:
    """Return what the runs of a lesson say."""
    from paraknow_core.runs.folder import find_run

    place = state.place()
    lesson = next(one for one in LESSONS if one.number == number)
    return lesson.explain(place, {label: find_run(place, run_id) for label, run_id in runs})


with layout.page("Lessons"):
    chosen = asked()
    if chosen is None:
        overview()
    else:
        steps(chosen)
