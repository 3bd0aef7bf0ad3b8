"""How pages draw: plain text, notices, state chips, small tables, charts, downloads, and errors as sentences."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from paraknow_core.display import file_text, shorten
from paraknow_core.errors import ParaknowError

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go

NO_SELECTION = ("select2d", "lasso2d", "autoScale2d")  # tools that a chart without selections does not need
KINDS = {
    "csv": "text/csv",
    "html": "text/html",
    "json": "application/json",
    "parquet": "application/vnd.apache.parquet",
    "yaml": "application/yaml",
    "zip": "application/zip",
}
MARKDOWN = str.maketrans({sign: f"\\{sign}" for sign in "\\`*_{}[]()#+-.!|~$<>:&"})


def plain(text: object) -> str:
    """Return text so that Markdown shows it letter by letter: names of people's files must not become layout."""
    return str(text).replace("\n", " ").translate(MARKDOWN)


def say(error: object) -> None:
    """Show a sentence about something the user can mend."""
    st.error(plain(error), icon=":material/error:")


def info(words: str, icon: str, box: Any = st) -> None:
    """Draw a notice in Markdown, e.g. what will be here, with a Material symbol."""
    box.info(words, icon=f":material/{icon}:")


def warn(words: object, icon: str, box: Any = st) -> None:
    """Draw a warning, letter by letter, with a Material symbol."""
    box.warning(plain(words), icon=f":material/{icon}:")


def say_unknown(name: str, value: str, values: Iterable[str], shown: str) -> None:
    """Say that the address asks for something that is not there.

    Args:
        name, value: of the address's parameter.
        values: what it may be.
        shown: what is shown instead.
    """
    names = list(values)
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    say(
        f"{name} '{shorten(value)}' in the address: not there; known are {', '.join(names[:8])}{more}; shown is {shown}"
    )


def chip(word: str) -> str:
    """Return a run's state as a small HTML label; the word is always written out."""
    states = ("queued", "running", "stopping", "stopped", "done", "failed", "lost")
    return f'<span class="pk-chip pk-{word if word in states else "done"}">{escape(word)}</span>'


def grid(head: Sequence[str], rows: Iterable[Sequence[str]], name: str) -> None:
    """Draw a small table that is read as a whole: long cells wrap, where an interactive one would cut them off.

    Args:
        head: names of the columns.
        rows: texts.
        name: for tests.
    """
    top = "".join(f"<th>{escape(text)}</th>" for text in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    table = f'<table class="pk-grid" data-testid="{name}"><tr>{top}</tr>{body}</table>'
    st.html(f'<div style="overflow-x: auto">{table}</div>')


def chart(
    figure: "go.Figure", key: str, alt: str, box: Any = st, *, without: Sequence[str] = (), **options: Any
) -> None:
    """Draw a chart in its own colours; it saves itself as SVG.

    Args:
        figure: what is drawn.
        key: of the widget.
        alt: what there is to see, for those who cannot.
        box: where.
        without: tools that are left out.
        options: more for `plotly_chart`, e.g. what a selection does.
    """
    config = {"displaylogo": False, "toImageButtonOptions": {"format": "svg"}, "modeBarButtonsToRemove": list(without)}
    box.plotly_chart(figure, theme=None, config=config, key=key, alt=alt, **options)


def kept_picture(name: str, key: tuple, draw: "Callable[[], go.Figure | None]") -> "go.Figure | None":
    """Return a picture that depends on nothing but its key, drawn once and shared between all windows.

    Plotly takes long to build a figure, several times what sending it does.

    Args:
        name: of the kind of picture.
        key: everything that it depends on, the reader's theme apart.
        draw: makes it; the result must not be changed.
    """
    return _kept(name, key, is_dark(), draw)


@st.cache_resource(max_entries=250, show_spinner=False)
def _kept(name: str, key: tuple, dark: bool, _draw: "Callable[[], go.Figure | None]") -> "go.Figure | None":
    del name, key, dark  # only the key under which the picture is kept
    return _draw()


def selected(key: str, kind: str) -> list:
    """Return what is selected in a chart (`points`, `box`) or a table (`rows`); empty where nothing is."""
    return ((st.session_state.get(key) or {}).get("selection") or {}).get(kind) or []


def chosen_point(key: str) -> list | None:
    """Return the custom data of the point that was clicked in a chart; None where none has any."""
    points = selected(key, "points")
    data = points[0].get("customdata") if points else None
    return list(data.values()) if isinstance(data, dict) else data


def download(
    label: str,
    content: "str | bytes | pandas.DataFrame | list[dict] | Callable[[], str | bytes | pandas.DataFrame]",
    name: str,
    box: Any = st,
    *,
    icon: str = "download",
    **options: Any,
) -> None:
    """Draw a button that gives a file.

    Args:
        label: of the button.
        content: of the file; a table, or rows of one, becomes CSV; what is called is made when it is asked for.
        name: of the file; its ending says what it holds.
        box: where.
        icon: a Material symbol.
        options: more for `download_button`.
    """
    kind = KINDS[name.rpartition(".")[2]]
    make = content if callable(content) else lambda: content
    box.download_button(
        label, lambda: file_text(make()), name, kind, icon=f":material/{icon}:", on_click="ignore", **options
    )


def is_dark() -> bool:
    """Tell whether the reader's theme is dark."""
    return st.context.theme.type == "dark"


@contextmanager
def sentences() -> Iterator[None]:
    """Say what the user can mend, a refusal or a full disk; a fragment that writes needs this of its own."""
    try:
        yield
    except ParaknowError as error:
        say(error)
    except OSError as error:
        say(unwritable(error))


def unwritable(error: OSError) -> str:
    """Return the sentence for a workspace that is full, read-only, or gone."""
    name = Path(str(error.filename)).name if error.filename else "a file"
    return (
        f"workspace: {name} cannot be written or read ({error.strerror or error}); free some space, or choose "
        "another folder with --workspace"
    )
