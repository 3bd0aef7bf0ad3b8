"""Remembering what was read from files until one of them is written again, or for as long as one look at them lasts."""

import gc
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from threading import Lock, local
from typing import Any

from paraknow_core.files.disk import file_stamp

EVERY_RUN = 100_000  # results of a function that lists ask of each run: with fewer, a longer list would keep none
MANY = 1_000  # results that a look has read, after which they are kept apart


class _Look(local):
    """What the look of this thread has seen; None outside of one."""

    seen: dict[tuple, tuple[tuple, Any]] | None = None
    read: int = 0  # results of `while_unchanged` that were not remembered before
    paused: bool = False  # whether it has paused the garbage collector


_look = _Look()


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
                _note_reading()
            with lock:
                while len(kept) >= most:
                    del kept[next(iter(kept))]
                kept[arguments] = found
            return found[1]

        return look_up

    return remember


@contextmanager
def one_look() -> Iterator[None]:
    """Look at the files once: until the end, functions that are `once_a_look` return what they returned at first.

    A draw of a page and a command are one look; the next one reads again. A look within another is part of that.
    """
    if _look.seen is not None:
        yield
        return
    _look.seen, _look.read = {}, 0
    try:
        yield
    finally:
        _look.seen = None
        if _look.read >= MANY:
            _keep_apart()


def _note_reading() -> None:
    """Count what a look reads; one that reads much collects no garbage until its end.

    The collector would walk all that was read again and again, which takes longer than to read it.
    """
    _look.read += 1
    if _look.read == MANY and _look.seen is not None and gc.isenabled():
        gc.disable()
        _look.paused = True


def _keep_apart() -> None:
    """Take what is remembered out of the garbage collector's sight: to walk ten thousand runs takes longer than a draw.

    What is dropped is freed all the same, cycles when a look reads as much again.
    """
    if gc.get_freeze_count():
        gc.unfreeze()
        gc.collect()
    gc.freeze()
    if _look.paused:
        gc.enable()
        _look.paused = False


def once_a_look(files: Callable[..., Iterable[Path | str]]) -> Callable[[Callable], Callable]:
    """Call a function once in each look with the same arguments, which must be hashable; outside of looks every time.

    Args:
        files: from the arguments of a call, what must be the same as at the first one even within a look: the folder
            to which a click in the middle of a draw adds. The result must not be changed.
    """

    def remember(read: Callable) -> Callable:
        @wraps(read)
        def look_up(*arguments: Any) -> Any:
            seen = _look.seen
            if seen is None:
                return read(*arguments)
            key, stamps = (look_up, *arguments), tuple([file_stamp(file) for file in files(*arguments)])
            if key not in seen or seen[key][0] != stamps:
                seen[key] = stamps, read(*arguments)
            return seen[key][1]

        return look_up

    return remember


def once_each(work: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Remember what a function returns for an object, itself and not its like, for as long as that lives.

    For frozen objects that are dear to hash; the result must not be changed.
    """
    kept: dict[int, tuple[weakref.ref, Any]] = {}

    @wraps(work)
    def look_up(thing: Any) -> Any:
        number = id(thing)
        found = kept.get(number)
        if found is None or found[0]() is not thing:
            found = weakref.ref(thing, lambda _: kept.pop(number, None)), work(thing)
            kept[number] = found
        return found[1]

    return look_up
