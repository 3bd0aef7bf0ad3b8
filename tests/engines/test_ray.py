"""The engine of a Ray cluster: what it refuses, what travels to a node and back, and a study whose node is killed."""

import filecmp
import hashlib
import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from paraknow_core import engines
from paraknow_core.cli import main
from paraknow_core.engines import engine_of, ray, ray_node, ray_service
from paraknow_core.engines.ray import RayEngine, is_loopback, refuse_open, silence_of, split
from paraknow_core.engines.ray_node import Keeper, Piece, begin, listing, pieces, put, remove
from paraknow_core.engines.ray_service import fits, refusal_of, wanted
from paraknow_core.engines.service import Service
from paraknow_core.errors import Later, RunError
from paraknow_core.files import naming
from paraknow_core.files.json_file import read_json, write_json
from paraknow_core.models.source import resolve_model
from paraknow_core.paths import Workspace
from paraknow_core.runs import lifecycle
from paraknow_core.runs.folder import RunFolder, list_runs
from paraknow_core.runs.lifecycle import create_run
from paraknow_core.runs.processes import this_process
from paraknow_core.settings import load_settings
from paraknow_core.spec import RunSpec
from paraknow_core.studies.folder import list_studies
from paraknow_core.studies.study import StudySpec
from paraknow_core.workbench.sources import sources_of
from tests.conftest import ROOT
from tests.engines.clusters import PYTHON, RayCluster, listening
from tests.engines.following import make, until

STEPS = 200
LOCAL, NOBODY = "127.0.0.1:6379", "127.0.0.1:1"  # no cluster listens at port 1
NODE, OTHER = ({"host": "big", "address": f"10.0.0.{n}", "id": f"{n}{'0' * 55}"} for n in (2, 3))


@pytest.fixture
def quiet(monkeypatch):
    """Nothing is started, and a cluster seems to answer."""
    monkeypatch.setattr(Service, "start", lambda _self: None)
    monkeypatch.setattr(ray, "silence_of", lambda _address: "")
    monkeypatch.setattr(ray, "LET_GO_S", 0.0)


def engine(place: Workspace, **changes: object) -> RayEngine:
    return engine_of(place, name="ray", ray={"address": LOCAL, **changes})


# ---- what is refused, and how it is said


def test_without_ray_choosing_it_says_how_to_install_it(place, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(RunError, match=r"Ray is not installed; `.*pip install -r .*requirements-ray.txt`"):
        engine(place)


def test_its_process_says_at_once_that_ray_is_not_installed(workspace, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else find(name, *rest))
    assert main(["--workspace", str(workspace.root), "serve", "ray"]) == 2
    said = capsys.readouterr().err
    assert "Ray is not installed" in said and "requirements-ray.txt" in said and said.count("\n") == 1


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "127.0.0.1", ":6379", "host:port", "host:0", "h:70000"])
def test_what_is_no_address_is_said(address):
    with pytest.raises(RunError, match="host:port as `ray start` prints it"):
        split(address)
    assert split("[::1]:80") == ("::1", 80)


def test_an_address_that_others_can_reach_needs_a_token(place, monkeypatch, tmp_path, quiet):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert is_loopback("localhost")
    assert not is_loopback("no such host.invalid")
    far, [run] = engine(place, address="192.0.2.7:6379"), make(place, "one")
    secret = tmp_path / "token"
    secret.write_text("open sesame")
    for variables in ({}, {"RAY_AUTH_TOKEN": "x"}, {"RAY_AUTH_MODE": "token"}, {"RAY_AUTH_TOKEN_PATH": str(secret)}):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(RunError, match="without a token anybody there could execute code; set RAY_AUTH_MODE=token"):
            far.submit(run)
        for name in variables:
            monkeypatch.delenv(name)
    assert not run.claimed
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    for name, value in (("RAY_AUTH_TOKEN", "x"), ("RAY_AUTH_TOKEN_PATH", str(secret))):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            refuse_open("192.0.2.7:6379", "192.0.2.7")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("x")  # where `ray get-auth-token --generate` puts it
    far.submit(run)
    assert run.claimed


