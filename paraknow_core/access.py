"""Who may reach the pages, and what they may then touch: a classroom and an open port are not one's own laptop."""

import os
from dataclasses import dataclass
from pathlib import Path

from paraknow_core.errors import DataError
from paraknow_core.paths import PROJECT_ROOT, Workspace
from paraknow_core.spec import RunSpec

DEMO_VARIABLE = "PARAKNOW_DEMO"
ROOTS_VARIABLE = "PARAKNOW_ROOTS"  # folders, separated like $PATH, whose models and data other people may use
ADDRESS_VARIABLE = "PARAKNOW_ADDRESS"  # what the pages' server listens on
LOOPBACK = ("localhost", "127.0.0.1", "::1", "[::1]")
SOURCE_KEYS = ("source", "test_source", "path")  # of plain data: what may name a model or a file
DEMO_LIMITS = {"epochs": 5.0, "max_steps": 200, "train": 1000, "test": 300, "samples": 64, "rank": 64, "seeds": 3,
               "validation": 300, "batch_size": 256, "validations": 50, "new_tokens": 128, "waiting": 24}  # fmt: skip


@dataclass(frozen=True)
class Access:
    """What the pages of one server may do.

    Attributes:
        demo: a classroom: bundled models and tasks only, small runs, nothing is uploaded or deleted.
        open_to: the address that other machines can reach, or empty on loopback.
        roots: where typed paths must lie when `demo` or `open_to` is set.
    """

    demo: bool
    open_to: str
    roots: tuple[Path, ...]

    @property
    def restricted(self) -> bool:
        """True where a typed path must lie in one of the roots."""
        return self.demo or bool(self.open_to)

    def check_source(self, source: str, where: str = "source") -> None:
        """Refuse what people who are not sitting at this machine may not read.

        Raises:
            DataError: one sentence.
        """
        if not self.restricted or source.startswith("bundled:"):
            return
        if self.demo:
            raise DataError(f"{where}: '{source}' given; in demo mode only bundled models and tasks can be used")
        if not _is_path(source):
            return
        path = _resolved(source)
        if path is None or not any(path.is_relative_to(root) for root in self.roots):
            raise DataError(
                f"{where}: this path is outside the folders that people on other machines may use; "
                f"start the workbench with `ui --root FOLDER` (or ${ROOTS_VARIABLE}), or use it on this machine only"
            )

    def check_upload(self) -> None:
        """Refuse a file from a visitor's machine where visitors share this one.

        Raises:
            DataError: one sentence.
        """
        if self.demo:
            raise DataError("upload: in demo mode nothing can be uploaded; choose a bundled task")

    def check_delete(self) -> None:
        """Refuse to remove what others may be looking at.

        Raises:
            DataError: one sentence.
        """
        if self.demo:
            raise DataError("delete: in demo mode nothing can be deleted; whoever started the workbench can, with "
                            "`runs delete`")  # fmt: skip

    def check_label(self, own: bool) -> None:
        """Refuse to name, note or star what somebody else has started.

        Args:
            own: whether this visitor has started the run.

        Raises:
            DataError: one sentence.
        """
        if self.demo and not own:
            raise DataError("label: in demo mode only runs that you have started yourself can be named; whoever "
                            "started the workbench can name all, with `runs label`")  # fmt: skip

    def check_amount(self, waiting: int, more: int) -> None:
        """Refuse more runs than a shared machine gets done in a lesson.

        Args:
            waiting: runs that are queued or running now.
            more: runs to be added.

        Raises:
            DataError: one sentence.
        """
        most = DEMO_LIMITS["waiting"]
        if self.demo and waiting + more > most:
            raise DataError(
                f"queue: {waiting} runs are waiting or running and {more} more were asked for; in demo mode at most "
                f"{most} at a time, so wait until some are done"
            )

    def check_request(self, request: object, key: str = "") -> None:
        """Refuse plain data, however deep, that names under a key of `SOURCE_KEYS` what may not be read.

        Raises:
            DataError: one sentence.
        """
        if isinstance(request, dict):
            for name, inner in request.items():
                self.check_request(inner, name)
        elif isinstance(request, list | tuple):
            for inner in request:
                self.check_request(inner, key)
        elif isinstance(request, str) and key in SOURCE_KEYS:
            self.check_source(request)

    def check_spec(self, spec: RunSpec, before: RunSpec | None = None) -> None:
        """Refuse a spec that names what may not be read, or in demo mode asks for too much.

        Args:
            spec: what is wanted.
            before: what it was changed from. Sources that it has already are let through: whoever opens a server
                whose draft names a folder of the owner's must be able to change one thing after the other.

        Raises:
            DataError: one sentence.
        """
        known = set(_sources(before).values()) if before else set()
        for where, source in _sources(spec).items():
            if source and source not in known:
                self.check_source(source, where)
        if self.demo:
            _check_size(spec)


