"""A small cluster for tests: SLURM's commands, which really execute jobs as processes of this machine.

As a program it is one of the commands, by the name it is called by: `sbatch`, `squeue`, `sacct`, `scancel`; or
`slurmd`, which waits for a job's turn, executes it and notes its end. Its folder holds a file for each job, and:

    slots       how many jobs go on at a time
    refuses     what `sbatch` says on stderr in place of taking a job
    down        the controller cannot be reached
    calls       one line for each command that was called
    ID.do       what happens to a job that goes on: `TERM`, or how SLURM ends it, such as NODE_FAIL
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(sys.argv[0]).absolute().parent
KILL_WAIT_S = 1.0  # between SIGTERM and SIGKILL
COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "slurmd")


@contextmanager
def changing():
    with (ROOT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def read(job):
    return json.loads((ROOT / f"{job}.json").read_text())


def write(job, **facts):
    new = ROOT / f"{job}.new"
    new.write_text(json.dumps({**(read(job) if (ROOT / f"{job}.json").exists() else {}), **facts}))
    new.replace(ROOT / f"{job}.json")


def all_jobs():
    return sorted((path.stem for path in ROOT.glob("*.json")), key=int)


def options(arguments):
    pairs = (argument.partition("=") for argument in arguments if argument.startswith("--"))
    return {name: value for name, _, value in pairs}, [a for a in arguments if not a.startswith("--")]


def fail(text):
    print(text, file=sys.stderr)
    raise SystemExit(1)


def sbatch(arguments):
    if (ROOT / "refuses").exists():
        fail((ROOT / "refuses").read_text())
    asked, _ = options(arguments)
    text = sys.stdin.buffer.read()
    if not text.startswith(b"#!") or b"\r" in text or b"\0" in text:
        fail("sbatch: error: This does not look like a batch script.")
    with changing():
        job = str(len(all_jobs()) + 1)
        (ROOT / f"{job}.script").write_bytes(text)
        (ROOT / f"{job}.script").chmod(0o755)
        write(job, state="PENDING", code="0:0", node="", asked=asked)
    nothing = subprocess.DEVNULL
    subprocess.Popen([ROOT / "slurmd", job], start_new_session=True, stdin=nothing, stdout=nothing, stderr=nothing)
    print(f"{job};little")


def slurmd(arguments):
    (job,) = arguments
    while True:
        with changing():
            if read(job)["state"] != "PENDING" or (ROOT / "stop").exists():
                return
            states = {other: read(other)["state"] for other in all_jobs()}
            first = next(other for other, state in states.items() if state == "PENDING")
            slots = int((ROOT / "slots").read_text() or 0)  # somebody may be writing it
            if first == job and list(states.values()).count("RUNNING") < slots:
                write(job, state="RUNNING", node="node1")
                break
        time.sleep(0.03)
    asked = read(job)["asked"]
    with open(asked["--output"], "ab") as out:
        process = subprocess.Popen(
            [ROOT / f"{job}.script"], cwd=asked["--chdir"], stdout=out, stderr=out, start_new_session=True
        )
    ended = ""
    while process.poll() is None:
        time.sleep(0.02)
        order = ROOT / f"{job}.do"
        if (ROOT / "stop").exists():
            os.killpg(process.pid, signal.SIGKILL)
        elif order.exists() and (what := order.read_text()):  # it is empty while somebody writes it
            order.unlink()
            if what != "NODE_FAIL":
                os.killpg(process.pid, signal.SIGTERM)
            if what != "TERM":
                ended = what
                until = time.monotonic() + KILL_WAIT_S * (what != "NODE_FAIL")
                while process.poll() is None and time.monotonic() < until:
                    time.sleep(0.02)
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    code = process.returncode
    with changing():
        write(job, state=ended or ("FAILED" if code else "COMPLETED"), code=f"{max(code, 0)}:{max(-code, 0)}")


def wanted(arguments):
    asked, _ = options(arguments)
    known = set(all_jobs())
    return [job for job in asked["--jobs"].split(",") if job in known]


def squeue(arguments):
    jobs = wanted(arguments)
    if not jobs:
        fail("slurm_load_jobs error: Invalid job id specified")
    for job in jobs:
        facts = read(job)
        print(f"{job}|{facts['state']}|{'Priority' if facts['state'] == 'PENDING' else 'None'}|{facts['node']}")


def sacct(arguments):
    for job in wanted(arguments):
        facts = read(job)
        by = " by 1000" if facts["state"] == "CANCELLED" else ""
        print(f"{job}|{facts['state']}{by}|{facts['code']}|{facts['node'] or 'None assigned'}")


def scancel(arguments):
    asked, jobs = options(arguments)
    for job in jobs:
        with changing():
            state = read(job)["state"]
            if asked.get("--state", state) != state:
                continue
            if state == "PENDING":
                write(job, state="CANCELLED")
            elif state == "RUNNING":
                (ROOT / f"{job}.do").write_text(asked.get("--signal", "CANCELLED"))
            else:
                fail(f"scancel: error: Kill job error on job id {job}: Job/step already completing or completed")


def main():
    name = Path(sys.argv[0]).name
    if name != "slurmd":
        with (ROOT / "calls").open("a") as calls:
            print(name, *sys.argv[1:], file=calls)
        if (ROOT / "down").exists():
            fail(f"{name}: error: Unable to contact slurm controller (connect failure)")
    globals()[name](sys.argv[1:])


if __name__ == "__main__":
    main()
