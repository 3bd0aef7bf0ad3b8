"""What stands on every page: who can reach the server, the strip with the draft and its menu, title and address."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from html import escape
from pathlib import Path

import streamlit as st

from pages._ui.frame import presets, router, state
from pages._ui.frame.layout import chip, download, info, plain, say, sentences, warn
from paraknow_core.display import shorten, source_label
from paraknow_core.engines import queue
from paraknow_core.errors import ParaknowError
from paraknow_core.files.remember import one_look
from paraknow_core.runs.folder import list_runs
from paraknow_core.spec import RunSpec, parse_yaml
from paraknow_core.workbench import reading
from paraknow_core.workbench.draft import differing
from paraknow_core.workbench.study_draft import StudyDraft
from paraknow_core.workbench.uploads import task_label
from paraknow_core.workbench.views import ablations
from paraknow_core.workbench.views.study_draft import grid_words

STYLE = Path(__file__).parents[1] / "style.css"
IMPORTED = "import.outcome"  # sentence, and the spec that it made the draft
# Streamlit makes an entry of the browser's history of every change of the address. What a page notes there by itself,
# and how it is looked at, are no steps: Back leaves the page. Another lesson, study and other answers are. Nobody's
# text is ever put into this script.
HISTORY = """<script type="text/javascript">
if (!window.pkHistory) {
  window.pkHistory = true;
  const push = history.pushState.bind(history), replace = history.replaceState.bind(history);
  history.pushState = (state, title, url) => {
    const to = new URL(url ?? "", location.href), here = new URL(location.href);
    const steps = ["lesson", "generation", "study"].some(
      name => to.searchParams.has(name) && to.searchParams.get(name) !== here.searchParams.get(name));
    (to.pathname !== here.pathname || steps ? push : replace)(state, title, url);
  };
  // What the first page noted before this script was there has become an entry: go back, and it is noted once more.
  const opened = new URL(performance.getEntriesByType("navigation")[0].name);
  if (opened.pathname === location.pathname && opened.search !== location.search) history.back();
}
</script>"""


@contextmanager
def page(title: str) -> Iterator[None]:
    """Draw strip and title, then the page's body; what the user can mend in it becomes a sentence."""
    with one_look():  # at the runs: of thousands, each part of a page would list and read all again
        yield from _page(title)


def _page(title: str) -> Iterator[None]:
    router.require_router()
    st.html(STYLE)
    st.html(router.icons())
    with st.container(key="history"):
        st.html(HISTORY, unsafe_allow_javascript=True)
    _banner()
    _strip()
    st.title(title, anchor=False)
    problem = state.take_problem()
    if problem:
        say(problem)
    read = state.changes_read()
    with sentences():
        unknown = presets.take()
        if unknown:
            say(unknown)
        yield
    state.show_changes(read)  # one that comes while the page is drawn may not be on it


def _banner() -> None:
    """Say who else can reach this server, which of its guards are switched off, and what the demo mode leaves out."""
    access = state.access()
    off = [name for name in ("server.enableXsrfProtection", "server.enableCORS") if not st.get_option(name)]
    if off:
        say(
            f"server: {' and '.join(off)} is switched off, so a foreign web page could act in your name; start the "
            "workbench with `python -m paraknow_core ui`"
        )
    if access.open_to:
        warn(
            f"Open to other machines ({access.open_to}): everyone who can reach it can start and stop runs and read "
            "all results. There is no password and no encryption.",
            "public",
        )
    if access.demo:
        info(
            "Demo mode: bundled models and tasks, small runs. Nothing is uploaded or deleted, and the draft is yours "
            "alone.",
            "school",
        )


def _strip() -> None:
    left, right = st.columns([8, 1], vertical_alignment="center", wrap=False)
    just_read = [_active()]  # reading every run is the dearest part of a draw: the first one takes what is known

    @one_look()
    def draw() -> None:
        _strip_text(just_read.pop() if just_read else _active())

    with left:
        st.fragment(draw, run_every=2.0 if just_read[0] else 15.0)()
    with right, st.popover("Spec", width="stretch", help="The draft as a file: what runs is exactly this."):
        _spec_menu()


def _spec_menu() -> None:
    """Draw the draft as YAML to copy or download, the command that runs it, and the way to bring one in."""
    yaml = state.draft().to_yaml()
    st.caption("The draft. What runs is exactly this; copy it with the button in its corner.")
    st.code(yaml, language="yaml", height=300)
    st.caption("Save it as `spec.yaml`; this computes the same:")
    st.code("python -m paraknow_core run spec.yaml", language="bash")
    download("Download spec.yaml", yaml, "spec.yaml", width="stretch")
    with st.form("import", border=False, enter_to_submit=False):
        st.text_area(
            "Import YAML",
            key="import.text",
            height=90,
            max_chars=200_000,
            placeholder="Paste a spec, or only the keys that differ from the defaults.",
        )
        _say_import()
        st.form_submit_button("Import", icon=":material/upload:", width="stretch", on_click=_import)
    if st.button(
        "Back to the defaults", icon=":material/restart_alt:", width="stretch", disabled=not state.changed_settings()
    ):
        st.session_state.pop(IMPORTED, None)
        if state.replace_spec(RunSpec()):
            st.toast("The draft is back at its defaults.", icon=":material/restart_alt:")
        st.rerun()


