"""What the helping processes of the pages share: a folder of requests, and the loop that takes them up.

A request is a file `NAME.json`, left by a page. While it is worked on it is called `NAME.working`: one during which its
process ended is not taken up by the next, which would end as well.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paraknow_core.engines.service import Service
from paraknow_core.files.json_file import read_json, write_json
from paraknow_core.settings import usable_cores

POLL_S = 0.03


@dataclass(frozen=True)
class Inbox:
    """A folder of requests."""

    folder: Path

    def file(self, name: str) -> Path:
        """Return where a request lies until it is taken up."""
        return self.folder / f"{name}.json"

    def leave(self, name: str, content: dict[str, Any]) -> None:
        """Leave a request, from outside the process.

        Raises:
            OSError: the workspace cannot be written.
        """
        write_json(self.file(name), content, durable=False)

    def is_taken(self, name: str) -> bool:
        """Tell whether a request is being worked on."""
        return working(self.file(name)).exists()

    def contents(self, *, taken: bool) -> list[Any]:
        """Return the content of all requests that wait and, with `taken`, of those that are being worked on."""
        files = [*self.folder.glob("*.json"), *(self.folder.glob("*.working") if taken else ())]
        return [read_json(file) for file in files]

    def interrupted(self) -> Iterator[tuple[str, Any]]:
        """Yield name and content of every request during which an earlier process ended, and then remove it."""
        for file in self.folder.glob("*.working"):
            yield file.stem, read_json(file)
            file.unlink(missing_ok=True)


def working(request: Path) -> Path:
    """Return what a request's file is called while it is worked on."""
    return request.with_suffix(".working")


@contextmanager
def taken(request: Path) -> Iterator[None]:
    """Work on a request, which is gone afterwards; whatever is raised leaves it as interrupted."""
    request.replace(working(request))
    yield
    working(request).unlink(missing_ok=True)


def is_over(service: Service) -> bool:
    """Inside a process: somebody wants it to end, or nobody is left who asks for anything."""
    return service.asked_to_stop or service.left_alone


def leave_a_core(threads: int | None) -> None:
    """Let torch use this many threads; None: all cores but one, which is left to the pages and to a run."""
    import torch

    torch.set_num_threads(threads or max(1, usable_cores() - 1))


def take_turns(service: Service, turn: Callable[[], bool | None], idle_s: float) -> None:
    """Call `turn` again and again, until the process is over or had nothing to do for so long.

    Args:
        service: this process.
        turn: takes up requests; tells whether there was something to do, or returns None to end the process.
        idle_s: seconds.
    """
    last = time.monotonic()
    while not is_over(service) and time.monotonic() - last < idle_s:
        busy = turn()
        if busy is None:
            return
        if busy:
            last = time.monotonic()
        else:
            time.sleep(POLL_S)
