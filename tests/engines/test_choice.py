"""Who executes runs, and how many at a time: arithmetic on what runs take and on the machine."""

from dataclasses import dataclass

import pytest

from paraknow_core.display import memory
from paraknow_core.engines import choice, queue
from paraknow_core.engines.choice import Machine, as_started, choose, together
from paraknow_core.files.json_file import write_json
from paraknow_core.settings import Settings
from paraknow_core.spec import RunSpec
from paraknow_core.training import amounts
from paraknow_core.training.amounts import ONE_THREAD, student_of, threads_of, threads_of_spec
from paraknow_core.training.estimates import guess_pack_share, pack_bytes
from tests.engines.following import make

TWO_CORES = Machine(2, 16e9)


@dataclass
class Takes:
    seconds: float = 60.0
    memory: float = 0.7e9
    in_all: float = 0.0
    start: float = 0.0


def chosen(place, count=12, machine=TWO_CORES, takes=None, **settings):
    estimate = lambda specs, _place: [takes or Takes()] * len(specs)  # noqa: E731
    return choose([RunSpec()] * count, place, Settings(**settings), estimate, machine)


def test_small_models_take_one_thread_and_large_ones_all_cores_unless_the_settings_say(monkeypatch):
    monkeypatch.setattr(amounts, "usable_cores", lambda: 8)
    assert threads_of(1_000_000) == threads_of(ONE_THREAD, ONE_THREAD) == 1
    assert threads_of(ONE_THREAD + 1) == threads_of(1_000_000, ONE_THREAD + 1) == 8
    assert threads_of(1_000_000, settings=Settings(threads=3)) == 3
    assert threads_of_spec(RunSpec()) == 1  # the bundled pair
    assert threads_of_spec(RunSpec().with_changes({"student.source": "/nowhere"})) == 8
    measured = RunSpec(method="seeking").with_changes({"teacher.source": "/nowhere"})
    assert threads_of_spec(measured) == 8
    assert threads_of_spec(measured.with_changes({"method": "default_lora"})) == 1


def test_cores_and_memory_say_how_many_go_on_together_and_one_always_does():
    assert together([1, 1], TWO_CORES) == 2
    assert together([1, 2], TWO_CORES) == 1
    assert together([4], Machine(16, 64e9)) == 4
    assert together([1], Machine(16, 4e9), needs=1e9) == 3
    assert together([1], Machine(16, 2e9), needs=1e9, going=3) == 4
    assert together([1], Machine(16, 1e8)) == 1
    assert together([1], Machine(16, 64e9, gpu=True)) == 1
    assert together([], TWO_CORES) == 2


def test_the_sentence_says_what_was_picked_and_what_it_saves(place):
    picked = chosen(place)
    assert (picked.engine, picked.workers, picked.threads, picked.packs) == ("local", 2, 1, ())
    assert (picked.seconds, picked.alternative_seconds) == (360, 720)
    cold = chosen(place, takes=Takes(start=6.0))  # each worker starts once, at the same time
    assert (cold.seconds, cold.alternative_seconds) == (6 * 54 + 6, 12 * 54 + 6)
    assert (
        picked.sentence == "12 runs by 2 workers of 1 thread each, about 6 m 00 s; one after the other about 12 m 00 s"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"count": 1}, "1 run, about 1 m"),
        ({"machine": Machine(2, 1e9)}, "no memory for a second one"),
        ({"machine": Machine(1, 16e9)}, "there is one core"),
        ({"machine": Machine(8, 16e9, gpu=True), "pack": 1}, "they share one GPU"),
        ({"threads": 2}, "models of this size use 2 threads"),
        ({"machine": Machine(1, 16e9), "processes": 2}, "2 processes share each"),
        ({"workers": 1}, "12 runs, about 12 m 00 s, one after the other: the settings say so"),
    ],
)
def test_where_two_do_not_fit_it_says_why(place, options, words):
    picked = chosen(place, **options)
    assert picked.workers == 1
    assert words in picked.sentence


def test_cores_are_counted_for_each_process_of_a_run(monkeypatch):
    monkeypatch.setattr(choice, "usable_cores", lambda: 8)
    cores = [Machine.here(Settings(processes=count, device="cpu")).cores for count in (1, 2, 16)]
    assert cores == [8, 4, 1]


def test_all_processes_of_a_run_need_their_memory(place):
    machine = Machine(4, 4e9)
    assert chosen(place, machine=machine, takes=Takes(memory=1e9), processes=2).workers == 3
    assert chosen(place, machine=machine, takes=Takes(memory=1e9, in_all=1.8e9), processes=2).workers == 2


def test_a_number_of_workers_in_the_settings_wins_and_unknown_times_are_left_out(place):
    estimate = lambda specs, _place: [None] * len(specs)  # noqa: E731
    picked = choose([RunSpec()] * 5, place, Settings(workers=4), estimate, TWO_CORES)
    assert picked.workers == 4
    assert picked.seconds is None
    assert picked.sentence == "5 runs by 4 workers of 1 thread each"
    assert choose([], place, Settings(), estimate, TWO_CORES).workers == 1


def test_a_cluster_that_the_settings_speak_of_is_taken(place):
    assert chosen(place, ray={"address": "ray://host:10001"}).engine == "ray"
    assert "partition long" in chosen(place, slurm={"partition": "long"}).sentence
    assert chosen(place, engine="local", slurm={"partition": "long"}).engine == "local"


