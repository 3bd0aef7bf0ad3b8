"""Who may reach the pages, and what they may then touch: a classroom and an open port are not one's own laptop."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from paraknow_core.errors import DataError
from paraknow_core.files.naming import Named, expanded, is_hub_id, is_there, named
from paraknow_core.models.source import BUNDLED_FOLDER
from paraknow_core.paths import PROJECT_ROOT, Workspace
from paraknow_core.spec import RunSpec
from paraknow_core.workbench.sources import sources_of

DEMO_VARIABLE = "PARAKNOW_DEMO"
ROOTS_VARIABLE = "PARAKNOW_ROOTS"  # folders, separated like $PATH, whose models and data other people may use
ADDRESS_VARIABLE = "PARAKNOW_ADDRESS"  # what the pages' server listens on
HUB_VARIABLE = "PARAKNOW_ALLOW_HUB"  # 1: other people may name hub ids, which are read with this machine's hub token
LOOPBACK = ("localhost", "127.0.0.1", "::1", "[::1]")
ALL = 10**9  # examples of a split without a limit
DEMO_LIMITS = {
    "epochs": 5.0,
    "max_steps": 200,
    "train": 1000,
    "test": 300,
    "samples": 64,
    "ids": 64,
    "rank": 64,
    "seeds": 3,
    "validation": 300,
    "batch_size": 256,
    "validations": 50,
    "max_new_tokens": 128,
    "waiting": 24,
    "layers": 200,
}


def declare(address: str) -> None:
    """Let all that this process calls or starts know what its server listens on; `access` reads it from there."""
    os.environ[ADDRESS_VARIABLE] = address


@dataclass(frozen=True)
class Access:
    """What the pages of one server may do; each check raises a DataError, one sentence, where they may not.

    Attributes:
        demo: a classroom: bundled models and tasks only, small runs, nothing is uploaded or deleted.
        open_to: the address that other machines can reach, or empty on loopback.
        roots: where typed paths must lie when `demo` or `open_to` is set.
        hub: whether hub ids may be named then.
    """

    demo: bool
    open_to: str
    roots: tuple[Path, ...]
    hub: bool = False

    @property
    def restricted(self) -> bool:
        """True where a typed path must lie in one of the roots."""
        return self.demo or bool(self.open_to)

    @property
    def hub_allowed(self) -> bool:
        """True where a hub id may be named."""
        return not self.restricted or (self.hub and not self.demo)

    def check_source(self, source: str, where: str = "source") -> None:
        """Refuse what people who are not sitting at this machine may not read."""
        if not self.restricted:
            return
        # A relative path begins where whoever reads it works: the pages' server, or a process of the project.
        for base in dict.fromkeys((Path.cwd(), PROJECT_ROOT)):
            name = named(source, base)
            if name.kind == "bundled":
                return
            if self.demo:
                raise DataError(f"{where}: '{name.text}' given; in demo mode only bundled models and tasks can be used")
            path = _path_of(name, base)
            if path is None and not self.hub:
                raise DataError(
                    f"{where}: a hub id was given; for people on other machines hub ids are switched off, as they "
                    "would be read with this machine's hub token; start the workbench with `ui --allow-hub` (or "
                    f"${HUB_VARIABLE}=1), or choose what is bundled or uploaded"
                )
            if path is not None and not self._may_read(path):
                raise DataError(
                    f"{where}: this path is outside the folders that people on other machines may use; start the "
                    f"workbench with `ui --root FOLDER` (or ${ROOTS_VARIABLE}), or use it on this machine only"
                )

    def _may_read(self, path: Path) -> bool:
        """Tell whether a path lies in one of the roots, links followed, and with it the files that a folder gives."""
        where = _resolved(path)
        if where is None or not any(where.is_relative_to(root) for root in self.roots):
            return False
        kept = (*self.roots, where.parent.parent / "blobs") if where.parent.name == "snapshots" else self.roots
        leads = map(_resolved, _links(where))
        return all(link is not None and any(link.is_relative_to(root) for root in kept) for link in leads)

    def check_upload(self) -> None:
        """Refuse a file from a visitor's machine where visitors share this one."""
        if self.demo:
            raise DataError("upload: in demo mode nothing can be uploaded; choose a bundled task")

    def check_delete(self) -> None:
        """Refuse to remove what others may be looking at."""
        if self.demo:
            raise DataError(
                "delete: in demo mode nothing can be deleted; whoever started the workbench can, with `runs delete`"
            )

    def check_settings(self) -> None:
        """Refuse to change where runs are executed, with whose account: that is the business of this machine's user."""
        if self.restricted:
            raise DataError(
                "settings: where runs are executed can only be changed on this machine; whoever started the workbench "
                "can, in settings.yaml of the workspace"
            )

    def check_label(self, own: bool) -> None:
        """Refuse to name, note or star a run, unless this visitor has started it."""
        if self.demo and not own:
            raise DataError(
                "label: in demo mode only runs that you have started yourself can be named; whoever "
                "started the workbench can name all, with `runs label`"
            )

    def check_amount(self, waiting: int, more: int) -> None:
        """Refuse more runs, beside those that are queued or running, than a shared machine gets done in a lesson."""
        most = DEMO_LIMITS["waiting"]
        if self.demo and waiting + more > most:
            raise DataError(
                f"queue: {waiting} runs are waiting or running and {more} more were asked for; in demo mode at most "
                f"{most} at a time, so wait until some are done"
            )

    def check_limit(self, key: str, number: float) -> None:
        """Refuse more of something than `DEMO_LIMITS` allows; its name there is the last part of the key."""
        limit = DEMO_LIMITS[key.rpartition(".")[2]]
        if self.demo and number > limit:
            raise DataError(
                f"{key}: {number:g} given; in demo mode at most {limit:g}, so that a class shares the machine"
            )

    def check_question(self, question: BaseModel) -> None:
        """Refuse a question that names what may not be read, or in demo mode asks for too much of a task."""
        spec = getattr(question, "spec", question)
        parts = {name: getattr(spec, name, None) for name in ("task", "sensitivity")}
        self._check_size(RunSpec().model_copy(update={name: part for name, part in parts.items() if part is not None}))
        for source in sources_of(question):
            self.check_source(source.text)

    def check_spec(self, spec: RunSpec, before: RunSpec | None = None) -> None:
        """Refuse a spec that names what may not be read, or in demo mode asks for too much.

        Args:
            spec: what is wanted.
            before: what it was changed from. Sources that it has already are let through: whoever opens a server
                whose draft names a folder of the owner's must be able to change one thing after the other.
        """
        let_in = {source.text for source in sources_of(before)}
        for source in sources_of(spec):
            if source.text not in let_in:
                self.check_source(source.text, source.where)
        self._check_size(spec)

    def _check_size(self, spec: RunSpec) -> None:
        sizes, tuning = spec.task.sizes, spec.finetuning
        amounts = {
            "finetuning.epochs": tuning.epochs if tuning.max_steps is None else 0,
            "finetuning.max_steps": tuning.max_steps or 0,
            "task.sizes.train": sizes.train or ALL,
            "task.sizes.test": sizes.test or ALL,
            "task.sizes.validation": ALL if sizes.validation is None else sizes.validation,
            "task.max_new_tokens": spec.task.max_new_tokens or 0,
            "finetuning.batch_size": tuning.batch_size,
            "finetuning.validations": tuning.validations,
            "sensitivity.samples": spec.sensitivity.samples,
            "sensitivity.ids": len(spec.sensitivity.ids),
            "mapping.layers": len(spec.mapping.layers),
            "factorisation.rank": spec.factorisation.rank,
        }
        for key, number in amounts.items():
            self.check_limit(key, number)


