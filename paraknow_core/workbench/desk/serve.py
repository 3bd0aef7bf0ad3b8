"""The desk process: takes the newest question, has it worked out, and ends when nobody asks any more.

It never computes itself. Its worker (`desk-hand`), a second process, answers one question after the other; this one
watches how much time and memory that takes, and ends the worker when it is too much.
"""

import math
import os
import select
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from paraknow_core.display import duration, memory
from paraknow_core.engines.service import Service, end_with
from paraknow_core.errors import ParaknowError, is_panic
from paraknow_core.files.atomic import build_folder
from paraknow_core.files.disk import file_stamp
from paraknow_core.files.json_file import read_json, write_json
from paraknow_core.files.naming import named
from paraknow_core.memory import anonymous_bytes, available_bytes, total_bytes
from paraknow_core.paths import PROJECT_ROOT, WORKSPACE_VARIABLE, Workspace
from paraknow_core.settings import load_settings
from paraknow_core.workbench.desk.questions import ANSWER, ARRAYS, answer_in, desk_folder, inbox_of
from paraknow_core.workbench.desk.requests import Question, question_from
from paraknow_core.workbench.inbox import is_over, leave_a_core, take_turns, taken, working
from paraknow_core.workbench.sources import sources_of

IDLE_S = 900.0
STALE_S = 15.0  # a page that still wants an answer asks again every second or so
MOST_ANSWERS, MOST_BYTES = 2000, 2 * 10**9
PRUNE_EVERY_S = 3600.0
PARENT_VARIABLE = "PARAKNOW_PARENT"
COMMAND = (sys.executable, "-m", "paraknow_core", "serve", "desk-hand")
WATCH_S = 0.02
START_S = 600.0  # torch from a slow disk
HUB_S = 1800.0  # what a hub has may have to be downloaded
LEAST_BYTES, LITTLE_BYTES = 2e9, 5e8
LEFT_SHARE = 0.03  # of the machine's memory, which is left to everybody else
DOUBT = "what it reads is too large for a page, or made or damaged so that it takes so much; choose something else"
ENDED = "the process that worked this out was ended, perhaps because memory ran out or a file is damaged; try again"
STOPPED = "asked to stop"
LAST = b"last"  # what the hand says instead of done where a library gave up in it: another hand has to go on


def serve(place: Workspace) -> None:
    """Answer questions until asked to stop or idle."""
    service, inbox, pruned = Service(place, "desk"), inbox_of(place), -math.inf
    with service.hold() as mine:
        if not mine:
            return
        inbox.folder.mkdir(parents=True, exist_ok=True)
        for key, content in inbox.interrupted():  # it must not end the next process, too
            kind = content.get("kind", "question") if isinstance(content, dict) else "question"
            _write(desk_folder(place) / key, {"error": f"{kind}: {ENDED}"})
        with Hand(place) as hand:

            def turn() -> bool | None:
                nonlocal pruned
                if not inbox.folder.is_dir():
                    return None  # a workspace that was removed takes its helper with it
                if time.monotonic() - pruned > PRUNE_EVERY_S:
                    _prune(desk_folder(place))
                    pruned = time.monotonic()
                file = _newest(inbox.folder)
                if file is None:
                    return False
                return hand.answer(file, lambda: is_over(service)) or None  # it cannot even start; its log says why

            take_turns(service, turn, IDLE_S)


def work(place: Workspace) -> None:
    """Inside the hand: work out the questions that are named on standard input, one a line, and say so of each."""
    end_with(int(os.environ.get(PARENT_VARIABLE, 0)) or os.getppid())
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print goes into the log
    _prepare_torch(place)
    print("ready", file=replies)
    for line in sys.stdin:
        sound = answer_question(place, inbox_of(place).folder / line.strip())
        print("done" if sound else LAST.decode(), file=replies)
        if not sound:
            return


def _prepare_torch(place: Workspace) -> None:
    """Load it before the first question, which nearly always needs it."""
    try:
        leave_a_core(load_settings(place).threads)
    except ParaknowError:
        leave_a_core(None)  # every question is answered with that sentence; a process that ends answers nothing


def answer_question(place: Workspace, file: Path) -> bool:
    """Work one question out and remove it; a failure is an answer, too.

    Returns:
        False where the process should not be used again.
    """
    folder = desk_folder(place) / file.stem
    question = _read(place, file)
    if question is None:
        return True
    if answer_in(folder) is not None:  # written while the question was left once more: `forget` would have removed it
        file.unlink(missing_ok=True)
        return True
    sound = True
    with taken(file):
        try:
            value, arrays = work_out(place, question)
            _write(folder, {"value": value}, arrays)
        except ParaknowError as error:
            _write(folder, {"error": str(error)})
        except BaseException as error:  # a bug or a damaged file: its traceback is in the log, the page gets a sentence
            if not isinstance(error, Exception) and not is_panic(error):
                raise
            sound = not isinstance(error, MemoryError) and not is_panic(error)
            traceback.print_exc()
            _write(folder, {"error": f"{question.kind}: {_failure(error)}"})
    return sound


