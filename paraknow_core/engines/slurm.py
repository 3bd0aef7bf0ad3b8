"""The engine of SLURM: every run is a job of a cluster, submitted, asked about and cancelled by SLURM's own commands.

The workspace lies on storage that the nodes see under the same path. A run that is executed says everything itself, in
its folder; SLURM is asked only about runs of which nothing is heard: those that wait, and those that look lost.
"""

import os
import re
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from paraknow_core.display import one_line
from paraknow_core.engines.base import Engine, Standing
from paraknow_core.errors import Later, RunError
from paraknow_core.paths import PROJECT_ROOT, WORKSPACE_VARIABLE, Workspace
from paraknow_core.runs import lifecycle
from paraknow_core.runs.folder import NOTE, RunFolder, list_runs
from paraknow_core.settings import SlurmSettings, flags_of

NAME = "slurm"
TOGETHER = 100  # runs of a study that wait or go on at a time: clusters limit how many one person submits
POLL_S = 5.0  # what SLURM has said holds for so long: a controller serves everybody
COMMAND_S = 30.0  # patience with one of its commands
SUBMITTING_S = 2 * COMMAND_S  # who has not noted the id of a job by then was ended
LAG_S = 15.0  # how long shared storage may show an old state of a run whose job has ended
UNKNOWN_S = 60.0  # how long a new job may be unknown to both commands
HARDER_S = 5.0  # a process has so long to end after SIGTERM, and again after SIGKILL
INTERPRETER = Path(sys.prefix, "bin", "python3")
MOST_INTERPRETER = 120  # characters; the kernel cuts longer lines off

# How a job can have ended, by SLURM's names; every other state is one of a job that waits or goes on.
OVER = (
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT", "UNKNOWN"),
)
BY_ITSELF = ("COMPLETED", "FAILED")  # its process ended, for whatever reason
# What SLURM did to a job; what to do before the run is resumed; whether another try makes no sense, or was not wanted.
ENDINGS = {
    "TIMEOUT": ("reached its time limit", "raise settings.slurm.time", False),
    "DEADLINE": ("could not have ended before its deadline", "choose a later one", True),
    "NODE_FAIL": ("lost its node", "", False),
    "BOOT_FAIL": ("lost its node, which did not start", "", False),
    "LAUNCH_FAILED": ("could not be launched on its node", "", False),
    "PREEMPTED": ("had to make room for another job", "", False),
    "OUT_OF_MEMORY": ("ran out of memory", "raise settings.slurm.memory", True),
    "CANCELLED": ("was cancelled", "", True),
    "UNKNOWN": ("is not known to SLURM any more", "", False),
}
ENDED = ("ended before its run did", "the end of the log may say why", False)
# Why a job waits, by SLURM's names: how a person would say it.
REASONS = {
    "None": "SLURM has not looked at it yet",
    "Priority": "other jobs come first",
    "Resources": "waits until enough of the cluster is free",
    "Dependency": "waits for another job",
    "BeginTime": "may not begin yet",
    "ReqNodeNotAvail": "a node that it asks for is not available",
    "PartitionTimeLimit": "asks for more time than its partition allows; lower settings.slurm.time",
    "PartitionNodeLimit": "asks for more nodes than its partition has; change settings.slurm.options",
    "PartitionDown": "its partition is down; choose another in settings.slurm.partition",
    "PartitionInactive": "its partition takes no jobs; choose another in settings.slurm.partition",
    "JobHeldUser": "is held; `scontrol release` lets it go on",
    "JobHeldAdmin": "is held by an administrator of the cluster",
    "InvalidAccount": "its account is not valid; mend settings.slurm.account",
    "InvalidQOS": "its quality of service is not valid; mend settings.slurm.options",
    "QOSMaxJobsPerUserLimit": "waits for your other jobs: more may not run at a time",
    "AssocMaxJobsLimit": "waits for your account's other jobs: more may not run at a time",
}
# What commands say on stderr, what it means for a person, and the error that it is.
REFUSALS = (
    (
        r"(QOS|Assoc)\w*Submit\w*Limit|MaxSubmit",
        "a limit of your account is reached; wait until some jobs have ended, or ask for less",
        Later,
    ),
    (r"(QOS|Assoc)\w+Limit", "a limit of your account does not allow such a job; ask for less", RunError),
    (
        r"submit limit",  # the sentence for all limits, without a name before it
        "a limit of your account is reached; wait until some jobs have ended, or ask for less",
        Later,
    ),
    (r"invalid account", "mend settings.slurm.account, `sacctmgr show associations` lists yours", RunError),
    (r"invalid partition", "mend settings.slurm.partition, `sinfo` lists them", RunError),
    (r"time limit", "mend settings.slurm.time, `sinfo` lists the limits", RunError),
    (r"memory", "mend settings.slurm.memory", RunError),
    (
        r"authenticat|munge|permission denied|not permitted",
        "the login is refused; log in to the cluster anew",
        RunError,
    ),
    (
        r"unable to contact|not responding|connect|timed out|socket|temporarily",
        "the controller cannot be reached; try again when `sinfo` answers",
        Later,
    ),
)