def test_the_address_is_that_of_the_command_the_settings_or_ray_itself(place, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert engine_of(place, name="ray").asked().address == LOCAL
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:77")
    assert engine(place, address="auto").asked().address == "127.0.0.1:77"
    place.root.mkdir()
    write_json(place.settings_file, {"ray": {"address": "127.0.0.1:88", "gpus": 0.25}})
    asked = engine_of(place, name="ray").asked()
    assert (asked.address, asked.gpus) == ("127.0.0.1:88", 0.25)
    assert engine(place, address="127.0.0.1:99").asked().address == "127.0.0.1:99"


def test_an_address_where_nothing_answers_is_said_before_anything_is_started(place, run_cli, workspace, tmp_path):
    assert "nothing answers at 127.0.0.1:1" in silence_of(NOBODY)
    assert "ray start --head" in silence_of(NOBODY)
    [run] = make(place, "one")
    with pytest.raises(Later, match="nothing answers"):
        engine(place, address=NOBODY).submit(run)
    assert not run.claimed
    with pytest.raises(RunError, match="nothing answers"):
        engine(place, address=NOBODY).together()
    (tmp_path / "spec.yaml").write_text(RunSpec(name="one").to_yaml())
    told = run_cli("runs", "submit", tmp_path / "spec.yaml", "--engine", "ray", "--address", NOBODY)
    assert told.returncode == 2
    assert "nothing answers at 127.0.0.1:1" in told.stderr
    assert "Traceback" not in told.stderr
    assert list_runs(workspace) == []


def test_what_no_node_has_is_said_with_the_next_step():
    node = {"Alive": True, "Resources": {"CPU": 4.0}}
    assert fits([node], {"CPU": 4}) == ""
    assert "has 1 GPU (at most 0); it waits" in fits([node], {"CPU": 1, "GPU": 1})
    assert "has 8 cores (at most 4)" in fits([node], {"CPU": 8})
    assert "ray.cpus" in fits([node], {"CPU": 8})
    with_gpu = {"Alive": True, "Resources": {"CPU": 1.0, "GPU": 2.0}}
    assert "4 cores and 2 GPUs (at most 4 and 2)" in fits([node, with_gpu], {"CPU": 4, "GPU": 2})  # no node has both
    assert fits([node, with_gpu], {"CPU": 1, "GPU": 0.25}) == ""
    assert "no node that is alive" in fits([{**node, "Alive": False}], {"CPU": 1})


def test_a_run_asks_for_what_was_set_and_else_for_a_core_and_a_gpu_where_there_are_any():
    plain, gpus = [{"Alive": True, "Resources": {"CPU": 4.0}}], [{"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}}]
    nothing = {"cpus": None, "gpus": None}
    assert wanted(nothing, plain, "auto", None) == {"CPU": 1}
    assert wanted(nothing, gpus, "auto", 3) == {"CPU": 3, "GPU": 1}
    assert wanted(nothing, gpus, "cpu", None) == {"CPU": 1}
    assert wanted({"cpus": 2.0, "gpus": 0.0}, gpus, "auto", 3) == {"CPU": 2}
    assert wanted({"cpus": 0.5, "gpus": 0.25}, plain, "cpu", 3) == {"CPU": 0.5, "GPU": 0.25}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("Version mismatch: The cluster was started with: Ray: 2.9"), "another version of Ray"),
        (type("AuthenticationError", (Exception,), {})("invalid"), "refused the login; give this program the token"),
        (ConnectionError("no raylet here"), "has to be a node of the cluster"),
    ],
)
def test_what_connecting_raises_becomes_a_sentence(error, words):
    assert words in refusal_of(error, LOCAL)


def test_a_refused_login_is_only_printed_by_ray_and_said_all_the_same():
    printed = "[W 1] gcs_client.cc:210: Failed to get cluster ID: Unauthenticated: RPC error: InvalidAuthToken"
    assert "refused the login" in refusal_of(ConnectionError("Failed to connect"), LOCAL, printed)


# ---- the order of the runs in hand


def test_runs_in_hand_are_in_order_and_refused_a_second_time(place, quiet):
    first, second, other = make(place, "first", "second", "other")
    one = engine(place, gpus=0.5)
    one.submit(first, second)
    assert list(ray.read(place).runs) == [first.id, second.id]
    assert ray.read(place).runs[first.id] == {"cpus": None, "gpus": 0.5, "shared": True, "end": False}
    assert one.alive(first)
    assert not one.alive(other)
    assert [one.standing(run).ahead for run in (first, second)] == [0, 1]
    with pytest.raises(RunError, match="already queued; watch"):
        one.submit(other, first)
    assert not other.claimed
    with pytest.raises(RunError, match=f"going on at {LOCAL}"):
        engine(place, address="127.0.0.1:7000").submit(other)
    write_json(place.root / "ray" / "order.json", {"address": 3, "runs": {"x": []}})
    assert ray.read(place) == ray.Order("", {})


def test_what_keeps_a_run_waiting_is_told_and_it_can_be_stopped_meanwhile(place, quiet, monkeypatch):
    monkeypatch.setattr(ray_service, "silence_of", lambda address: f"ray: nothing answers at {address}")
    [run] = make(place, "one")
    one, driver = engine(place), ray_service._Driver(place)
    one.submit(run)
    driver.turn()
    standing = one.standing(run)
    assert (standing.state, standing.message) == ("waiting", f"ray: nothing answers at {LOCAL}")
    one.stop(run)
    driver.turn()
    assert (run.status().state, run.status().message) == ("stopped", lifecycle.CANCELLED)
    assert not one.alive(run)
    assert ray.read(place).runs == {}