def _import() -> None:
    """Replace the draft by the pasted spec; a bad one is named and changes nothing. What came of it is kept to say."""
    text, before = st.session_state.get("import.text", ""), state.draft()
    try:
        if not text.strip():
            raise ParaknowError("Import YAML: nothing was pasted; paste a spec, e.g. from `spec show`")
        spec = parse_yaml(text, where="imported spec")
    except ParaknowError as error:
        st.session_state[IMPORTED] = (str(error), None)
        return
    done = state.replace_spec(spec)
    problem = state.take_problem()
    if problem or not done:
        st.session_state[IMPORTED] = (problem or "imported spec: it was refused", None)
        return
    st.session_state["import.text"] = ""
    keys = differing(before, spec)
    more = f" and {len(keys) - 6} more" if len(keys) > 6 else ""
    words = f"it changes {', '.join(keys[:6])}{more}" if keys else "it is what the draft was already"
    st.session_state[IMPORTED] = (f"Imported: {words}.", spec)
    st.toast(plain("The draft is now the imported spec."), icon=":material/check:")


def _say_import() -> None:
    """Say what came of the last import, where it was pasted: the page's own top lies under this menu."""
    words, spec = st.session_state.get(IMPORTED, ("", None))
    if not words:
        return
    if spec is None:
        say(words)
    elif spec == state.draft():  # nobody has gone on changing it
        st.success(plain(words), icon=":material/check:")


def _strip_text(active: list[tuple[str, str, str, float]]) -> None:
    with suppress(OSError):  # every page comes by here: what waits goes on, whichever one is open
        queue.ensure(state.place())
    draft = state.draft()
    changed = state.changed_settings()
    hint = escape(", ".join(changed) or "all settings are at their defaults", quote=True)
    edits = "defaults" if not changed else f"{len(changed)} change{'s' if len(changed) > 1 else ''}"
    pair = (
        f'<span><b title="{escape(draft.teacher.source)}">{escape(source_label(draft.teacher.source, 32))}</b> → '
        f'<b title="{escape(draft.student.source)}">{escape(source_label(draft.student.source, 32))}</b></span>'
    )
    task = f'<span class="pk-quiet">task</span> {escape(task_label(draft.task.source, 32))}'
    st.html(
        f'<div class="pk-strip" data-testid="strip">{pair}<span>{task}</span>'
        f'<span title="{hint}"><span class="pk-quiet">draft</span> {edits}</span>{_studies()}'
        f"<span>{_jobs(active)}</span></div>"
    )


def _studies() -> str:
    """Return the study draft in few words, where it was touched, and the studies that are going on."""
    parts = []
    if state.whole_study() != StudyDraft():
        study = state.study()
        words = shorten(grid_words(study), 48)
        parts.append(f'<span title="{escape(study.name)}"><span class="pk-quiet">study</span> {escape(words)}</span>')
    going = [line for line in ablations.lines(state.place()) if line.status.active]
    parts += [f"<span>{chip(line.status.state)} {escape(shorten(line.name, 32))}</span>" for line in going[:2]]
    parts += [f"<span>{len(going) - 2} more studies</span>"] if len(going) > 2 else []
    return "".join(parts)


def _active() -> list[tuple[str, str, str, float]]:
    active, order = [], queue.read(state.place())
    for run in list_runs(state.place())[:200]:
        status = reading.status(run)
        if status.active and not queue.never_started(run, order):
            active.append((run.id, status.state, status.stage, status.fraction))
    return active


def _jobs(active: list[tuple[str, str, str, float]]) -> str:
    working = [job for job in active if job[1] != "queued"]
    waiting = len(active) - len(working)
    if not active:
        return '<span class="pk-quiet">no run active</span>'
    names = reading.names(state.place())
    parts = [
        f'<span title="{escape(names.get(run_id, run_id))}">{chip(word)} {escape(shorten(stage, 24))} '
        f"{100 * fraction:.0f} %</span>"
        for run_id, word, stage, fraction in working[:2]
    ]
    parts += [f"{len(working) - 2} more"] if len(working) > 2 else []
    parts += [f"{waiting} queued"] if waiting else []
    return " · ".join(parts)