@dataclass(frozen=True)
class Job:
    """What SLURM says of a job: its state and exit code by SLURM's names, why it waits, where it is."""

    state: str
    reason: str = ""
    node: str = ""
    code: str = ""

    @property
    def over(self) -> bool:
        return self.state in OVER


class SlurmEngine(Engine):
    """Gives each run to SLURM as a job of its own."""

    def __init__(self, place: Workspace, **changes: Mapping[str, Any]) -> None:
        """Args: see `Engine`."""
        super().__init__(place, **changes)
        self.cluster = _cluster(place)

    def together(self) -> int:
        """Return how many runs a study hands in at a time: SLURM knows better than a study which can go on.

        Raises:
            RunError: SLURM's commands are not here; SpecError: the settings are not valid.
        """
        _find("sbatch")
        return self.settings().workers or TOGETHER

    def submit(self, *runs: RunFolder, first: bool = False) -> None:
        """Submit a job for each run: see `Engine.submit`. SLURM decides on the order.

        Raises:
            RunError: also where SLURM refuses a job; nothing was changed then.
            Later: it takes none now, or cannot be asked; nothing was changed either.
        """
        del first  # SLURM's priorities are not ours to change
        settings = self.settings().slurm
        _find("sbatch")
        before, earlier = [lifecycle.kept(run) for run in runs], [job_of(run) for run in runs]
        lifecycle.requeue(*runs)
        taken: list[str] = []
        try:
            # A job of an earlier attempt may still be winding down, on a node that is cut off.
            self.cluster.cancel(*(job for job in earlier if job))
            for run in runs:
                ticket = secrets.token_hex(8)
                lifecycle.hold(run, NAME, ticket=ticket, since=time.time())
                taken.append(_submit(run, settings, script(self.place, run, ticket, *flags_of(self.changes))))
                lifecycle.hold(run, NAME, ticket=ticket, job=taken[-1])
        except BaseException:  # Ctrl-C as well
            with suppress(RunError):
                self.cluster.cancel(*taken)
            for run, files in zip(runs, before, strict=True):
                lifecycle.put_back(run, files)
            raise
        self.cluster.began(*taken)

    def stop(self, run: RunFolder, grace_s: float | None = None) -> None:
        """Take a waiting job back; ask a run that goes on to save and stop: see `Engine.stop`."""
        job, status = job_of(run), run.status()
        is_silent = status.state in ("lost", "stopped") and not run.is_over
        if job is not None and is_silent and self.alive(run):
            # Nothing is heard of it, but its job may still be going on: on a silent node, or in front of old files;
            # one that was asked to stop before is seen as stopped then.
            self.cluster.cancel(job)
            lifecycle.lose(run, f"{lifecycle.CUT_OFF}; {run.way_on(status.stage)}", wanted=True, job=job)
            return
        lifecycle.ask_to_stop(run)
        if job is None:
            return
        lifecycle.hold(run, **{**run.note(), "asked": True})
        if run.status().state == "queued" and self._taken_back(run, job):
            return
        if grace_s is None or self._ends(run, grace_s):
            return
        self.cluster.cancel(job, how=["--signal=TERM", "--full"])
        if self._ends(run, HARDER_S if grace_s else 0):
            return
        self.cluster.cancel(job)
        self._ends(run, HARDER_S if grace_s else 0)

    def _taken_back(self, run: RunFolder, job: str) -> bool:
        """Cancel the job of a run that is to stop, if it waits; tell whether the run will never begin."""
        self.cluster.cancel(job, how=["--state=PENDING"])
        if self.cluster.look(job, fresh=True).state != "CANCELLED":
            return False
        lifecycle.end(run, "stopped", lifecycle.CANCELLED)
        return True

    def _ends(self, run: RunFolder, within_s: float) -> bool:
        deadline = time.monotonic() + within_s
        while self.alive(run) and time.monotonic() < deadline:  # one that is silent looks stopped, and may still go on
            time.sleep(0.1)
        return not self.alive(run)

    def alive(self, run: RunFolder) -> bool:
        """Tell whether a run waits or goes on: see `Engine.alive`. What SLURM did to its job becomes its message."""
        job, note, status = job_of(run), run.note(), run.status()
        if job is None:
            since = note.get("since")
            if status.state == "queued" and isinstance(since, float) and time.time() - since > SUBMITTING_S:
                lifecycle.lose(run, "it was cut off while it was submitted; resume submits it again", since=since)
            return super().alive(run)
        if status.state in ("running", "stopping"):
            return True
        if status.state in ("done", "failed") or note.get("gone") or (run.is_over and note.get("asked")):
            return False
        seen = self.cluster.look(job)
        if seen.state == "PENDING" and run.file("stop").exists() and self.cluster.may_try(job):
            # Whoever asked could not reach SLURM, or knows no engine; if it cannot be reached now, the next look tries.
            with suppress(RunError):
                return not self._taken_back(run, job)
        if not seen.over or (seen.state in BY_ITSELF and status.active and self.cluster.over_for(job) < LAG_S):
            return True
        self._settle(run, job, seen)
        return False

    def _settle(self, run: RunFolder, job: str, seen: Job) -> None:
        """Note what SLURM did to the job of a run that could not say how it ended, or stopped because of that."""
        status, note = run.status(), run.note()
        asked = bool(note.get("asked"))
        if run.is_over and seen.state in BY_ITSELF:
            return  # somebody has asked it to stop who knows nothing of engines
        if asked and status.state == "queued":
            lifecycle.lose(run, lifecycle.CANCELLED, wanted=True, job=job)
        elif asked:
            lifecycle.lose(run, f"{lifecycle.CUT_OFF}; {run.way_on(status.stage)}", wanted=True, job=job)
        else:
            what, next_, wanted = ENDINGS.get(seen.state, ENDED)
            code = f", exit code {seen.code}" if seen.state in BY_ITSELF and seen.code else ""
            why = f"SLURM job {job}{f' on {seen.node}' if seen.node else ''} {what} ({seen.state}{code})"
            lifecycle.lose(run, "; ".join(filter(None, (why, next_, run.way_on(status.stage)))), wanted, job=job)

    def standing(self, run: RunFolder) -> Standing:
        """Say what SLURM's job waits for, or on which node it is: see `Engine.standing`."""
        job = job_of(run)
        if job is None:
            return super().standing(run)
        if not self.alive(run):
            return Standing("over", message=run.status().message)
        status, trouble = run.status(), self.cluster.trouble
        if status.state in ("running", "stopping"):
            return Standing("working", where=status.host)
        seen = self.cluster.look(job)
        if trouble:
            return Standing("waiting", message=f"not known at the moment: {trouble}")
        if seen.state == "PENDING":
            reason = seen.reason.split(",")[0].strip("() ")
            return Standing("waiting", message=f"SLURM job {job}: {REASONS.get(reason, f'waits ({reason})')}")
        return Standing("working", where=seen.node, message=f"SLURM job {job} is {seen.state.lower()}")