def access(place: Workspace, address: str | None = None) -> Access:
    """Return what the pages may do.

    Args:
        place: its uploads are always readable.
        address: what the server listens on; empty means every address, None what $PARAKNOW_ADDRESS says, else
            this machine only.
    """
    if address is None:
        address = os.environ.get(ADDRESS_VARIABLE, LOOPBACK[0])
    named = [Path(p).expanduser().resolve() for p in os.environ.get(ROOTS_VARIABLE, "").split(os.pathsep) if p]
    roots = (place.uploads.resolve(), (PROJECT_ROOT / "paraknow_core" / "demo").resolve(), *named)
    open_to = "" if address in LOOPBACK else address or "every address of this machine"
    return Access(os.environ.get(DEMO_VARIABLE, "") == "1", open_to, roots)


def _sources(spec: RunSpec) -> dict[str, str | None]:
    task = spec.task
    return {"teacher": spec.teacher.source, "student": spec.student.source, "task": task.source,
            "task.test_source": task.test_source, "task.judge": task.judge and task.judge.source}  # fmt: skip


def _resolved(source: str) -> Path | None:
    """Return where a path leads, links followed; None for what cannot be a path."""
    try:
        return Path(source).expanduser().resolve()
    except (OSError, ValueError, RuntimeError):  # a zero byte, a circle of links, an unknown user's home
        return None


def _is_path(source: str) -> bool:
    """A hub id is OWNER/NAME and no folder here; everything else that is not a known scheme is taken as a path."""
    if source.startswith("hub:"):
        return _exists(source.removeprefix("hub:"))
    owner_and_name = source.count("/") == 1 and not source.startswith(("/", ".", "~"))
    return not owner_and_name or _exists(source)


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # too long for a name, or with a zero byte: no path, and no hub id either
        return True


def _check_size(spec: RunSpec) -> None:
    sizes, tuning = spec.task.sizes, spec.finetuning
    asked = {
        "finetuning.epochs": (tuning.epochs if tuning.max_steps is None else 0, DEMO_LIMITS["epochs"]),
        "finetuning.max_steps": (tuning.max_steps or 0, DEMO_LIMITS["max_steps"]),
        "task.sizes.train": (sizes.train or 10**9, DEMO_LIMITS["train"]),
        "task.sizes.test": (sizes.test or 10**9, DEMO_LIMITS["test"]),
        "task.sizes.validation": (
            sizes.validation if sizes.validation is not None else 10**9,
            DEMO_LIMITS["validation"],
        ),
        "task.max_new_tokens": (spec.task.max_new_tokens or 0, DEMO_LIMITS["new_tokens"]),
        "finetuning.batch_size": (tuning.batch_size, DEMO_LIMITS["batch_size"]),
        "finetuning.validations": (tuning.validations, DEMO_LIMITS["validations"]),
        "sensitivity.samples": (spec.sensitivity.samples, DEMO_LIMITS["samples"]),
        "factorisation.rank": (spec.factorisation.rank, DEMO_LIMITS["rank"]),
    }
    for key, (value, limit) in asked.items():
        if value > limit:
            raise DataError(
                f"{key}: {value:g} given; in demo mode at most {limit:g}, so that a class shares the machine"
            )
