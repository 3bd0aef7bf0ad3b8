"""The Ray engine's process: speaks with the cluster, gives each run in hand to a task, and says what keeps one waiting.

All that it knows is in the order's file and in the run folders. It is a driver of Ray: when it ends, Ray ends its
tasks, and the next process gives their runs out again, which go on from their last save.
"""

import hashlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from paraknow_core.engines import ray_node
from paraknow_core.engines.ray import changing, folder_of, has_token, is_loopback, read, require, silence_of, split
from paraknow_core.engines.service import Service
from paraknow_core.errors import ParaknowError
from paraknow_core.files.json_file import read_object, write_json
from paraknow_core.files.naming import is_there, named
from paraknow_core.paths import PROJECT_ROOT, Workspace
from paraknow_core.runs import lifecycle
from paraknow_core.runs.folder import RunFolder
from paraknow_core.settings import flags_of, load_settings

IDLE_S = 600.0
POLL_S = 0.2
LOOK_S = 2.0  # between two looks at the nodes
AGAIN_S = 5.0  # between two tries to reach a cluster
GONE_S = 10.0  # how long a run that is to stop is left to Ray when its process is gone and nothing of it arrives
SLOW_S = 120.0  # the same while its node lives and may still carry what the run has saved, over a slow line
PATIENCE_S = 60.0  # how long connecting may take
MOST_MOVES = 5  # how often Ray takes a run to another node
PYTHON: list[str] | None = None  # the command that executes runs at a node; None: the Python of its Ray
_KEPT = ("OMP_NUM_THREADS", "HF_HUB_OFFLINE")  # Ray sets the first by its own rule, which would change numbers


def serve(place: Workspace) -> None:
    """Give runs to the cluster until asked to stop, or long idle, or left alone.

    Raises:
        RunError: Ray is not installed.
    """
    require()
    service = Service(place, "ray")
    with service.hold() as mine:
        if not mine:
            return
        driver = _Driver(place)
        last = time.monotonic()
        while folder_of(place).is_dir() and not service.asked_to_stop and not driver.refused:
            if read(place).runs:
                last = time.monotonic()
                with suppress(OSError):  # a full disk passes; the order is as it was
                    driver.turn()
            elif (service.left_alone or time.monotonic() - last > IDLE_S) and _leave(place, service):
                break
            time.sleep(POLL_S)
        driver.close()


def _leave(place: Workspace, service: Service) -> bool:
    """End only if nobody has submitted meanwhile; whoever submits after this finds no process and starts one."""
    with changing(place) as order:
        if not order.runs:
            (service.folder / "process.json").unlink(missing_ok=True)
        return not order.runs


def fits(nodes: Sequence[Mapping[str, Any]], wants: Mapping[str, float]) -> str:
    """Return a sentence where no node of a cluster will ever have what a run asks for; empty where one will.

    Args:
        nodes: as `ray.nodes()` returns them.
        wants: `CPU` and `GPU`.
    """
    alive = [node.get("Resources", {}) for node in nodes if node.get("Alive")]
    if not alive:
        return "ray: the cluster has no node that is alive; it waits for one (`ray start --address=...` adds one)"
    if any(all(node.get(name, 0) >= amount for name, amount in wants.items()) for node in alive):
        return ""
    names = {"CPU": ("core", "cpus"), "GPU": ("GPU", "gpus")}
    short = [name for name in wants if all(node.get(name, 0) < wants[name] for node in alive)] or list(wants)
    asked = " and ".join(f"{wants[name]:g} {names[name][0]}{'s' if wants[name] > 1 else ''}" for name in short)
    most = " and ".join(f"{max(node.get(name, 0) for node in alive):g}" for name in short)
    lower = " and ".join(f"ray.{names[name][1]}" for name in short)
    return (
        f"ray: no node of the cluster has {asked} (at most {most}); it waits for one: add such a node, or stop the run "
        f"and lower {lower} in the settings"
    )