def access(place: Workspace, address: str | None = None) -> Access:
    """Return what the pages may do.

    Args:
        place: its uploads are always readable.
        address: what the server listens on; empty means every address, None what $PARAKNOW_ADDRESS says, else
            this machine only.
    """
    if address is None:
        address = os.environ.get(ADDRESS_VARIABLE, LOOPBACK[0])
    named_roots = [expanded(p).resolve() for p in os.environ.get(ROOTS_VARIABLE, "").split(os.pathsep) if p]
    roots = (place.uploads.resolve(), BUNDLED_FOLDER.parent.resolve(), *named_roots)
    open_to = "" if address in LOOPBACK else address or "every address of this machine"
    hub = os.environ.get(HUB_VARIABLE, "") == "1"
    return Access(os.environ.get(DEMO_VARIABLE, "") == "1", open_to, roots, hub)


def _path_of(name: Named, base: Path) -> Path | None:
    """Return the path that must lie in a root; None for what only a hub can have."""
    if name.kind == "path":
        return name.path
    path = base / expanded(name.name)
    # Libraries prefer a folder to a hub, and what is no id at all is a path to be safe.
    return path if not is_hub_id(name.name) or is_there(path) else None


def _resolved(path: Path) -> Path | None:
    """Return where a path leads, links followed; None for what cannot be a path."""
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError):  # a zero byte, a circle of links
        return None


def _links(folder: Path, levels: int = 2) -> Iterator[Path]:
    """Yield the links in a folder and its sub-folders, as far down as readers look."""
    try:
        for entry in os.scandir(folder):
            if entry.is_symlink():
                yield Path(entry.path)
            elif levels > 1 and entry.is_dir():
                yield from _links(Path(entry.path), levels - 1)
    except (OSError, ValueError):
        return