class Tasks:
    """Stands for the function that Ray executes at a node; remembers what it is given."""

    def __init__(self) -> None:
        self.jobs: list[dict] = []

    def options(self, **_: object) -> "Tasks":
        return self

    def remote(self, job: dict, *_: object) -> str:
        self.jobs.append(job)
        return "task"


@pytest.mark.parametrize("content", [b"hf_token: hf_abcdefghijklmnopqrstuvwxyz123456\n", b"\xff\xfe", b"threads: no"])
def test_a_run_waits_for_settings_that_can_be_used_and_takes_nothing_else_to_a_node(place, quiet, content):
    one, [run] = engine(place), make(place, "one")
    one.submit(run)
    driver = ray_service._Driver(place)
    driver.address, driver._looked = LOCAL, float("inf")
    driver.nodes, driver._task = [{"Alive": True, "Resources": {"CPU": 4.0}}], Tasks()
    place.settings_file.write_bytes(content)
    driver.turn()
    assert driver._task.jobs == []
    assert "settings" in one.standing(run).message
    assert "hf_abc" not in one.standing(run).message
    place.settings_file.write_text("# mine\nthreads: 3\nmemory_budget: 3GB\nray: {gpus: 0.25}\n")
    driver.turn()
    [job] = driver._task.jobs
    assert job["flags"] == []
    other = Workspace(place.root / "node")
    other.root.mkdir()
    other.settings_file.write_text(job["settings"])  # what a node does
    assert load_settings(other) == load_settings(place)
    assert "mine" not in job["settings"]


