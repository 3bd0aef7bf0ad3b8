"""The playground's process: holds weights, lets models write, one token of each at a time, and ends when idle.

One loop does everything: fulfil a wish, then one token of every answer that is being written. Answers of several
windows therefore grow side by side. torch is loaded with the first weights, so that looking costs next to nothing.
"""

import shutil
import time
import traceback
from pathlib import Path
from typing import Any

import psutil

from paraknow_core.errors import ParaknowError, without_panic
from paraknow_core.files.json_file import read_json, write_json
from paraknow_core.paths import Workspace
from paraknow_core.settings import load_settings
from paraknow_core.workbench.inbox import take_turns, taken
from paraknow_core.workbench.playground.protocol import Slot, Wish, folder, inbox, service
from paraknow_core.workbench.playground.serve.shelf import Shelf
from paraknow_core.workbench.playground.serve.writing import Writing, begin_writing

IDLE_S = 900.0  # weights that nobody used for so long are freed, and then the process ends
OLD_WISH_S = 60.0  # left before a restart: whoever wished has gone
MOST_KEPT = 200  # generations
ENDED = "the process that loaded this was ended, perhaps because memory ran out; free others first"


def serve(place: Workspace) -> None:
    """Fulfil wishes until asked to stop or idle."""
    own = service(place)
    with own.hold() as mine:
        if mine:
            process = read_json(own.folder / "process.json")  # what the pages compare with
            loop = Loop(place, [process["pid"], process["process_started"]])
            loop.clean_up()
            take_turns(own, loop.step, IDLE_S)


class Loop:
    """The loop's state: what is loaded and what is being written."""

    def __init__(self, place: Workspace, owner: list) -> None:
        """Args: place: the workspace; owner: names this process for good."""
        self.place, self.owner = place, owner
        self.shelf = Shelf(place, load_settings(place), self._tell)
        self.writings: list[Writing] = []
        self._report_memory()

    def step(self) -> bool:
        """Fulfil the oldest wish and write one token of every answer; False if there was nothing to do."""
        self.shelf.free_unused(IDLE_S)
        file = min(inbox(self.place).folder.glob("*.json"), default=None)
        if file is not None:
            self._fulfil(file)
        for writing in list(self.writings):
            if not writing.step():
                self.writings.remove(writing)
                self._report_memory()
        return file is not None or bool(self.writings)

    def clean_up(self) -> None:
        """Forget what an earlier process left behind: what ended it must not end this one."""
        for old in (folder(self.place) / "models").glob("*.json"):
            old.unlink(missing_ok=True)
        for _, content in inbox(self.place).interrupted():
            wish = _wish(content)
            if wish is not None and wish.slot is not None:
                self._tell(wish.slot, {"state": "failed", "error": f"playground: {ENDED}"})
        for file in inbox(self.place).folder.glob("*.json"):
            if time.time() - file.stat().st_mtime > OLD_WISH_S:
                file.unlink(missing_ok=True)
        for old in sorted((folder(self.place) / "generations").glob("*"), reverse=True)[MOST_KEPT:]:
            shutil.rmtree(old, ignore_errors=True)

    def _fulfil(self, file: Path) -> None:
        """Do what a file asks for, once: what ends the process is not tried again by the next one."""
        wish = _wish(read_json(file))
        with taken(file):
            for slot in self.shelf.take_replaced():
                self._hold("free", slot)
            if wish is not None and wish.do == "generate":
                self._begin(wish.id)
            elif wish is not None and wish.slot is not None:
                self._hold(wish.do, wish.slot)

    def _begin(self, name: str) -> None:
        try:
            with without_panic():
                writing = begin_writing(self.place, name, self.shelf, self.owner)
            self.writings += [writing] if writing is not None else []
        except Exception:  # a full disk; for the page these answers are cut off
            traceback.print_exc()

    def _hold(self, do: str, slot: Slot) -> None:
        try:
            with without_panic():
                {"load": self.shelf.load, "free": self._free, "look": self.shelf.look}[do](slot)
        except ParaknowError as error:
            self._tell(slot, {"state": "failed", "error": str(error)})
        except Exception as error:  # a damaged file or an exhausted device raises anything
            message = f"playground: could not be loaded ({type(error).__name__}: {str(error)[:200]})"
            self._tell(slot, {"state": "failed", "error": message})
        self._report_memory()

    def _free(self, slot: Slot) -> None:
        for writing in self.writings:  # nobody goes on writing with weights that are being freed
            writing.drop(slot.key)
        self.shelf.free(slot)

    def _tell(self, slot: Slot, facts: dict[str, Any]) -> None:
        self._write(f"models/{slot.key}.json", facts)

    def _report_memory(self) -> None:
        self._write("process.json", {"resident": psutil.Process().memory_info().rss})

    def _write(self, file: str, facts: dict[str, Any]) -> None:
        """Say something to the pages; a full disk must not take the weights of every window with it."""
        try:
            write_json(folder(self.place) / file, {**facts, "process": self.owner}, durable=False)
        except OSError as error:
            print(f"playground: {file}: {error.strerror}", flush=True)


def _wish(content: object) -> Wish | None:
    try:
        return Wish.model_validate(content)
    except ValueError:
        return None
