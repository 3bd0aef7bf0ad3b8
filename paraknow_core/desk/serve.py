"""The desk process: takes the newest question, works it out, writes the answer, and ends when nobody asks any more."""

import math
import shutil
import time
import traceback
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from paraknow_core.desk.questions import ANSWER, ARRAYS, desk_folder
from paraknow_core.errors import ParaknowError
from paraknow_core.paths import Workspace, build_folder, file_stamp, read_json, write_json
from paraknow_core.services import Service
from paraknow_core.settings import load_settings, usable_cores

IDLE_S = 900.0
STALE_S = 15.0  # a page that still wants an answer asks again every second or so
POLL_S = 0.03
MOST_ANSWERS, MOST_BYTES = 2000, 2 * 10**9
PRUNE_EVERY_S = 3600.0


def serve(place: Workspace) -> None:
    """Answer questions until asked to stop or idle."""
    service, questions = Service(place, "desk"), desk_folder(place) / "questions"
    with service.hold() as mine:
        if not mine:
            return
        questions.mkdir(parents=True, exist_ok=True)
        _fail_interrupted(place, questions)
        _prepare_torch(place)
        last, pruned = time.monotonic(), -math.inf
        # A workspace that was removed takes its helper with it.
        while questions.is_dir() and not _is_over(service) and time.monotonic() - last < IDLE_S:
            if time.monotonic() - pruned > PRUNE_EVERY_S:
                _prune(desk_folder(place))
                pruned = time.monotonic()
            question = _next(questions)
            if question is None:
                time.sleep(POLL_S)
                continue
            answer_question(place, question)
            last = time.monotonic()


def _is_over(service: Service) -> bool:
    return service.asked_to_stop or service.left_alone


def _prepare_torch(place: Workspace) -> None:
    """Load it before the first question, which nearly always needs it; leave a core to the pages."""
    import torch

    try:
        threads = load_settings(place).threads
    except ParaknowError:
        threads = None  # every question is answered with that sentence; a process that ends answers nothing
    torch.set_num_threads(threads or max(1, usable_cores() - 1))


def answer_question(place: Workspace, question: Path) -> None:
    """Work one question out and remove it; a failure is an answer, too."""
    asked = read_json(question)
    # An answer that is there was written while the question was left once more: `forget` would have removed it.
    if not isinstance(asked, dict) or isinstance(read_json(desk_folder(place) / question.stem / ANSWER), dict):
        question.unlink(missing_ok=True)
        return
    working = question.with_suffix(".working")
    question.replace(working)
    try:
        value, arrays = work_out(place, asked["kind"], asked["request"])
        content: dict[str, Any] = {"value": value}
    except ParaknowError as error:
        content, arrays = {"error": str(error)}, {}
    except Exception as error:  # a bug: its traceback is in the log, and the page gets a sentence
        traceback.print_exc()
        content, arrays = {"error": f"{asked['kind']}: could not be worked out ({type(error).__name__}: {error})"}, {}
    _write(desk_folder(place) / question.stem, content, arrays)
    working.unlink(missing_ok=True)


def work_out(place: Workspace, kind: str, request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Answer one question here and now.

    Args:
        place: the workspace.
        kind: a module of `desk/kinds/`; its `answer(place, settings, request)` returns plain data, or plain data and
            numpy arrays by name.
        request: plain data.
    """
    module = f"paraknow_core.desk.kinds.{kind}"
    if not kind.isidentifier() or find_spec(module) is None:
        raise ParaknowError(f"desk: nobody answers questions of kind '{kind}'")
    found = import_module(module).answer(place, load_settings(place), request)
    return found if isinstance(found, tuple) else (found, {})


def _write(folder: Path, content: dict[str, Any], arrays: dict[str, Any]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with build_folder(folder) as building:
        if arrays:
            import numpy
            from safetensors.numpy import save_file

            save_file({name: numpy.ascontiguousarray(array) for name, array in arrays.items()}, building / ARRAYS)
        write_json(building / ANSWER, content, durable=False)


def _next(questions: Path) -> Path | None:
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


def _fail_interrupted(place: Workspace, questions: Path) -> None:
    """A question during which the last process ended is answered with that, so that it cannot end the next one."""
    for working in questions.glob("*.working"):
        kind = (read_json(working, {}) or {}).get("kind", "question")
        message = f"{kind}: the process that worked this out was ended, perhaps because memory ran out; try again"
        _write(desk_folder(place) / working.stem, {"error": message}, {})
        working.unlink(missing_ok=True)


def _prune(folder: Path) -> None:
    """Keep the answers read last, as many as the limits of number and bytes allow, the newest in any case."""
    answers = [path for path in folder.iterdir() if path.is_dir() and path.name != "questions"]
    total = 0
    for number, answer in enumerate(sorted(answers, key=lambda path: path.stat().st_mtime, reverse=True)):
        total += sum(file_stamp(file)[1] for file in answer.iterdir())
        if number and (number >= MOST_ANSWERS or total > MOST_BYTES):
            shutil.rmtree(answer, ignore_errors=True)