def test_settings_of_a_command_are_of_its_runs_alone_and_decide_what_they_ask_for(place, quiet):
    plain, own = make(place, "one", "other")
    engine(place).submit(plain)
    engine_of(place, name="ray", ray={"address": LOCAL}, threads=3, device="cpu").submit(own)
    driver = ray_service._Driver(place)
    driver.address, driver._looked = LOCAL, float("inf")
    driver.nodes, driver._task = [{"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}}], Tasks()
    driver.turn()
    assert [job["flags"] for job in driver._task.jobs] == [[], ["--device=cpu", "--threads=3"]]
    assert not any("threads" in job["settings"] for job in driver._task.jobs)  # that file is all runs' of a node
    assert driver.wants == {plain.id: {"CPU": 1, "GPU": 1}, own.id: {"CPU": 3}}


def test_a_run_that_moves_is_alive_though_its_process_is_gone_and_can_be_stopped(place, quiet):
    [run] = make(place, "one")
    one, driver = engine(place), ray_service._Driver(place)
    one.submit(run)
    begin(run.path, "ticket", NODE)
    write_json(run.file("status.json"), {"state": "running", "attempt": 1, **this_process(), "pid": 2**22 + 1})
    assert run.status().state == "lost"
    assert one.alive(run)
    assert one.standing(run).state == "waiting"
    assert "node 10.0.0.2 (big, 200000) is gone; it goes on at another one" in one.standing(run).message
    with pytest.raises(RunError, match="moves to another node"):
        one.submit(run)
    one.stop(run)
    driver.turn()
    assert not one.alive(run)
    # Stopped, not lost: a study submits again what is lost.
    assert (run.status().state, run.status().message) == ("stopped", lifecycle.CUT_OFF)


def test_a_run_that_was_to_stop_and_whose_process_is_gone_is_stopped_but_not_begun_elsewhere_before_ray_lets_go(
    place, quiet
):
    run = lost(place, "one")
    run.file("stop").touch()
    assert (run.status().state, run.status().message.partition(";")[0]) == ("stopped", lifecycle.CUT_OFF)
    assert engine(place).alive(run)  # its node may carry how it ended, or another one begin it
    with pytest.raises(RunError, match="moves to another node"):
        engine_of(place, name="local").submit(run)
    driver = ray_service._Driver(place)
    assert driver._gone_for(run) < 1
    passes(driver, run, 100)
    assert driver._gone_for(run) > ray_service.GONE_S
    driver._end(run)  # what the driver does then
    assert (run.status().state, run.status().message) == ("stopped", lifecycle.CUT_OFF)
    assert not engine(place).alive(run)
    engine(place).submit(run)
    assert run.status().state == "queued"
    run.file("stop").touch()
    assert ray_service._Driver(place)._gone_for(run) == 0  # it waits


def lost(place: Workspace, name: str) -> RunFolder:
    """Return a run that Ray has in hand and whose node is gone."""
    [run] = make(place, name)
    engine(place).submit(run)
    begin(run.path, "ticket", NODE)
    write_json(run.file("status.json"), {"state": "running", "attempt": 1, **this_process(), "pid": 2**22 + 1})
    return run


def passes(driver: ray_service._Driver, run: RunFolder, seconds: float) -> None:
    """Let a run have been without a process for so much longer."""
    sizes, since = driver._gone[run.id]
    driver._gone[run.id] = sizes, since - seconds


def test_a_run_whose_large_save_is_still_carried_is_left_to_its_node(place, quiet):
    run, driver = lost(place, "one"), ray_service._Driver(place)
    run.file("stop").touch()
    for at in range(3):
        driver._gone_for(run)
        passes(driver, run, 100)
        assert driver._gone_for(run) > ray_service.GONE_S
        weights = Piece("checkpoints/checkpoint-7/weights", 2 * at, b"ab", False, at == 2)
        assert Keeper().take(str(run.path), "ticket", [weights], []) == (True, True)
        assert driver._gone_for(run) < 1


def test_a_node_that_lives_has_longer_to_carry_what_was_saved(place, quiet, monkeypatch):
    ended = []
    little = SimpleNamespace(
        wait=lambda tasks, timeout: ([], tasks),
        cancel=lambda task, force: ended.append((task, force)),
        exceptions=SimpleNamespace(RayError=ConnectionError),
    )
    at_living, at_lost = lost(place, "one"), lost(place, "other")
    monkeypatch.setitem(sys.modules, "ray", little)
    for run, lives, seconds in ((at_living, True, ray_service.SLOW_S), (at_lost, False, ray_service.GONE_S)):
        driver = ray_service._Driver(place)
        run.file("stop").touch()
        driver.nodes = [{"NodeID": OTHER["id"], "Alive": True}, {"NodeID": NODE["id"], "Alive": lives}]
        driver.tasks[run.id], driver.wants[run.id] = run.id, {"CPU": 1.0}
        driver._look(run)
        passes(driver, run, seconds - 5)
        driver._look(run)
        assert driver.tasks and run.id in ray.read(place).runs
        passes(driver, run, 5)
        driver._look(run)
        assert ended.pop() == (run.id, True) and not driver.tasks and run.id not in ray.read(place).runs
        assert run.status().message == lifecycle.CUT_OFF


def test_who_asks_again_spoils_no_save_and_can_end_the_run_by_force(place, quiet, monkeypatch):
    monkeypatch.setattr(ray, "HARDER_S", 0.0)
    run, one = lost(place, "one"), engine(place)
    run.file("stop").touch()
    one.stop(run)
    assert ray.read(place).runs[run.id]["end"] is False
    assert one.standing(run).state == "waiting"
    assert "node 10.0.0.2 (big, 200000) may still bring what it has saved" in one.standing(run).message
    engines.end_now(place, run)
    assert ray.read(place).runs[run.id]["end"] is True
    ray_service._Driver(place).turn()
    assert (run.status().state, run.status().message) == ("stopped", lifecycle.CUT_OFF)
    with pytest.raises(RunError, match="is stopped, not running"):
        one.stop(run)


def test_a_run_that_moves_is_not_begun_elsewhere_until_ray_lets_it_go(place, quiet):
    run, other, silent = (lost(place, name) for name in ("one", "other", "silent"))
    for name in ("local", "queue"):
        with pytest.raises(RunError, match="moves to another node; watch it, or stop it first"):
            engine_of(place, name=name).submit(run)
    assert run.status().state == "lost"
    message = run.status().message
    ray_service._Driver(place)._let_go(run.id)  # its task has ended, its process could not say so
    assert (run.status().state, run.status().message) == ("lost", message)
    assert not engine(place).alive(run)
    assert lifecycle.requeue(run) == [1]
    gone = silent.written()
    write_json(silent.file("status.json"), {"state": "running", "attempt": 1, **this_process()})
    ray_service._Driver(place)._let_go(silent.id)  # at a node of which it will be known later that it is silent
    write_json(silent.file("status.json"), vars(gone))
    assert lifecycle.requeue(silent) == [1]
    ray.folder_of(place).joinpath("order.json").unlink()  # nobody has the other one in hand any more
    with pytest.raises(RunError, match="is lost, not running"):
        engine(place).stop(other)
    assert lifecycle.requeue(other) == [1]


def test_a_lost_run_that_nobody_has_in_hand_is_taken_by_ray_again(place, quiet):
    run = lost(place, "one")
    ray.folder_of(place).joinpath("order.json").unlink()
    engine(place).submit(run)
    assert run.status().state == "queued"
    assert engine(place).alive(run)


# ---- what travels


def writes(folder: Path, chance: random.Random, step: int) -> bytes:
    """Do to a run folder what a run does (lines, a state, a checkpoint, of which old ones go); return its weights."""
    with (folder / "events.jsonl").open("a") as events:
        events.write(f'{{"step": {step}}}\n' * chance.randrange(3))
    (folder / "status.json").write_text(f'{{"done": {step}}}')
    new = folder / "checkpoints" / f"checkpoint-{step}"
    new.mkdir(parents=True)
    weights = chance.randbytes(chance.randrange(1, 300))
    (new / "weights").write_bytes(weights)
    if chance.random() < 0.7:
        (new / "complete").write_text("seal")
        for old in new.parent.iterdir():
            if old != new:
                shutil.rmtree(old)
    return weights


@pytest.mark.parametrize("seed", range(5))
def test_what_arrives_is_what_was_written_and_whole_at_every_moment(tmp_path, monkeypatch, seed):
    monkeypatch.setattr(ray_node, "PIECE", 100)
    chance, there, here = random.Random(seed), tmp_path / "there", tmp_path / "here"
    (there / "adapter").mkdir(parents=True)
    here.mkdir()
    (there / "lock").write_text("")
    (there / "label.json").write_text("theirs")
    (here / "label.json").write_text("ours")
    (there / "adapter" / ".weights.0a1b2c3d").write_text("half")
    known, weights = {}, {}
    for step in range(12):
        weights[step] = writes(there, chance, step)
        now, sent = listing(there), 0
        for piece in pieces(there, now, known):
            put(here, piece)
            sent += len(piece.data) if piece.name == "events.jsonl" else 0
            saved = RunFolder(here).saved_step()
            assert saved is not None or not any("complete" in name for name in known)
            if saved is not None:
                assert (here / f"checkpoints/checkpoint-{saved}/weights").read_bytes() == weights[saved]
        remove(here, [name for name in known if name not in now])
        assert sent <= now["events.jsonl"][0] - known.get("events.jsonl", (0, 0))[0]  # only what is new
        known = now
        assert {name: (here / name).read_bytes() for name in now} == {name: (there / name).read_bytes() for name in now}
        assert {*listing(here)} == {*now}
    assert (here / "label.json").read_text() == "ours"
    assert not any("lock" in name or ".weights" in name for name in known)


def test_the_state_comes_last_and_a_seal_after_what_it_seals(tmp_path):
    saved = "checkpoints/checkpoint-2"
    names = ["status.json", "result.json", f"{saved}/complete", f"{saved}/weights", "x.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    order = [piece.name for piece in pieces(tmp_path, listing(tmp_path), {})]
    assert order == [f"{saved}/weights", "x.txt", f"{saved}/complete", "result.json", "status.json"]


@pytest.mark.parametrize("name", ["../spec.yaml", "/etc/passwd", "a/../../b", "engine.json", "stop"])
def test_what_would_land_elsewhere_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="no file of a run"):
        put(tmp_path, Piece(name, 0, b"", False, True))


def test_a_run_that_was_moved_says_so_and_waits_again_behind_a_torn_line(place):
    [run] = make(place, "one")
    begin(run.path, "first", NODE)
    assert run.events() == []
    write_json(run.file("status.json"), {"state": "running", "attempt": 3})
    seal = run.file("checkpoints") / "checkpoint-12" / "complete"
    seal.parent.mkdir(parents=True)
    seal.write_text("")
    run.file("events.jsonl").write_text('{"event": "metrics", "step": 12}\n{"event": "met')
    begin(run.path, "second", OTHER)
    assert [event["event"] for event in run.events()] == ["metrics", "moved"]
    assert run.events()[-1]["message"] == (
        "node 10.0.0.2 (big, 200000) was lost; the run goes on at node 10.0.0.3 (big, 300000), from its last save, "
        "step 12"
    )
    assert (run.status().state, run.status().attempt) == ("queued", 3)
    assert run.note()["ticket"] == "second"


def test_a_node_that_was_given_up_can_change_nothing_any_more(place):
    [run] = make(place, "one")
    keeper, folder = Keeper(), str(run.path)
    known = keeper.open(folder, "first", NODE)
    assert {*known} == {"spec.yaml", "status.json"}
    assert keeper.piece(folder, "spec.yaml", 0) == run.file("spec.yaml").read_bytes()
    state = Piece("status.json", 0, b'{"state": "running", "attempt": 1}', False, True)
    assert keeper.take(folder, "first", [state], []) == (True, False)
    run.file("stop").touch()
    assert keeper.take(folder, "first", [], []) == (True, True)
    keeper.open(folder, "second", OTHER)
    assert keeper.take(folder, "first", [state], ["spec.yaml"]) == (False, True)
    assert run.written().state == "queued"
    assert run.file("spec.yaml").exists()
    over = Piece("status.json", 0, b'{"state": "stopped", "attempt": 1}', False, True)
    assert keeper.take(folder, "second", [over], []) == (True, False)
    assert not run.file("stop").exists()


def test_nodes_get_the_program_as_it_is_here_once(tmp_path):
    made = []
    archive = ray_node.packed(ROOT)

    def give() -> bytes:
        made.append(1)
        return archive

    for _ in range(2):
        root = ray_node.unpacked(tmp_path, "1a", give)
    assert made == [1]
    source = (ROOT / "paraknow_core" / "engines" / "ray.py").read_bytes()
    assert (root / "paraknow_core" / "engines" / "ray.py").read_bytes() == source
    told = subprocess.run(
        [sys.executable, "-c", "import paraknow_core.paths as p; print(p.PROJECT_ROOT)"],
        cwd=root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout.strip() == str(root)


def wide_spec() -> RunSpec:
    """Return a spec that names everything that can be named by a path."""
    names = ("teacher.source", "student.source", "task.source", "task.test_source", "sensitivity.task")
    judge = {"task.judge": {"source": "/data/judge"}}
    return RunSpec().with_changes({name: f"/data/{name}" for name in names} | judge)


def test_every_source_of_a_spec_is_thought_of(place, monkeypatch):
    run = create_run(place, wide_spec())
    monkeypatch.setattr(Path, "exists", lambda _path: True)
    found = ray_service.local_sources(run)
    assert {one.text for one in found} == {one.text for one in sources_of(wide_spec())}
    monkeypatch.undo()
    assert ray_service.local_sources(create_run(place, RunSpec())) == []  # all is bundled


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "models" / "my model"
    (folder / "more").mkdir(parents=True)
    (folder / ".git").mkdir()
    for name in ("config.json", "more/rest.txt", ".git/x", ".hidden"):
        (folder / name).write_text(name * 40)
    (tmp_path / "blob").write_bytes(bytes(range(256)))
    (folder / "weights").symlink_to(tmp_path / "blob")  # as a hub's cache keeps them
    return folder


def test_what_a_spec_names_by_a_path_is_carried_to_a_node_that_has_not_the_same(model, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_node, "PIECE", 100)
    asked, node = [], tmp_path / "node"

    def piece(folder, name, at):
        asked.append((name, at))
        return Keeper().piece(folder, name, at)

    for path in (model, model / "config.json"):
        source = ray_node.Source("../my model", str(path), ray_node.inventory(path))
        assert ray_node.carried(source, node / "copy", path, piece, "node 1") == path  # it has it
        assert not asked
        copy = ray_node.carried(source, node / path.name, node / "nothing", piece, "node 1")
        assert (copy.name, ray_node.inventory(copy)) == (path.name, source.files)
        assert asked
        other = tmp_path / "other" / path.name
        shutil.copytree(copy, other) if copy.is_dir() else shutil.copy(copy, other.with_name("config"))
        changed = other / "config.json" if copy.is_dir() else other.with_name("config")
        changed.write_text(changed.read_text().upper())  # as long, but another
        seen = changed.parent if copy.is_dir() else changed
        assert ray_node.carried(source, node / "again" / path.name, seen, piece, "node 1") != seen
        asked.clear()
    assert {name for name, *_ in ray_node.inventory(model)} == {"config.json", "more/rest.txt", "weights"}


def weights(folder: Path, last: bytes) -> Path:
    """Make a folder of 40 MB of weights, of which the last byte differs; return it."""
    folder.mkdir()
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(40_000_000)
        file.seek(-1, os.SEEK_END)
        file.write(last)
    return folder


def test_other_weights_of_the_same_size_are_not_taken_for_the_same(tmp_path):
    here, there = weights(tmp_path / "here", b"1"), weights(tmp_path / "there", b"0")
    source = ray_node.Source("/data/teacher", str(here), Keeper().holds(str(here)))
    copy = ray_node.carried(source, tmp_path / "copy", there, Keeper().piece, "node 1")
    assert copy == tmp_path / "copy" / "here"
    assert filecmp.cmp(copy / "model.safetensors", here / "model.safetensors", shallow=False)


def test_what_is_written_while_it_is_carried_is_not_used(model, tmp_path):
    source = ray_node.Source("~/my model", str(model), ray_node.inventory(model))
    said = ray_node.carried(source, tmp_path / "copy", tmp_path / "no", lambda *_: b"torn", "node 1")
    assert said == "ray: ~/my model was written while it was carried to node 1; `runs resume` carries it again"


def test_a_linked_sub_folder_is_part_of_what_holds_it_if_it_leads_to_another_part(model, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret.txt").write_text("mine")
    for name, target in (("newest", "more"), ("out", tmp_path / "elsewhere"), ("up", ".."), ("self", ".")):
        (model / name).symlink_to(target)
    (model / "more" / "round").symlink_to(model)
    (model / "more" / "other").symlink_to(model / "newest")
    names = [name for name, *_ in ray_node.inventory(model)]
    assert names == ["config.json", "weights", "more/rest.txt", "newest/rest.txt"]


def test_a_file_is_hashed_once_until_it_is_written_again(tmp_path, monkeypatch):
    file, hashed, real = tmp_path / "weights", [], hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *given: (hashed.append(1), real(*given))[1])
    file.write_bytes(b"old")
    assert ray_node.inventory(tmp_path) == ray_node.inventory(tmp_path) != ()
    assert hashed == [1]
    before = ray_node.inventory(tmp_path)
    file.write_bytes(b"new")
    os.utime(file, (1, 1))
    assert ray_node.inventory(tmp_path) != before
    assert hashed == [1, 1]


def test_what_is_too_large_to_be_carried_has_to_be_at_the_node(model, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_node, "MOST_CARRIED", 500)
    source = ray_node.Source("~/my model", str(model), ray_node.inventory(model))
    assert not any(sha for *_, sha in source.files)
    assert ray_node.carried(source, tmp_path / "copy", model, pytest.fail, "node 1") == model
    said = ray_node.carried(source, tmp_path / "copy", tmp_path / "nothing", pytest.fail, "node 1")
    assert said.startswith("ray: node 1 does not have ~/my model (0.0 GB; up to 5e-07 GB would be carried); put it on")
    monkeypatch.setattr(ray_node, "MOST_FILES", 2)
    many = ray_node.Source("~/my model", str(model), ray_node.inventory(model))
    assert len(many.files) == 3 and many.bytes > 1e300
    assert "(many files;" in ray_node.carried(many, tmp_path / "copy", tmp_path / "nothing", pytest.fail, "node 1")


def test_a_source_that_was_carried_is_found_where_its_copy_lies(tmp_path, monkeypatch):
    assert ray_node.CARRIED == naming.CARRIED_VARIABLE
    monkeypatch.setenv(ray_node.CARRIED, json.dumps({"owner/model": str(tmp_path)}))
    assert naming.named(" owner/model ").path == tmp_path and naming.named("owner/model").kind == "path"
    assert naming.named("owner/other").kind == "hub"
    (tmp_path / "config.json").write_text("{}")
    assert resolve_model("owner/model").folder == tmp_path


# ---- a study on two nodes, of which one is killed


@pytest.fixture(scope="module")
def study(teacher, tiny, chat_file) -> StudySpec:
    changes = {
        "teacher.source": teacher,
        "student.source": tiny("llama"),
        "task.source": str(chat_file),
        "task.max_length": 64,
        "task.max_new_tokens": 4,
        "task.sizes": {"train": 20, "validation": 4, "test": 6},
        "sensitivity.samples": 2,
        "factorisation.rank": 4,
        "finetuning.batch_size": 5,
        "finetuning.max_steps": STEPS,
        "finetuning.validations": 2,
    }
    return StudySpec(base=RunSpec().with_changes(changes), arms=("default_lora", "seeking", "pissa"), seeds=(0,))


def begin_study(study: StudySpec, root: Path, settings: dict, *options: str) -> subprocess.Popen:
    """Start `study run` as a person does, in a new workspace with these settings."""
    root.mkdir(parents=True)
    write_json(root / "settings.yaml", {"threads": 1, **settings})
    (root / "study.yaml").write_text(study.to_yaml())
    command = [sys.executable, "-m", "paraknow_core", "--workspace", root, "study", "run", root / "study.yaml"]
    with (root / "told").open("wb") as told:
        return subprocess.Popen(
            [*map(str, command), *options], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=told, stderr=told
        )


def numbers(place: Workspace) -> dict:
    """Return the losses of all steps and the scores of every run of the only study, by arm and seed."""
    [folder] = list_studies(place)
    runs = {(cell.cell.group.arm.name, cell.cell.seed): cell.run for cell in folder.cells()}
    names = ("step", "loss", "validation_loss")
    return {
        key: (
            [tuple(step.get(name) for name in names) for step in run.metrics()],
            [score["value"] for score in run.result()["scores"]],
        )
        for key, run in runs.items()
    }


@pytest.fixture(scope="module")
def alone(study, tmp_path_factory) -> dict:
    """What the study comes to with the local engine."""
    place = Workspace(tmp_path_factory.mktemp("alone") / "workspace")
    process = begin_study(study, place.root, {}, "--engine", "local")
    assert process.wait(600) == 0, (place.root / "told").read_text()
    return numbers(place)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "apart"])
def test_a_study_goes_on_when_a_node_is_killed_with_the_numbers_of_the_local_engine(study, alone, tmp_path, shared):
    place = Workspace(tmp_path / "work space")
    if not shared:  # from where a node has its program, these lead elsewhere: all has to be carried
        base = study.base
        sources = {"teacher": base.teacher.source, "student": base.student.source, "task": base.task.source}
        relative = {f"{name}.source": os.path.relpath(source, ROOT) for name, source in sources.items()}
        study = study.model_copy(update={"base": base.with_changes(relative)})
    with RayCluster() as cluster:
        doomed, _ = cluster.add(cpus=1), cluster.add(cpus=1)
        name, settings = doomed._node_id, {"checkpoint_seconds": 0, "ray": {"shared": shared}}
        process = begin_study(study, place.root, settings, "--engine", "ray", "--address", cluster.address)

        def victim() -> RunFolder | None:
            runs = [run for run in list_runs(place) if run.note().get("node", {}).get("id") == name]
            return next((run for run in runs if run.status().active and 5 <= (run.saved_step() or 0) < STEPS), None)

        until(lambda: victim() or process.poll() is not None, seconds=300)
        run = victim()
        assert run is not None, (place.root / "told").read_text()
        assert listening(cluster.processes()) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
        assert listening(cluster.processes())
        assert run.status().state == "running"
        cluster.kill(doomed)
        assert process.wait(600) == 0, (place.root / "told").read_text()
        [moved] = [event for event in run.events() if event["event"] == "moved"]
        assert moved["from"]["id"] == name
        assert "was lost; the run goes on at node 127.0.0.1" in moved["message"]
        assert [event["attempt"] for event in run.events() if event["event"] == "started"] == [1, 2]
        assert len(run.metrics()) == STEPS + 1  # step 0 is the first validation
        assert numbers(place) == alone
        assert not [*place.root.rglob("*.arriving")]
        assert (cluster.folder / "nodes").exists() != shared
        Service(place, "ray").stop(wait_s=20)
        assert not Service(place, "ray").alive()
    until(lambda: not cluster.processes(), seconds=30)
    assert not cluster.folder.exists()
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(place.root) in " ".join(p.info["cmdline"] or [])]


