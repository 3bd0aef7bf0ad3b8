"""What a node of a Ray cluster does with a run: starts `python -m paraknow_core run FOLDER`, and ends it with itself.

This module travels to the nodes by value (cloudpickle), so it imports nothing of this project before it has found it
there. Without shared storage the node computes in a copy of the run folder; `Keeper`, an actor on the machine of the
workspace, gives it what the run has so far and takes back what it writes, in an order that leaves the folder whole at
every moment. Each beginning of a run has a ticket: a node that was given up for lost and comes back has an old one.
"""

import ctypes
import hashlib
import io
import json
import math
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

HOME_VARIABLE = "PARAKNOW_NODE_FOLDER"  # set where `ray start` is typed: what a node without shared storage writes
LOOK_S = 0.2  # between two looks at a run that is going on
CARRY_S = 2.0  # between two times that its files are carried
PATIENCE_S = 20.0  # how long a run may take to save when Ray asks its task to end
PIECE = 32 * 2**20  # bytes that travel at once
FORGOTTEN_S = 86_400.0  # the age of a copy that nobody works in at which it is removed
ENGINE = "engine.json"
CARRIED = "PARAKNOW_CARRIED"  # as `files.naming` reads it
MOST_CARRIED = 2_000_000_000  # bytes of a model or data set that is carried to a node
MOST_FILES = 10_000  # of one
STAY = {"lock", "stop", "process.json", "label.json", "studies.json", ENGINE}  # of the machine of the workspace
GROWING = {".jsonl", ".txt"}  # only their new ends travel
SEAL = "complete"

# Path -> its stamp then, SHA-256; a plain dict, because what travels by value can hold no cache of functools.
_hashes: dict[str, tuple[tuple[int, int, int], str]] = {}


class Piece(NamedTuple):
    """Some bytes of a file. The last piece of a file that is not only grown puts it in place."""

    name: str
    at: int
    data: bytes
    grows: bool
    last: bool


class Source(NamedTuple):
    """A model or data set that a spec names by a path: as it does, where it lies, and what it holds (`inventory`).

    What it holds is asked at the moment in which a run begins: until then it may be written anew.
    """

    text: str
    path: str
    files: tuple[tuple[str, int, str], ...] = ()

    @property
    def bytes(self) -> float:
        return sum(size for _, size, _ in self.files) if len(self.files) <= MOST_FILES else math.inf


Listing = dict[str, tuple[int, int]]  # of files: bytes, time of the last change in ns


def listing(folder: Path) -> Listing:
    """Return the files of a run folder that travel: no temporary ones, no checkpoint without a seal, no links."""
    found: Listing = {}
    for root, folders, files in os.walk(folder):
        path = Path(root)
        if path.parent == folder / "checkpoints" and SEAL not in files:
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.startswith(".") or (path == folder and name in STAY) or (path / name).is_symlink():
                continue
            with suppress(OSError):
                facts = (path / name).stat()
                found[(path / name).relative_to(folder).as_posix()] = (facts.st_size, facts.st_mtime_ns)
    return found


def inventory(path: Path) -> tuple[tuple[str, int, str], ...]:
    """Return the files of a folder, or a file itself as `.`: name, bytes, SHA-256 if all of it could be carried.

    Hidden ones are left out, and folders that a link brings in from elsewhere; beyond `MOST_FILES`, one more stands for
    the rest.
    """
    names = ["."] if path.is_file() else []
    for root, folders, files in os.walk(path, followlinks=True):
        visible = (name for name in folders if not name.startswith("."))
        folders[:] = sorted(name for name in visible if _belongs(Path(root, name), path))
        here = Path(root).relative_to(path)
        names += [(here / name).as_posix() for name in sorted(files) if not name.startswith(".")]
        if len(names) > MOST_FILES:
            return tuple((name, 0, "") for name in names[: MOST_FILES + 1])
    sizes = {}
    for name in names:
        with suppress(OSError):  # a link that leads nowhere
            sizes[name] = (path / name).stat().st_size
    if sum(sizes.values()) > MOST_CARRIED:
        return tuple((name, size, "") for name, size in sizes.items())
    found = []
    for name, size in sizes.items():
        with suppress(OSError):  # it is not to be read
            found.append((name, size, _hash(path / name)))
    return tuple(found)


def _belongs(folder: Path, top: Path) -> bool:
    """Tell whether a sub-folder is part of a source; of links, those at its top that lead deeper into it."""
    return not folder.is_symlink() or (folder.parent == top and top.resolve() in folder.resolve().parents)