def wanted(
    asked: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]], device: str, threads: int | None
) -> dict[str, float]:
    """Return cores and GPUs of one run: what was asked, else its threads, and a GPU where the cluster has any.

    Args:
        asked: `cpus` and `gpus`, None where nothing was said.
        nodes: as `ray.nodes()` returns them.
        device, threads: of the settings.
    """
    has_gpus = any(node.get("Resources", {}).get("GPU", 0) >= 1 for node in nodes if node.get("Alive"))
    gpus = asked["gpus"] if asked["gpus"] is not None else float(has_gpus and device in ("auto", "cuda"))
    cpus = asked["cpus"] if asked["cpus"] is not None else float(threads or 1)
    return {"CPU": cpus, **({"GPU": gpus} if gpus else {})}


def local_sources(run: RunFolder) -> list[ray_node.Source]:
    """Return the models and data sets that a run's spec names by a path, as far as they are here."""
    try:
        spec = run.spec()
    except ParaknowError:
        return []  # the run itself will say so
    models = (spec.teacher, spec.student, *([spec.task.judge] if spec.task.judge else []))
    texts = (*(model.source for model in models), spec.task.source, spec.task.test_source, spec.sensitivity.task)
    found = []
    for text, path in {text: named(text, PROJECT_ROOT).path for text in texts if text}.items():
        with suppress(OSError, ValueError):  # what cannot be a path, or is not to be read: the run will say so
            if path is not None and path.exists():
                found.append(ray_node.Source(text, str(path)))
    return found


def refusal_of(error: BaseException, address: str, printed: str = "") -> str:
    """Return a sentence for what connecting to a cluster raised.

    Args:
        error: what `ray.init` raised, which does not know of a refused login.
        address: of the cluster.
        printed: what Ray has printed meanwhile, which does.
    """
    kind, text = type(error).__name__, " ".join(str(error).split())
    if "authentication" in (kind + text).lower() or "Unauthenticated" in printed:
        return (
            f"ray: {address} refused the login; give this program the token of the cluster (RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN) and start it again; the run waits until then"
        )
    if "version mismatch" in text.lower():
        return f"ray: {address} has another version of Ray or Python than this program; install the same ({text[:200]})"
    return (
        f"ray: {address} could not be joined ({text[:200] or kind}); this machine has to be a node of the cluster: "
        "`ray start --address=...` here, with --num-cpus=0 if it is not to compute"
    )