@pytest.mark.slow
def test_runs_go_on_when_the_process_that_speaks_with_the_cluster_is_killed(little_ray, worker, place):
    one, [run] = engine(place, address=little_ray.address), make(place, "short")
    slow = make(place, "slow")[0]
    one.submit(slow, run)
    until(lambda: slow.metrics())
    os.kill(read_json(Service(place, "ray").folder / "process.json")["pid"], signal.SIGKILL)
    until(lambda: one.alive(slow) and slow.status().attempt == 2 and slow.status().state == "running", seconds=90)
    assert one.standing(run).state == "waiting"
    one.stop(slow)
    until(lambda: run.status().state == "done", seconds=60)
    until(lambda: not ray.read(place).runs)


@pytest.mark.slow
def test_a_gpu_that_no_node_has_is_said_not_waited_for_in_silence(little_ray, worker, place):
    one, [run] = engine(place, address=little_ray.address, gpus=1), make(place, "short")
    one.submit(run)
    until(lambda: one.standing(run).message, seconds=60)
    assert "no node of the cluster has 1 GPU (at most 0); it waits for one" in one.standing(run).message
    assert one.alive(run)
    one.stop(run)
    until(lambda: run.status().state == "stopped")
    until(lambda: not ray.read(place).runs)
    engine(place, address=little_ray.address).submit(run)
    until(lambda: run.status().state == "done", seconds=60)


