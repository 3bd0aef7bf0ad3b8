"""How commands print: results on stdout (for machines one JSON document), sentences and progress on stderr."""

import contextlib
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from paraknow_core.display import one_line

if TYPE_CHECKING:
    from rich.console import Console

    from paraknow_core.runs.status import Status

PLAIN_WIDTH = 200  # columns of a table that goes into a file or pipe
PLAIN_ROWS = 200  # a longer table is printed line by line
MOST_WIDTH = 60  # of its columns; a longer cell pushes the next ones of its line
PLAIN_EVERY_S = 10.0  # between two progress lines when stderr is no terminal


def say(text: str) -> None:
    """Print one sentence on stderr; where that is a log on a full disk, go on without it."""
    with contextlib.suppress(OSError):
        print(one_line(text), file=sys.stderr, flush=True)


def console() -> "Console":
    """Return a console for stdout that prints names as they are, never as markup."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    return Console(file=sys.stdout, markup=False, highlight=False, emoji=False, width=width)


def show(*lines: str) -> None:
    """Print lines on stdout."""
    show_text("".join(f"{one_line(line)}\n" for line in lines))


def show_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    show_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def show_table(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str = "", right: Sequence[str] = ()
) -> None:
    """Print a table on stdout.

    Args:
        columns: headings.
        rows: cells, printed as text; None leaves a cell empty.
        title: a line above.
        right: columns that hold numbers.
    """
    if len(rows) > PLAIN_ROWS:
        show_text(_plain_table(columns, rows, title, right))
        return
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else one_line(str(cell)) for cell in row))
    out = console()
    out.print(table)
    out.file.flush()


def _plain_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str, right: Sequence[str]) -> str:
    """Return a long table as text: a line a row, whatever the width; to lay it out would take seconds."""
    cells = [columns, *(["" if cell is None else one_line(str(cell)) for cell in row] for row in rows)]
    widths = [min(MOST_WIDTH, max(map(len, column))) for column in zip(*cells, strict=True)]
    sides = [">" if column in right else "<" for column in columns]
    lines = ["  ".join(f"{c:{s}{w}}" for c, s, w in zip(row, sides, widths, strict=True)).rstrip() for row in cells]
    lines.insert(1, "-" * (sum(widths) + 2 * len(widths) - 2))
    return "\n".join([*([title] if title else []), *lines, ""])


def show_text(text: str) -> None:
    """Print text on stdout as it is."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        closed_pipe()


def closed_pipe() -> NoReturn:
    """End quietly when the reader of stdout (`| head`) has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(1)


@contextlib.contextmanager
def working() -> "Iterator[Progress]":
    """Keep stdout free for the result while something computes, and draw progress on stderr."""
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings(), Progress() as progress:
        # What libraries tell programmers (deprecations, hints) is of no use to whoever runs a command.
        for category in (DeprecationWarning, FutureWarning, UserWarning):
            warnings.simplefilter("ignore", category)
        yield progress


class Progress:
    """Follows a computation: a bar with the remaining time on a terminal, else an occasional line.

    It is a `context.Reporter`, and `on_status` follows a run folder's status.
    """

    stop_requested = False

    def __init__(self) -> None:
        self._label = self._stage = ""
        self._bar: Any = None
        self._task: Any = None
        self._last_line = ("", 0.0)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def label(self, text: str) -> None:
        """Name what is computed, in front of its stage."""
        self.close()
        self._label, self._last_line = text, ("", 0.0)

    def stage(self, name: str, message: str = "") -> None:
        """Enter a stage."""
        self._stage = name
        self.progress(0, 0, message)

    def event(self, name: str, **fields: Any) -> None:
        """Show warnings and what a sensitivity or random weights will take; other events are for run folders."""
        if name == "warning":
            say(f"warning: {fields.get('message', '')}")
        elif name in ("plan", "measured", "untrained"):
            self.close()
            say(fields["message"])

    def check_stop(self) -> None:
        """Never stops: Ctrl-C does."""

    def on_status(self, status: "Status") -> None:
        """Show the status of a run; the bar is closed when the run has ended."""
        self._stage = status.stage
        if status.active:
            self.progress(status.done, status.total, "stopping" if status.state == "stopping" else status.message)
        else:
            self.close()

    def close(self) -> None:
        """Remove the bar."""
        if self._bar:
            self._bar.stop()
        self._bar = None

    def progress(self, done: float, total: float, message: str = "") -> None:
        """Show how far the stage is, in any unit."""
        text = ": ".join(part for part in (self._label, self._stage, message) if part)
        if not sys.stderr.isatty():
            self._line(text, done, total)
            return
        if self._bar is None:
            self._bar = _new_bar()
            self._task = self._bar.add_task("", total=None)
            self._bar.start()
        self._bar.update(self._task, description=one_line(text), completed=done, total=total or None)

    def _line(self, text: str, done: float, total: float) -> None:
        name = f"{self._label}/{self._stage}"
        moment = time.monotonic()
        if name == self._last_line[0] and moment - self._last_line[1] < PLAIN_EVERY_S:
            return
        self._last_line = (name, moment)
        say(f"{text} {done:g} of {total:g}" if total else text)


def _new_bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=True,
    )