def job_of(run: RunFolder) -> str | None:
    """Return the id of a run's job; None where SLURM does not hold the run."""
    note = run.note()
    job = note.get("job") if note.get("engine") == NAME else None
    return job if isinstance(job, str) and re.fullmatch(r"\d+", job) else None


def script(place: Workspace, run: RunFolder, ticket: str, *flags: str) -> str:
    """Return the batch script of a run: Python that becomes the run's process, so that no name meets a shell.

    The job ends at once if its ticket is not the run's, or not any more: SLURM may have taken it although `sbatch` said
    nothing in time, and then nobody knows of it.
    """
    usable = INTERPRETER.exists() and re.fullmatch(rf"[!-~]{{1,{MOST_INTERPRETER}}}", str(INTERPRETER))
    environment = {WORKSPACE_VARIABLE: str(place.root.absolute()), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "paraknow_core", "run", *flags, str(run.path.absolute())]
    return f"""#!{INTERPRETER if usable else "/usr/bin/env python3"}
import json, os, time
log = os.open({ascii(str(run.file("log.txt").absolute()))}, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
os.dup2(log, 1)
os.dup2(log, 2)
def is_wanted():
    try:
        with open({ascii(str(run.file(NOTE).absolute()))}, "rb") as file:
            note = json.load(file)
        return note["ticket"] == {ascii(ticket)} and "gone" not in note
    except (OSError, ValueError, KeyError, TypeError):
        return False
end = time.monotonic() + {LAG_S}
while not is_wanted():
    if time.monotonic() > end:
        raise SystemExit("this job is not the run's, or not any more: it computes nothing")
    time.sleep(0.1)
os.environ.update({ascii(environment)})
os.chdir({ascii(str(PROJECT_ROOT))})
command = {ascii(command)}
os.execv(command[0], command)
"""


