"""Remembering what was read from files until one of them is written again."""

from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from threading import Lock
from typing import Any

from paraknow_core.files.disk import file_stamp

EVERY_RUN = 100_000  # results of a function that lists ask of each run: with fewer, a longer list would keep none


def while_unchanged(files: Callable[..., Iterable[Path | str]], most: int) -> Callable[[Callable], Callable]:
    """Remember a function's last results, each until one of the files that it depends on is written again.

    Results are shared between all windows and must not be changed. Streamlit's cache would copy them at every look,
    which lists of hundreds of runs would feel.

    Args:
        files: from the arguments of a call, the files that its result depends on; text costs less than a `Path`.
        most: how many results are remembered, those that were asked for last.
    """

    def remember(read: Callable) -> Callable:
        kept: dict[tuple, tuple[tuple, Any]] = {}  # the last used at the end
        lock = Lock()

        @wraps(read)
        def look_up(*arguments: Any) -> Any:
            stamps = tuple([file_stamp(file) for file in files(*arguments)])
            found = kept.pop(arguments, None)
            if found is None or found[0] != stamps:
                found = stamps, read(*arguments)
            with lock:
                while len(kept) >= most:
                    del kept[next(iter(kept))]
                kept[arguments] = found
            return found[1]

        return look_up

    return remember
