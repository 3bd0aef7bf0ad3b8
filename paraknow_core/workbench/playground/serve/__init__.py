"""The playground's process: holds weights, lets models write, one token of each at a time, and ends when idle.

One loop does everything: fulfil a wish, then one token of every answer that is being written. Answers of several
windows therefore grow side by side. torch is loaded with the first weights, so that looking costs next to nothing.
"""

import time
import traceback
from pathlib import Path

from paraknow_core.errors import ParaknowError, without_panic
from paraknow_core.files.json_file import read_json, write_json
from paraknow_core.paths import Workspace
from paraknow_core.settings import load_settings
from paraknow_core.workbench.playground.protocol import Slot, folder, service
from paraknow_core.workbench.playground.serve.shelf import Shelf
from paraknow_core.workbench.playground.serve.writing import Writing, begin_writing

IDLE_S = 900.0  # weights that nobody used for so long are freed, and then the process ends
POLL_S = 0.03
OLD_WISH_S = 60.0  # left before a restart: whoever wished has gone
MOST_KEPT = 200  # generations


def serve(place: Workspace) -> None:
    """Fulfil wishes until asked to stop or idle."""
    own = service(place)
    with own.hold() as mine:
        if not mine:
            return
        process = read_json(own.folder / "process.json")  # what the pages compare with
        desk = Desk(place, [process["pid"], process["process_started"]])
        desk.clean_up()
        while not own.asked_to_stop and not own.left_alone and desk.busy(IDLE_S):
            if not desk.step():
                time.sleep(POLL_S)


class Desk:
    """The loop's state: what is loaded, what is being written, when something last happened."""

    def __init__(self, place: Workspace, owner: list) -> None:
        """Args: place: the workspace; owner: names this process for good."""
        self.place, self.owner = place, owner
        self.shelf = Shelf(place, load_settings(place), self._tell)
        self.writings: list[Writing] = []
        self.last = time.monotonic()
        self._report_memory()

    def busy(self, idle_s: float) -> bool:
        """Free what nobody used for so long; False once nothing is left to wait for."""
        self.shelf.free_unused(idle_s)
        return bool(self.writings) or time.monotonic() - self.last < idle_s

    def step(self) -> bool:
        """Fulfil the oldest wish and write one token of every answer; False if there was nothing to do."""
        wish = next(iter(sorted((folder(self.place) / "commands").glob("*.json"))), None)
        if wish is not None:
            self._fulfil(wish)
        for writing in list(self.writings):
            if not writing.step():
                self.writings.remove(writing)
                self._report_memory()
        if wish is None and not self.writings:
            return False
        self.last = time.monotonic()
        return True

    def clean_up(self) -> None:
        """Forget what an earlier process left behind: what ended it must not end this one."""
        for old in (folder(self.place) / "models").glob("*.json"):
            old.unlink(missing_ok=True)
        commands = folder(self.place) / "commands"
        for working in commands.glob("*.working"):
            slot = _slot_of(read_json(working))
            if slot is not None:
                message = "the process that loaded this was ended, perhaps because memory ran out; free others first"
                self._tell(slot, {"state": "failed", "error": f"playground: {message}"})
            working.unlink(missing_ok=True)
        for wish in commands.glob("*.json"):
            if time.time() - wish.stat().st_mtime > OLD_WISH_S:
                wish.unlink(missing_ok=True)
        _prune(folder(self.place) / "generations")

    def _fulfil(self, file: Path) -> None:
        wish = read_json(file)
        if not isinstance(wish, dict):
            file.unlink(missing_ok=True)
            return
        if wish.get("do") == "generate":
            self._begin(file, str(wish.get("id")))
            return
        working = file.with_suffix(".working")
        file.replace(working)
        slot = _slot_of(wish)
        if slot is not None:
            self._hold(wish.get("do"), slot)
        working.unlink(missing_ok=True)

    def _begin(self, file: Path, name: str) -> None:
        """Take a prompt up, once: one that ends the process is not taken up by the next one."""
        working = file.with_suffix(".working")
        file.replace(working)
        try:
            with without_panic():
                writing = begin_writing(self.place, name, self.shelf, self.owner)
            self.writings += [writing] if writing is not None else []
        except Exception:  # a full disk; for the page these answers are cut off
            traceback.print_exc()
        working.unlink(missing_ok=True)

    def _hold(self, wish: object, slot: Slot) -> None:
        try:
            with without_panic():
                self._do(wish, slot)
        except ParaknowError as error:
            self._tell(slot, {"state": "failed", "error": str(error)})
        except Exception as error:  # a damaged file or an exhausted device raises anything
            message = f"playground: could not be loaded ({type(error).__name__}: {str(error)[:200]})"
            self._tell(slot, {"state": "failed", "error": message})
        self._report_memory()

    def _do(self, wish: object, slot: Slot) -> None:
        if wish == "load":
            self.shelf.load(slot)
        elif wish == "free":
            self._end_writings_of(slot)
            self.shelf.free(slot)
        else:
            self.shelf.look(slot)

    def _end_writings_of(self, slot: Slot) -> None:
        """Nobody goes on writing with weights that are being freed."""
        for writing in self.writings:
            writing.drop(slot.key)

    def _tell(self, slot: Slot, facts: dict) -> None:
        path = folder(self.place) / "models" / f"{slot.key}.json"
        _write(path, {**facts, "process": self.owner})

    def _report_memory(self) -> None:
        import psutil

        resident = psutil.Process().memory_info().rss
        _write(folder(self.place) / "process.json", {"resident": resident, "process": self.owner})


def _write(path: Path, facts: dict) -> None:
    """Say something to the pages; a full disk must not take the weights of every window with it."""
    try:
        write_json(path, facts, durable=False)
    except OSError as error:
        print(f"playground: {path.name}: {error.strerror}", flush=True)


def _slot_of(wish: object) -> Slot | None:
    try:
        return Slot.model_validate(wish["slot"]) if isinstance(wish, dict) and "slot" in wish else None
    except ValueError:
        return None


def _prune(generations: Path) -> None:
    import shutil

    if generations.is_dir():
        for old in sorted(generations.iterdir(), reverse=True)[MOST_KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