def _failure(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "needs more memory than there is; choose something smaller, or free some and try again"
    message = str(error).encode("utf-8", "replace").decode()[:300]
    if is_panic(error):
        return f"a file is damaged so that its library gave up ({message}); get the model's files again"
    return f"could not be worked out ({type(error).__name__}: {message})"


def _read(place: Workspace, file: Path) -> Question | None:
    """Return a file's question. A damaged one is dropped; one that nobody can answer is answered with that."""
    question = None
    try:
        question = question_from(read_json(file))
    except ParaknowError as error:
        _write(desk_folder(place) / file.stem, {"error": str(error)})
    if question is None:
        file.unlink(missing_ok=True)
    return question


class Hand:
    """The process that works questions out, kept warm between them; one that takes too much is ended and replaced.

    What a question reads may be damaged, or made to keep a machine busy. Only from outside can a process be ended that
    is inside a library, so that the loop of the desk never computes anything.
    """

    def __init__(self, place: Workspace, command: Sequence[str] = COMMAND) -> None:
        """Args: place: the workspace; command: what is started, see `work`."""
        self._place, self._command = place, list(command)
        self._process: subprocess.Popen | None = None
        self._ready = False

    def __enter__(self) -> "Hand":
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def answer(self, file: Path, asked_to_stop: Callable[[], bool] = lambda: False, *, again: bool = True) -> bool:
        """Have one question answered, by its answer or by a sentence that says why there is none.

        Args:
            file: where the question lies.
            asked_to_stop: looked at while waiting; then the question is left for the next process.
            again: try once more where the process was gone before it took the question.

        Returns:
            False where the process ended before it was ready: it would do so again.
        """
        question = _read(self._place, file)
        if question is None:
            return True
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._start()
        if not self._ready and self._hears(START_S, math.inf, asked_to_stop):
            return asked_to_stop()
        self._ready = True
        seconds, size = limits(question)
        try:
            self._process.stdin.write(f"{file.name}\n".encode())
            self._process.stdin.flush()
            why = self._hears(seconds, size, asked_to_stop)
        except OSError:
            why = ENDED
        if why == ENDED and file.exists():  # it ended before it took the question
            self._end()
            return not again or self.answer(file, asked_to_stop, again=False)
        if why:
            self._end()
            self._tell(file, question.kind, why)
            if why != STOPPED:
                self._start()  # warm for the next one
        return True

    def _tell(self, file: Path, kind: str, why: str) -> None:
        """Answer a question whose process is gone, unless it was answered or shall be asked again."""
        if why == STOPPED:
            with suppress(FileNotFoundError):
                working(file).replace(file)
            return
        folder = desk_folder(self._place) / file.stem
        if answer_in(folder) is None:
            _write(folder, {"error": f"{kind}: {why}"})
        for left in (working(file), file):
            left.unlink(missing_ok=True)

    def _start(self) -> None:
        self._ready = False
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=PROJECT_ROOT,
            env={**os.environ, WORKSPACE_VARIABLE: str(self._place.root), PARENT_VARIABLE: str(os.getpid())},
        )

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                with suppress(OSError):
                    pipe.close()
        self._process = None

    def _hears(self, seconds: float, size: float, asked_to_stop: Callable[[], bool]) -> str:
        """Wait until the process says that it is ready or done; return why it does not, or nothing."""
        process, deadline = self._process, time.monotonic() + seconds
        while True:
            if select.select([process.stdout], [], [], WATCH_S)[0]:
                word = process.stdout.readline().strip()
                if word == LAST:
                    self._end()
                return "" if word else ENDED
            if time.monotonic() > deadline:
                return f"took longer than {duration(seconds)} and was ended; {DOUBT}"
            own = anonymous_bytes(process.pid)
            if own > size:
                return f"took more than {memory(size)} of memory and was ended; {DOUBT}"
            if own > LITTLE_BYTES and available_bytes() < LEFT_SHARE * total_bytes():
                return f"was ended at {memory(own)}, as the machine's memory was running out; free some and try again"
            if asked_to_stop():
                return STOPPED


def limits(question: Question) -> tuple[float, float]:
    """Return how long a question may take [s], and how much memory its process may have of its own [bytes]."""
    seconds = question.limits.seconds
    if any(named(source.text).kind == "hub" for source in sources_of(question)):
        seconds = max(seconds, HUB_S)
    return seconds, max(LEAST_BYTES, question.limits.memory * total_bytes())


def work_out(place: Workspace, question: Question) -> tuple[dict[str, Any], dict[str, Any]]:
    """Answer one question here and now; return plain data, and numpy arrays by name."""
    subject = import_module(f"paraknow_core.workbench.desk.kinds.{question.subject}")
    answer = getattr(subject, question.kind)(place, load_settings(place), question)
    return answer if isinstance(answer, tuple) else (answer, {})


def _write(folder: Path, content: dict[str, Any], arrays: dict[str, Any] | None = None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with build_folder(folder) as building:
        if arrays:
            import numpy
            from safetensors.numpy import save_file

            save_file({name: numpy.ascontiguousarray(array) for name, array in arrays.items()}, building / ARRAYS)
        write_json(building / ANSWER, content, durable=False)


def _newest(questions: Path) -> Path | None:
    """Return the newest question, dropping those that nobody waits for any more."""
    newest, when = None, 0.0
    for question in questions.glob("*.json"):
        try:
            asked = question.stat().st_mtime
        except OSError:
            continue
        if time.time() - asked > STALE_S:
            question.unlink(missing_ok=True)
        elif asked > when:
            newest, when = question, asked
    return newest


def _prune(folder: Path) -> None:
    """Keep the answers read last, as many as the limits of number and bytes allow, the newest in any case."""
    answers = [path for path in folder.iterdir() if path.is_dir() and path.name != "questions"]
    total = 0
    for number, answer in enumerate(sorted(answers, key=lambda path: path.stat().st_mtime, reverse=True)):
        total += sum(file_stamp(file)[1] for file in answer.iterdir())
        if number and (number >= MOST_ANSWERS or total > MOST_BYTES):
            shutil.rmtree(answer, ignore_errors=True)