def _hash(file: Path) -> str:
    """Return the SHA-256 of a file, worked out once until it is written again: many runs share their models."""
    facts = file.stat()
    stamp = (facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
    known = _hashes.get(str(file))
    if known is None or known[0] != stamp:
        with file.open("rb") as content:
            known = stamp, hashlib.file_digest(content, "sha256").hexdigest()
        if len(_hashes) > MOST_FILES:
            _hashes.clear()
        _hashes[str(file)] = known
    return known[1]


def carried(source: Source, final: Path, see: Path, piece: Callable[[str, str, int], bytes], node: str) -> str | Path:
    """Bring a source to a node, unless it is there already.

    Args:
        source: of the submitter's machine.
        final: a folder for its copy, which is made.
        see: where the run would look for it.
        piece: of `Keeper`, which returns bytes of one of its files.
        node: in words.

    Returns:
        Where it lies at the node, or a sentence that says why it cannot be there.
    """
    if inventory(see) == source.files:
        return see
    if source.bytes > MOST_CARRIED:
        if see.exists():
            return see  # as large ones are laid at every node
        size = "many files" if math.isinf(source.bytes) else f"{source.bytes / 1e9:.1f} GB"
        return (
            f"ray: {node} does not have {source.text} ({size}; up to {MOST_CARRIED / 1e9:g} GB would be carried); put "
            "it on storage that every node sees (ray.shared: true) or at this path of every node, or give a hub name"
        )
    path = Path(source.path)
    for name, size, _ in source.files:
        at, last = 0, False
        while not last:
            data = piece(*((str(path.parent), path.name) if name == "." else (source.path, name)), at)
            last = at + len(data) >= size or not data
            put(final, Piece((PurePosixPath(path.name) / name).as_posix(), at, data, False, last))
            at += len(data)
    copy = final / path.name
    if inventory(copy) != source.files:
        return f"ray: {source.text} was written while it was carried to {node}; `runs resume` carries it again"
    return copy


def _order(name: str) -> tuple:
    """Seals come after what they seal, the result after what it speaks of, the state last of all."""
    path = PurePosixPath(name)
    return name == "status.json", name == "result.json", path.name == SEAL, name


def pieces(folder: Path, now: Listing, known: Listing) -> Iterator[Piece]:
    """Yield what has changed since `known`, in the order in which it may be put in place."""
    for name in sorted((name for name in now if now[name] != known.get(name)), key=_order):
        before = known.get(name, (0, 0))[0]
        grows = "/" not in name and Path(name).suffix in GROWING and now[name][0] >= before > 0
        at = before if grows else 0
        with suppress(FileNotFoundError), (folder / name).open("rb") as file:
            file.seek(at)
            end = now[name][0]
            while True:
                data = file.read(min(PIECE, end - at))
                yield Piece(name, at, data, grows, at + len(data) >= end or not data)
                at += len(data)
                if at >= end or not data:
                    break


def put(folder: Path, piece: Piece) -> None:
    """Put a piece in place. A file appears whole; one that grows is cut to where the piece begins.

    Raises:
        ValueError: its name leads outside the folder.
    """
    path = PurePosixPath(piece.name)
    if path.is_absolute() or ".." in path.parts or piece.name in STAY:
        raise ValueError(f"{piece.name}: is no file of a run that travels")
    final = folder / path
    final.parent.mkdir(parents=True, exist_ok=True)
    target = final if piece.grows else final.with_name(f".{final.name}.arriving")
    with target.open("r+b" if piece.at and target.exists() else "wb") as file:
        file.truncate(piece.at)
        file.seek(piece.at)
        file.write(piece.data)
    if piece.last and not piece.grows:
        target.replace(final)


def remove(folder: Path, names: Iterable[str]) -> None:
    """Remove files that are gone where the run goes on, seals first, and the folders that this leaves empty."""
    for name in sorted(names, key=lambda name: PurePosixPath(name).name != SEAL):
        with suppress(OSError):
            (folder / name).unlink()
        with suppress(OSError):
            (folder / name).parent.rmdir()


def begin(folder: Path, ticket: str, node: dict[str, str]) -> None:
    """Note in the run folder where the run begins; if Ray has moved it there, its events say so."""
    file = folder / ENGINE
    note = _read(file)
    before, note = note.get("node"), {**note, "ticket": ticket, "node": node}
    if before:
        steps = [int(seal.parent.name.rpartition("-")[2]) for seal in folder.glob(f"checkpoints/checkpoint-*/{SEAL}")]
        since = f"from its last save, step {max(steps):,}" if steps else "from its beginning, as no step was saved"
        message = f"{words_of(before)} was lost; the run goes on at {words_of(node)}, {since}"
        line = {"event": "moved", "time": round(time.time(), 3), "from": before, "to": node, "message": message}
        with (folder / "events.jsonl").open("ab+") as events:
            events.seek(0, os.SEEK_END)
            if events.tell() and (events.seek(-1, os.SEEK_END), events.read(1))[1] != b"\n":
                events.write(b"\n")  # the lost node was writing a line; readers leave out what is torn
            events.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
        status = folder / "status.json"  # it waits again: its process is gone
        _write(status, {"state": "queued", "attempt": _read(status).get("attempt", 0)})
    _write(file, note)


def words_of(node: dict[str, str]) -> str:
    """Return what people call a node: its host, its address, and the beginning of Ray's name for it."""
    host, address, name = (str(node.get(key, "")) for key in ("host", "address", "id"))
    return f"node {address} ({', '.join(filter(None, (host, name[:6])))})"


def _read(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _write(file: Path, data: dict[str, Any]) -> None:
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    temporary.write_text(json.dumps(data), encoding="utf-8")
    temporary.replace(file)


class Keeper:
    """On the machine of the workspace: gives run folders to nodes that do not see it, and takes back what they write.

    It keeps nothing in memory that it could not work out anew, so that Ray may start it again.
    """

    def open(self, folder: str, ticket: str, node: dict[str, str]) -> Listing:
        """Begin a run at a node; returns which files it has so far."""
        begin(Path(folder), ticket, node)
        return listing(Path(folder))

    def holds(self, path: str) -> tuple[tuple[str, int, str], ...]:
        """Return what a source holds now: see `inventory`."""
        return inventory(Path(path))

    def piece(self, folder: str, name: str, at: int) -> bytes:
        """Return bytes of a file; none where it ends."""
        with (Path(folder) / name).open("rb") as file:
            file.seek(at)
            return file.read(PIECE)

    def take(self, folder: str, ticket: str, arrived: list[Piece], gone: list[str]) -> tuple[bool, bool]:
        """Put into a run folder what a node has written; returns whether the run is still its, and is to stop."""
        path = Path(folder)
        if _read(path / ENGINE).get("ticket") != ticket:
            return False, True
        for piece in arrived:
            put(path, piece)
        remove(path, gone)
        is_new = any(piece.name == "status.json" for piece in arrived)
        if is_new and _read(path / "status.json").get("state") in ("done", "failed", "stopped"):
            (path / "stop").unlink(missing_ok=True)
        return True, (path / "stop").exists()


def execute(job: dict[str, Any], keeper: Any = None, program: Any = None) -> str:
    """Execute a run at the node that Ray has chosen: the task that it retries elsewhere when the node is lost.

    Args:
        job: `run`, its folder; `workspace`; `root`, of the program; `python`, a command or None for this Python;
            `settings`, the text of the settings file; `flags`, of the run's command; `environment`, variables that are
            set, or removed where None; `sources` that the spec names by a path, where this node sees none of them.
        keeper: the actor that keeps the run folder; None where this node sees it.
        program: a list with the reference to the program's files, where the node does not see it.

    Returns:
        Why nothing was executed, or what the process printed last if it ended before it began the run; else nothing.
    """
    import ray

    name, address = ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()
    node = {"host": socket.gethostname(), "address": address, "id": name}
    if keeper is None:
        return _execute_here(job, node)
    return _execute_apart(job, node, keeper, program)


def _execute_here(job: dict[str, Any], node: dict[str, str]) -> str:
    root, folder = Path(job["root"]), Path(job["run"])
    for path, what in ((root / "paraknow_core", "the program"), (folder, "the run folder")):
        if not path.exists():
            return (
                f"{words_of(node)} does not see {what} at {path}; put it on storage that every node sees under this "
                "path, or set ray.shared to false"
            )
    sys.path.insert(0, str(root))
    from paraknow_core.runs.folder import RunFolder

    while RunFolder(folder).status().state in ("running", "stopping"):
        time.sleep(LOOK_S)  # its process at a node that Ray has given up; on another host its silence counts
    begin(folder, job["ticket"], node)
    return _watch(job, folder, root, job["workspace"], lambda: True)


def _execute_apart(job: dict[str, Any], node: dict[str, str], keeper: Any, program: Any) -> str:
    import ray

    def ask(method: str, *arguments: Any) -> Any:
        return ray.get(getattr(keeper, method).remote(job["run"], *arguments))

    def bring(path: str, name: str, at: int) -> bytes:
        return ray.get(keeper.piece.remote(path, name, at))

    home = home_of(job)
    root = unpacked(home, job["program"], lambda: ray.get(program[0]))
    ticket = secrets.token_hex(8)
    folder = home / "at work" / ticket / Path(job["run"]).name
    folder.mkdir(parents=True)
    try:
        (home / "settings.yaml").write_text(job["settings"], encoding="utf-8")
        known = ask("open", ticket, node)
        for name in known:
            at, last = 0, False
            while not last:
                data = ask("piece", name, at)
                last = at + len(data) >= known[name][0] or not data
                put(folder, Piece(name, at, data, False, last))
                at += len(data)
        # What grows travels whole once: the run may cut a torn line off before it writes on.
        known = {name: (0, 0) if Path(name).suffix in GROWING else facts for name, facts in listing(folder).items()}
        copies: dict[str, str] = {}
        for number, source in enumerate(job["sources"]):
            source = source._replace(files=ray.get(keeper.holds.remote(source.path)))
            see = root / Path(source.text).expanduser()
            place = carried(source, folder.parent / "carried" / str(number), see, bring, words_of(node))
            if isinstance(place, str):
                return place
            copies |= {} if place == see else {source.text: str(place)}
        job = {**job, "environment": {**job["environment"], CARRIED: json.dumps(copies) if copies else None}}
        moment = 0.0

        def carry(final: bool = False) -> bool:
            """Carry what is new; False where the run was given to another node meanwhile."""
            nonlocal known, moment
            if not final and time.monotonic() - moment < CARRY_S:
                return True
            moment, now, bundle, size = time.monotonic(), listing(folder), [], 0
            mine, stop = True, False
            for piece in pieces(folder, now, known):
                bundle.append(piece)
                size += len(piece.data)
                if size >= PIECE:
                    mine, stop = ask("take", ticket, bundle, [])
                    bundle, size = [], 0
            mine, stop = ask("take", ticket, bundle, [name for name in known if name not in now])
            known = now
            if mine and stop and not final:
                (folder / "stop").touch()
            return mine

        said = _watch(job, folder, root, str(home), carry)
        carry(final=True)
        return said
    finally:
        shutil.rmtree(folder.parent, ignore_errors=True)


def home_of(job: dict[str, Any]) -> Path:
    """Return the folder of this node that stands for the workspace, and remove copies of runs that were left in it."""
    base = os.environ.get(HOME_VARIABLE) or Path.home() / ".cache" / "paraknow"
    home = Path(base) / job["namespace"]
    (home / "at work").mkdir(parents=True, exist_ok=True)
    for left in (home / "at work").iterdir():
        with suppress(OSError):
            newest = max(path.stat().st_mtime for path in (left, *left.rglob("*")))
            if time.time() - newest > FORGOTTEN_S:
                shutil.rmtree(left, ignore_errors=True)
    return home


def packed(root: Path) -> bytes:
    """Return the program's own files, the bundled models included, as one archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted((root / "paraknow_core").rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                archive.add(path, path.relative_to(root).as_posix(), recursive=False)
    return buffer.getvalue()


def unpacked(home: Path, name: str, archive: Callable[[], bytes]) -> Path:
    """Return the folder of the program of this version, unpacked where it is not there yet."""
    final = home / "programs" / name
    if not final.is_dir():
        temporary = final.with_name(f".{name}.{secrets.token_hex(4)}")
        temporary.mkdir(parents=True)
        with tarfile.open(fileobj=io.BytesIO(archive())) as files:
            files.extractall(temporary, filter="data")
        try:
            temporary.rename(final)
        except OSError:  # another run of this node was faster
            shutil.rmtree(temporary, ignore_errors=True)
    return final


def _watch(job: dict[str, Any], folder: Path, root: Path, workspace: str, carry: Callable[[], bool]) -> str:
    """Execute a run folder in a process of its own until it ends, this task is cancelled, or `carry` says False."""
    environment = {**os.environ, **job["environment"], "PARAKNOW_WORKSPACE": workspace, "PYTHONUNBUFFERED": "1"}
    command = [*(job["python"] or [sys.executable]), "-m", "paraknow_core", "run", *job["flags"], str(folder)]
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=root,
            start_new_session=True,
            env={key: value for key, value in environment.items() if value is not None},
            preexec_fn=_end_with_parent(),
        )
    try:
        while process.poll() is None:
            if not carry():
                break
            time.sleep(LOOK_S)
    finally:
        _end(process)
    if process.returncode and _read(folder / "status.json").get("state") == "queued":
        with (folder / "log.txt").open("rb") as log:
            lines = log.read()[-10_000:].decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"the process ended with code {process.returncode} before it began"
    return ""


def _end(process: subprocess.Popen) -> None:
    """End a process that is still there and all that it has started: it may save first."""
    for number, patience in ((signal.SIGTERM, PATIENCE_S), (signal.SIGKILL, None)):
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(patience)


def _end_with_parent() -> Callable[[], None] | None:
    """Return what a child calls before it becomes the program, so that the kernel ends it with this process."""
    if sys.platform != "linux":
        return None  # then a run whose node was killed alone goes on to its end, and the next attempt waits for it
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