@pytest.mark.slow
def test_a_cluster_with_a_token_takes_who_has_it_and_tells_who_has_not(place, worker, monkeypatch):
    folder = Path(tempfile.mkdtemp(prefix="r"))  # short: see `RayCluster`
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "right" * 8)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    options = [
        "--node-ip-address=127.0.0.1",
        f"--port={address[10:]}",
        f"--temp-dir={folder}",
        "--num-cpus=1",
        "--block",
    ]
    script = "from ray.scripts.scripts import main; main()"  # in a process of its own: Ray reads its mode only once
    command = [PYTHON, "-c", script, "start", "--head", "--block", "--include-dashboard=false", *options]
    with (folder / "told").open("wb") as told:
        head = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=told,
            stderr=told,
            start_new_session=True,
            env={**os.environ, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"},
        )
    try:
        until(lambda: not silence_of(address), seconds=60)
        one, [run] = engine(place, address=address), make(place, "short")
        monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong" * 8)
        one.submit(run)
        until(lambda: one.standing(run).message, seconds=90)
        assert f"ray: {address} refused the login; give this program the token" in one.standing(run).message
        monkeypatch.setenv("RAY_AUTH_TOKEN", "right" * 8)  # the helping process starts anew by itself
        until(lambda: one.standing(run).state == "over", seconds=90)
        assert run.status().state == "done"
        Service(place, "ray").stop(wait_s=20)
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        head.wait(60)
        shutil.rmtree(folder, ignore_errors=True)