def _options(run: RunFolder, settings: SlurmSettings) -> list[str]:
    asked = {
        "partition": settings.partition,
        "account": settings.account,
        "time": settings.time,
        "mem": settings.memory,
        "job-name": f"paraknow {run.id}"[:100],
        "chdir": str(PROJECT_ROOT),
        "output": os.devnull,  # the script opens the log itself: in a name given here, SLURM would replace every %
    }
    given = [f"--{option}={value}" for option, value in asked.items() if value is not None]
    # A study submits a lost run again itself, and says so; settings may say --requeue, which then wins.
    return ["--parsable", "--no-requeue", *given, *settings.options]


def _submit(run: RunFolder, settings: SlurmSettings, text: str) -> str:
    """Submit a batch script and return the id of its job."""
    answer = _call("sbatch", *_options(run, settings), given=text).strip()
    job = answer.partition(";")[0]  # the name of the cluster follows where there are several
    if not re.fullmatch(r"\d+", job):
        raise RunError(
            f"engine slurm: sbatch answered '{one_line(answer)[:100]}', which is no job id; see `squeue --me`"
        )
    return job


class _Unknown(RunError):
    """SLURM does not know a job, or not any more."""


def _call(command: str, *arguments: str, given: str = "") -> str:
    """Run one of SLURM's commands, and return what it prints.

    Raises:
        RunError: one sentence, with what to do; `Later` where that is to wait.
    """
    _find(command)
    try:
        done = subprocess.run(
            [command, *arguments], input=given.encode(), capture_output=True, timeout=COMMAND_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise Later(f"engine slurm: {command} has not answered for {COMMAND_S:.0f} s; try again later") from None
    if done.returncode == 0:
        return done.stdout.decode(errors="replace")
    said = one_line(done.stderr.decode(errors="replace").strip())[:300]
    if re.search(r"invalid job id|already complet", said, re.IGNORECASE):
        raise _Unknown(f"engine slurm: {said}")
    found = ((means, error) for pattern, means, error in REFUSALS if re.search(pattern, said, re.IGNORECASE))
    means, error = next(found, ("mend what it names", RunError))
    raise error(f"engine slurm: {means} ({said or f'{command} ended with code {done.returncode}'})")


def _find(command: str) -> None:
    if shutil.which(command) is None:
        raise RunError(
            f"engine slurm: there is no command {command} on this machine; work on a login node of the cluster, or "
            "choose another engine (`--engine`, or `engine` in settings.yaml)"
        )


def _sacct(jobs: Iterable[str]) -> dict[str, Job]:
    fields = "--format=JobID,State,ExitCode,NodeList"
    lines = _call("sacct", "--noheader", "--parsable2", "--allocations", fields, f"--jobs={','.join(jobs)}")
    rows = (line.split("|") for line in lines.splitlines() if line.count("|") == 3)
    return {job: Job(_word(state), "", _node(node), code) for job, state, code, node in rows}


def _squeue(jobs: Iterable[str]) -> dict[str, Job]:
    lines = ""
    with suppress(_Unknown):  # none of them is known any more
        lines = _call("squeue", "--noheader", "--states=all", "--format=%i|%T|%r|%N", f"--jobs={','.join(jobs)}")
    rows = (line.split("|") for line in lines.splitlines() if line.count("|") == 3)
    return {job.strip(): Job(_word(state), reason, _node(node)) for job, state, reason, node in rows}


def _word(state: str) -> str:
    return (state.split() or [""])[0]  # `CANCELLED by 1000`


def _node(name: str) -> str:
    return "" if name in ("None assigned", "n/a", "(null)") else name


@cache
def _cluster(place: Workspace) -> "Cluster":
    return Cluster(place)


class Cluster:
    """What is known of the jobs of a workspace; one call asks about all of them, and its answer holds for a while.

    Attributes:
        trouble: why SLURM could not be asked the last time; empty where it could.
    """

    def __init__(self, place: Workspace) -> None:
        """Args: place, the workspace."""
        self.place, self.trouble = place, ""
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._since: dict[str, float] = {}  # when each was first wanted, and then when it was first seen to be over
        self._tried: dict[str, float] = {}  # when each was to be taken back
        self._asked = self._no_accounting = -float("inf")

    def began(self, *jobs: str) -> None:
        """Remember jobs that were submitted a moment ago: until the next look at all jobs, they wait."""
        with self._lock:
            self._add(jobs)

    def look(self, job: str, fresh: bool = False) -> Job:
        """Return what SLURM says of a job, or has said a moment ago; where it cannot be asked, what it said before.

        Args:
            job: its id.
            fresh: ask about it now, and about no other.
        """
        with self._lock:
            is_new = job not in self._jobs
            if is_new:
                self._add([job, *filter(None, map(job_of, list_runs(self.place)))])
            if fresh:
                self._ask([job])
            elif not self._jobs[job].over and (is_new or time.monotonic() - self._asked >= POLL_S):
                self._ask([job for job, seen in self._jobs.items() if not seen.over])
                self._asked = time.monotonic()
            return self._jobs[job]

    def over_for(self, job: str) -> float:
        """Return for how many seconds a job has been known to be over."""
        return time.monotonic() - self._since[job]

    def may_try(self, job: str) -> bool:
        """Tell whether a job may be taken back now; a controller is not asked to do that at every look."""
        moment = time.monotonic()
        if moment - self._tried.get(job, -float("inf")) < POLL_S:
            return False
        self._tried[job] = moment
        return True

    def cancel(self, *jobs: str, how: Iterable[str] = ()) -> None:
        """Have jobs cancelled, or what the options say done to them; those that are over stay so.

        Raises:
            RunError: SLURM cannot be asked, or refuses.
        """
        if jobs:
            with suppress(_Unknown):
                _call("scancel", *how, *jobs)

    def _add(self, jobs: Iterable[str]) -> None:
        for job in jobs:
            if job not in self._jobs:
                self._jobs[job], self._since[job] = Job("PENDING", "None"), time.monotonic()

    def _ask(self, wanted: list[str]) -> None:
        """Ask about jobs: by `sacct`, then by `squeue` about those that wait or are not there."""
        found: dict[str, Job] = {}
        self.trouble = ""
        try:
            if time.monotonic() - self._no_accounting >= UNKNOWN_S:
                try:
                    found = _sacct(wanted)
                except RunError:  # it is not here, or down: then squeue knows
                    self._no_accounting = time.monotonic()
            open_ = [job for job in wanted if job not in found or found[job].state == "PENDING"]
            if open_:
                found |= _squeue(open_)
        except RunError as error:
            self.trouble = str(error)
        moment = time.monotonic()
        for job in wanted:
            if job not in found and not self.trouble and moment - self._since[job] > UNKNOWN_S:
                found[job] = Job("UNKNOWN")  # neither knows it any more
            if job in found:
                self._since[job] = moment if found[job].over else self._since[job]
                self._jobs[job] = found[job]