def test_the_queue_executes_small_runs_together_and_a_large_one_alone(place, monkeypatch):
    monkeypatch.setattr(queue.Machine, "here", lambda _settings: TWO_CORES)
    monkeypatch.setattr(queue, "threads_of_spec", lambda spec, _settings: 2 if spec.name == "large" else 1)
    small, large = make(place, "small", "large")
    assert queue.workers(place, queue.Order([small.id], [small.id])) == 2
    assert queue.workers(place, queue.Order([large.id], [small.id])) == 1
    assert queue.workers(place, queue.Order([small.id], [large.id])) == 1
    write_json(place.settings_file, {"workers": 3})
    assert queue.workers(place, queue.Order([large.id], [small.id])) == 3


def test_the_queue_counts_the_flags_of_its_runs(place, monkeypatch):
    monkeypatch.setattr(choice, "usable_cores", lambda: 8)
    monkeypatch.setattr(choice, "available_bytes", lambda: 64e9)
    write_json(place.settings_file, {"device": "cpu"})
    going, waits = make(place, "going", "waits")
    for run in (going, waits):
        order = queue.Order([waits.id], [going.id])
        assert queue.workers(place, order) == 8
        order.settings = {run.id: {"processes": 4}}
        assert queue.workers(place, order) == 2
        order.settings = {run.id: {"device": "cuda"}}
        assert queue.workers(place, order) == 1
    write_json(place.settings_file, {"device": "cpu", "processes": 4})
    assert queue.workers(place, queue.Order()) == 2


def test_runs_of_small_models_are_packed_on_a_gpu_as_far_as_they_have_something_in_common(place):
    gpu = Machine(8, 64e9, gpu=True)
    specs = [RunSpec(seed=seed) for seed in range(20)]
    specs[3:3] = [RunSpec(method="full_finetuning"), RunSpec().with_changes({"factorisation.rank": 4})]
    estimate = lambda specs, _place: [Takes()] * len(specs)  # noqa: E731
    picked = choose(specs, place, Settings(), estimate, gpu)
    together = [0, 1, 2, *range(5, 22)]
    assert picked.packs == (tuple(together[: choice.PACK]), tuple(together[choice.PACK :]), (3,), (4,))
    assert picked.sentence.startswith("22 runs packed in 4 passes, about")
    assert "one after the other about 22 m" in picked.sentence
    assert 60 < picked.seconds < picked.alternative_seconds == 22 * 60
    assert choose(specs, place, Settings(), estimate, TWO_CORES).packs == ()
    one_core = Machine(1, 16e9)
    picked = choose(specs[:3], place, Settings(pack=2), estimate, one_core)
    assert [len(pack) for pack in picked.packs] == [2, 1]
    assert picked.sentence == f"3 runs packed in 2 passes where that is faster, about 3 m 00 s, {memory(picked.memory)}"
    assert picked.seconds == 180


def test_packs_are_as_large_as_the_memory_that_is_free(place):
    """Of a GPU nobody here knows how much that is; its runs do."""
    specs, estimate = [RunSpec(seed=seed) for seed in range(12)], lambda specs, _place: [Takes()] * len(specs)
    shares = [guess_pack_share(student_of(spec), spec) for spec in specs]
    for runs in (2, 5):
        room = pack_bytes(shares[:runs])
        picked = choose(specs, place, Settings(pack=12), estimate, Machine(1, room / (1 - choice.LEFT_FREE) + 1))
        assert {len(pack) for pack in picked.packs[:-1]} == {runs}
        assert picked.memory == room
        assert picked.sentence.endswith(
            f"packed in {len(picked.packs)} passes where that is faster, about 12 m 00 s, {memory(room)}"
        )
    tight = Machine(1, 1e8)
    assert not any(len(pack) > 1 for pack in choice.packs_of(specs, Settings(pack=12), tight))
    on_gpu = choose(specs, place, Settings(pack=12), estimate, Machine(1, 1e8, gpu=True))
    assert len(on_gpu.packs) == 1
    assert f", {memory(on_gpu.memory)} of the GPU; one after the other about 12 m" in on_gpu.sentence


@pytest.mark.parametrize(
    ("options", "workers"),
    [
        ({"engine": "local"}, 1),
        ({"engine": "local", "workers": 2}, 2),
        ({"engine": "queue", "pack": 4}, 2),
        ({"processes": 2, "pack": 4, "machine": Machine(1, 16e9)}, 1),
        ({"processes": 2, "machine": Machine(8, 64e9, gpu=True)}, 1),
        ({"pack": 4}, 2),
        ({"pack": 4, "workers": 2}, 2),
        ({"workers": 3, "machine": Machine(8, 64e9, gpu=True)}, 3),
    ],
)
def test_what_is_said_of_a_study_is_what_it_does(place, options, workers):
    machine = options.pop("machine", TWO_CORES)
    settings = as_started(Settings(**options), study=True)
    picked = choose([RunSpec()] * 12, place, settings, lambda specs, _: [Takes()] * len(specs), machine)
    assert (picked.workers, picked.packs) == (workers, ())
    assert "packed" not in picked.sentence
    assert (f"by {workers} workers" if workers > 1 else "one after the other: ") in picked.sentence


def test_the_queue_packs_where_one_goes_on_at_a_time(place):
    gpu = Machine(8, 64e9, gpu=True)
    for study in (True, False):
        settings = as_started(Settings(engine="queue"), study)
        picked = choose([RunSpec()] * 12, place, settings, lambda specs, _: [Takes()] * len(specs), gpu)
        assert (picked.engine, picked.workers, [len(pack) for pack in picked.packs]) == ("queue", 1, [12])
        assert picked.sentence.startswith("12 runs packed in one pass, about 3 m")


def test_single_runs_wait_in_the_queue_or_share_a_process():
    assert as_started(Settings(), study=False).engine == "queue"
    assert as_started(Settings(engine="local", workers=4), study=False).workers == 1
    cluster = Settings(slurm={"partition": "long"})
    assert as_started(cluster, study=False) == as_started(cluster, study=True) == cluster