class _Driver:
    """The tasks of this process, and its connection to the cluster."""

    def __init__(self, place: Workspace) -> None:
        self.place = place
        self.address = ""
        self.refused = False  # the cluster did not take this process; the next one has the environment of who starts it
        self.tasks: dict[str, Any] = {}  # what Ray returned for each run
        # Of runs that are to stop and have no process: the sizes of their files, and since when these are so.
        self._gone: dict[str, tuple[dict[str, int], float]] = {}
        self.wants: dict[str, dict[str, float]] = {}  # what each task asks for
        self.said = read_object(folder_of(place) / "said.json")
        self.nodes: list[dict[str, Any]] = []
        self._looked = self._tried = -1e9
        self._keeper = self._program = None
        self._task: Any = None
        self._version = ""

    def turn(self) -> None:
        """Go through the runs in hand once."""
        order = read(self.place)
        ready = self._connected(order.address)
        messages: dict[str, str] = {}
        for name, asked in order.runs.items():
            run = RunFolder(self.place.runs / name)
            if not is_there(run.path / "spec.yaml"):
                self._end_task(name, force=True)
                self._let_go(name)
            elif asked["end"]:
                self._end(run)
            elif name in self.tasks:
                messages[name] = self._look(run)
            elif run.file("stop").exists() or run.is_over:
                self._cancel(run)
            elif ready:
                messages[name] = self._give(run, asked)
        self._say(self.said.get("message", ""), {name: text for name, text in messages.items() if text})

    def close(self) -> None:
        """Leave the cluster; Ray ends what this process has given it."""
        if self.address:
            import ray

            ray.shutdown()

    def _say(self, message: str, runs: Mapping[str, str] | None = None) -> None:
        said = {"message": message, "runs": dict(runs or {})}
        if said != self.said:
            self.said = said
            folder_of(self.place).mkdir(parents=True, exist_ok=True)
            write_json(folder_of(self.place) / "said.json", said, durable=False)
            for text in filter(None, (message, *said["runs"].values())):
                print(text, flush=True)

    def _connected(self, address: str) -> bool:
        """Tell whether this process is a driver of the cluster at an address; tries again now and then."""
        moment = time.monotonic()
        if self.address:
            if address != self.address:
                self._restart()
            if moment - self._looked > LOOK_S:
                import ray

                self._looked, self.nodes = moment, ray.nodes()
            return True
        if moment - self._tried < AGAIN_S:
            return False
        self._tried = moment
        try:
            message = silence_of(address)
            if not message:
                message = self._connect(address)
                self.refused = bool(message)
        except ParaknowError as error:
            message = str(error)
        self._tried = time.monotonic()
        self._say(message)
        return bool(self.address)

    def _connect(self, address: str) -> str:
        host, port = split(address)
        loopback = is_loopback(host)
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        # Ray replaces 127.0.0.1 by the address of this machine in its network, unless clusters are switched off.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0" if loopback else "1"
        import ray

        watch = threading.Timer(PATIENCE_S, self._no_answer, (address,))
        watch.daemon = True
        watch.start()
        try:
            ray.init(
                address=f"127.0.0.1:{port}" if loopback else address,
                namespace=self._namespace,
                log_to_driver=False,
                configure_logging=False,
                logging_level=logging.ERROR,
            )
            self.nodes = ray.nodes()
            open_nodes = [str(node["NodeManagerAddress"]) for node in self.nodes if node["Alive"]]
            if not has_token() and not all(map(is_loopback, open_nodes)):
                ray.shutdown()
                return (
                    f"ray: nodes of {address} listen beyond this machine without a token; start them with "
                    "--node-ip-address=127.0.0.1, or set RAY_AUTH_MODE=token and a token for all of them"
                )
        except Exception as error:
            with suppress(Exception):
                ray.shutdown()
            return refusal_of(error, address, self._printed())
        finally:
            watch.cancel()
        self.address = address
        ray.cloudpickle.register_pickle_by_value(ray_node)
        self._task = ray.remote(max_retries=MOST_MOVES, retry_exceptions=False)(ray_node.execute)
        return ""

    def _no_answer(self, address: str) -> None:
        """End this process, which Ray does not let go: something answers, but no cluster. The next one tries again."""
        self._say(
            f"ray: what answers at {address} is no cluster that this program can join, or its token is another one; "
            "compare `ray status --address` with the settings"
        )
        os._exit(1)

    def _printed(self) -> str:
        try:
            return (Service(self.place, "ray").folder / "log.txt").read_text(encoding="utf-8", errors="replace")[
                -20_000:
            ]
        except OSError:
            return ""

    def _restart(self) -> None:
        self.close()
        os._exit(0)

    @property
    def _namespace(self) -> str:
        return "paraknow-" + hashlib.sha256(str(self.place.root).encode()).hexdigest()[:12]

    def _give(self, run: RunFolder, asked: Mapping[str, Any]) -> str:
        """Give a run to the cluster, or return why not yet."""
        try:
            settings = load_settings(self.place)
            own = load_settings(self.place, **asked.get("settings", {}))
        except ParaknowError as error:
            return str(error)
        wants = wanted(asked, self.nodes, own.device, own.threads)
        if message := fits(self.nodes, wants):
            return message
        lifecycle.hold(run, "ray", address=self.address, moves=True)
        job = {
            "run": str(run.path),
            "workspace": str(self.place.root),
            "root": str(PROJECT_ROOT),
            "namespace": self._namespace,
            "python": PYTHON,
            "ticket": secrets.token_hex(8),
            "flags": flags_of(asked.get("settings", {})),
            "environment": {name: os.environ.get(name) for name in _KEPT},
            "settings": settings.model_dump_json(exclude_unset=True),  # JSON is YAML; no text that was not checked
        }
        keeper = program = None
        if not asked["shared"]:
            keeper, program = self._apart()
            job["program"] = self._version
            job["sources"] = local_sources(run)
        self.wants[run.id] = wants
        options = {"num_cpus": wants["CPU"], "num_gpus": wants.get("GPU", 0), "name": run.id}
        self.tasks[run.id] = self._task.options(**options).remote(job, keeper, program)
        return ""

    def _apart(self) -> tuple[Any, Any]:
        """Return what nodes without shared storage need: the keeper of the run folders, and the program's files."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if self._keeper is None:
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            kind = ray.remote(ray_node.Keeper)
            options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "max_concurrency": 8}
            self._keeper = kind.options(scheduling_strategy=here, **options).remote()
            archive = ray_node.packed(PROJECT_ROOT)
            self._version = hashlib.sha256(archive).hexdigest()[:16]
            self._program = [ray.put(archive)]
        return self._keeper, self._program

    def _look(self, run: RunFolder) -> str:
        """See whether the task of a run has ended, and write how where the run could not.

        Returns:
            What keeps it from being executed, if no node is left that could.
        """
        import ray

        task, status = self.tasks[run.id], run.status()
        if run.file("stop").exists() and status.state == "queued" and not run.note().get("node"):
            self._cancel(run)
            return ""
        if not ray.wait([task], timeout=0)[0]:
            if self._gone_for(run) > (SLOW_S if self._lives(run) else GONE_S):
                self._end(run)
                return ""
            return "" if status.state in ("running", "stopping") else fits(self.nodes, self.wants[run.id])
        status = run.status()
        try:
            said = ray.get(task)
            if status.state == "queued":
                lifecycle.end(run, "failed", said or "ray: the run was never begun; `runs resume` tries again")
        except ray.exceptions.RayTaskError as error:
            self._fail(
                run, f"ray: the task at the node failed ({_last_line(error)}); see {self.place.root}/services/ray"
            )
        except ray.exceptions.RayError as error:
            if not run.is_over:
                lifecycle.lose(run, f"ray: its node was lost ({type(error).__name__}); `runs resume` goes on")
        self._let_go(run.id)
        return ""

    def _gone_for(self, run: RunFolder) -> float:
        """Return for how many seconds a run that is to stop has had no process, and nothing of it has arrived.

        Its state is the last that arrives: meanwhile its node may carry a large save, in files that grow.
        """
        if run.is_over or run.status().state != "stopped":
            self._gone.pop(run.id, None)
            return 0.0
        sizes = _sizes(run.path)
        if run.id not in self._gone or self._gone[run.id][0] != sizes:
            self._gone[run.id] = sizes, time.monotonic()
        return time.monotonic() - self._gone[run.id][1]

    def _lives(self, run: RunFolder) -> bool:
        """Tell whether the node that a run is at is one that the cluster has."""
        node = run.note().get("node")
        name = node.get("id") if isinstance(node, dict) else None
        return any(one.get("Alive") and one.get("NodeID") == name for one in self.nodes)

    def _fail(self, run: RunFolder, message: str) -> None:
        print(f"{run.id}: {message}", flush=True)
        if not run.is_over:
            lifecycle.end(run, "failed", message)

    def _cancel(self, run: RunFolder) -> None:
        """Take back a run that has not begun."""
        self._end_task(run.id, force=False)
        if run.status().state == "queued":
            lifecycle.end(run, "stopped", lifecycle.CANCELLED)
        self._let_go(run.id)

    def _end(self, run: RunFolder) -> None:
        """End a run by force."""
        self._end_task(run.id, force=True)
        if not run.is_over:
            lifecycle.lose(run, lifecycle.CUT_OFF, wanted=True)
        self._let_go(run.id)

    def _end_task(self, name: str, force: bool) -> None:
        task = self.tasks.get(name)
        if task is None:
            return
        import ray

        with suppress(ray.exceptions.RayError):
            ray.cancel(task, force=force)
            ray.wait([task], timeout=ray_node.PATIENCE_S)

    def _let_go(self, name: str) -> None:
        self.tasks.pop(name, None)
        self.wants.pop(name, None)
        self._gone.pop(name, None)
        lifecycle.let_go(RunFolder(self.place.runs / name))
        with changing(self.place) as order:
            order.runs.pop(name, None)


def _sizes(folder: Path) -> dict[str, int]:
    """Return the bytes of every file of a folder, also of those that are still arriving."""
    found = {}
    for root, _, names in os.walk(folder):
        for path in (f"{root}/{name}" for name in names):
            with suppress(OSError):  # it was put in place, or removed, meanwhile
                found[path] = os.lstat(path).st_size
    return found


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1][:200] if lines else type(error).__name__
