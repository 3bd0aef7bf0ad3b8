"""A study from its first run to its last: each run once, whatever ends it in between."""

import json
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from paraknow_core.engines.inline import InlineEngine
from paraknow_core.engines.local import LocalEngine
from paraknow_core.errors import Later, RunError
from paraknow_core.runs import lifecycle
from paraknow_core.runs.folder import RunFolder, list_runs
from paraknow_core.runs.labels import add_study, studies_of
from paraknow_core.runs.lifecycle import ask_to_stop, create_run
from paraknow_core.runs.processes import process_identity
from paraknow_core.runs.writer import RunWriter
from paraknow_core.spec import RunSpec
from paraknow_core.studies import conduct as conducting_room
from paraknow_core.studies.conduct import conduct, extended
from paraknow_core.studies.folder import StudyFolder
from paraknow_core.studies.study import StudySpec
from tests.conftest import ROOT
from tests.studies.conducting import BEST_RATE, Fake, conducted, executing, result_of

SMALL = {"arms": ("default_lora", "seeking"), "seeds": (0, 1)}
TUNED = {"tuning": {"points": 3, "centre": BEST_RATE, "centres": {"seeking": BEST_RATE}}}


def study(place, **fields) -> StudyFolder:
    return StudyFolder.create(place, StudySpec(**{**SMALL, **fields}))


def states(folder: StudyFolder) -> list[str]:
    return [cell.state for cell in folder.cells()]


def test_every_cell_is_run_once_seed_by_seed(place):
    fake, folder = Fake(), study(place)
    conducted(folder, fake)
    assert [(spec.seed, spec.method) for spec in fake.ran] == [
        (0, "default_lora"),
        (0, "seeking"),
        (1, "default_lora"),
        (1, "seeking"),
    ]
    assert all(spec.seed == spec.extraction.seed == spec.mapping.seed for spec in fake.ran)
    assert folder.state() == "done"
    assert states(folder) == ["done"] * 4
    assert all(studies_of(run.path) == [folder.id] for run in list_runs(place))
    conducted(folder, fake)  # again: nothing is left to do
    assert len(fake.ran) == 4


def test_what_another_study_or_a_person_has_computed_is_taken_over(place):
    fake = Fake()
    own = RunSpec(method="seeking", name="mine")
    run = create_run(place, own)
    fake(run)
    conducted(study(place, seeds=(0,)), fake)
    assert [spec.method for spec in fake.ran] == ["seeking", "default_lora"]
    wider = study(place, arms=("default_lora", "seeking", "pissa"), seeds=(0,), name="another")
    conducted(wider, fake)
    assert [spec.method for spec in fake.ran[2:]] == ["pissa"]
    assert len(studies_of(run.path)) == 2


def test_equal_cells_are_one_run(place):
    """Default LoRA does not read the structure of blocks that it has not."""
    fake = Fake()
    folder = study(place, factors={"extraction.structure": ("submatrix", "neuron")}, seeds=(0,))
    conducted(folder, fake)
    assert sorted(spec.method for spec in fake.ran) == ["default_lora", "seeking", "seeking"]
    first, second = (cell.run for cell in folder.cells() if cell.cell.group.arm.name == "default_lora")
    assert first == second


def test_a_failed_run_does_not_end_the_study_and_is_tried_again(place):
    fake, folder = Fake(fails=lambda spec: (spec.method, spec.seed) == ("seeking", 0)), study(place)
    conducted(folder, fake)
    assert folder.state() == "done"
    assert states(folder) == ["done", "failed", "done", "done"]
    assert folder.failed_runs() == 1
    again = Fake()
    conducted(folder, again)
    assert [(spec.method, spec.seed) for spec in again.ran] == [("seeking", 0)]
    assert states(folder) == ["done"] * 4
    assert len(list_runs(place)) == 4


def test_the_rate_with_the_lowest_validation_loss_is_chosen(place):
    best = {"default_lora": BEST_RATE, "seeking": BEST_RATE / 10**0.25}
    fake = Fake(best=lambda spec: best[spec.method])
    folder = study(place, tuning={"points": 5, "centre": BEST_RATE, "centres": {"seeking": BEST_RATE}})
    conducted(folder, fake)
    assert folder.rates() == {"default_lora": pytest.approx(BEST_RATE), "seeking": pytest.approx(1.687e-3, rel=1e-3)}
    scored = [spec for spec in fake.ran if spec.until == "evaluation"]
    assert {spec.method: spec.finetuning.learning_rate for spec in scored} == folder.rates()
    assert len(fake.ran) == 10 + 4
    curve = folder.curves()["seeking"]
    assert min(point.loss for point in curve) == curve.best.loss == pytest.approx(2)
    assert curve.best.rate == curve.chosen == folder.rates()["seeking"]
    assert not curve.edge


def test_a_grid_grows_twice_where_its_best_lies_at_the_edge(place):
    fake = Fake(best=lambda spec: 1e-5 if spec.method == "seeking" else BEST_RATE)
    folder = study(place, **TUNED)
    conducted(folder, fake)
    curve = folder.curves()["seeking"]
    assert len(curve) == 3 + 2 * 2
    assert curve.edge == "low"  # accepted, and said
    assert folder.rates()["seeking"] == min(point.rate for point in curve)
    assert len(folder.curves()["default_lora"]) == 3
    assert not folder.curves()["default_lora"].edge


def test_a_grid_that_grows_far_enough_is_at_no_edge(place):
    folder = study(place, **TUNED)
    conducted(folder, Fake(best=lambda spec: BEST_RATE * (10 if spec.method == "seeking" else 1)))
    curve = folder.curves()["seeking"]
    assert folder.rates()["seeking"] == pytest.approx(BEST_RATE * 10, rel=1e-3)
    assert not curve.edge


def test_a_rate_that_diverges_or_fails_never_wins(place):
    """The best rate of all is the one that fails; those beyond it diverge."""
    fake = Fake(
        fails=lambda spec: spec.until == "training" and abs(spec.finetuning.learning_rate - BEST_RATE) < 1e-6,
        best=lambda spec: BEST_RATE,
    )
    folder = study(place, tuning={"points": 5, "centre": BEST_RATE, "centres": {"seeking": 0.3}}, seeds=(0,))
    conducted(folder, fake)
    assert folder.rates()["default_lora"] != pytest.approx(BEST_RATE)
    curve = folder.curves()["seeking"]
    assert [point.diverged for point in curve][-2:] == [True, True]
    assert not curve.best.diverged
    assert folder.curves()["default_lora"][2].failed == 1


def test_a_group_that_trains_at_no_rate_is_left_out(place):
    fake = Fake(fails=lambda spec: spec.method == "seeking")
    folder = study(place, **TUNED)
    conducted(folder, fake)
    assert folder.state() == "done"
    assert set(folder.rates()) == {"default_lora"}
    scored = [cell for cell in folder.cells() if cell.cell.purpose == "test"]
    assert {cell.cell.group.arm.name for cell in scored if cell.run} == {"default_lora"}


@pytest.fixture
def dying(tmp_path, monkeypatch):
    """Runs of the local engine are executed by `Fake`, and killed as often as a file of their method's name says."""
    monkeypatch.setattr(sys, "executable", str(executing(tmp_path)))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


@pytest.mark.parametrize(("kills", "state"), [(1, "done"), (4, "lost")])
def test_a_run_that_is_killed_is_submitted_again_at_most_three_times(place, dying, kills, state):
    (dying / "seeking").write_text(str(kills))
    folder = study(place, seeds=(0,))
    conduct(folder, LocalEngine(place))
    assert folder.state() == "done"
    assert states(folder) == ["done", state]
    [run] = [cell.run for cell in folder.cells() if cell.cell.group.arm.name == "seeking"]
    again = [event for event in folder.events() if event["event"] == "resubmitted"]
    assert [(event["run"], event["number"]) for event in again] == [(run.id, n + 1) for n in range(min(kills, 3))]
    warnings = [event["message"] for event in folder.events() if event["event"] == "warning"]
    assert f"{run.id}: the process is gone" in warnings[0]
    assert "submitted again, 1 of at most 3 times" in warnings[0]
    assert ("given up" in warnings[-1]) == (state == "lost")
    assert len([event for event in run.events() if event["event"] == "started"]) == min(kills, 3) + 1


def test_a_run_that_failed_or_was_to_stop_is_not_submitted_again(place, dying):
    (dying / "seeking fails").write_text("")
    (dying / "default_lora").write_text("1")
    (dying / "default_lora asked").write_text("")
    folder = study(place, seeds=(0,))
    conduct(folder, LocalEngine(place))
    assert states(folder) == ["stopped", "failed"]  # lost is what nobody has asked for
    assert not [event for event in folder.events() if event["event"] == "resubmitted"]


@contextmanager
def process_of(folder: StudyFolder):
    command = [sys.executable, "-m", "tests.studies.conducting", str(folder.path), str(folder.place.root)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(what, within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_study_that_is_killed_in_the_middle_of_a_run_goes_on_there(place):
    folder = study(place)
    with process_of(folder) as process:
        until(
            lambda: (
                [run.status().state for run in list_runs(place)].count("running") == 1 and len(list_runs(place)) == 2
            )
        )
        with pytest.raises(RunError, match=f"study {folder.id}: another process is working on it"):
            conducted(folder, Fake())
        assert folder.state() == "running"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert folder.state() == "lost"
    assert states(folder) == ["done", "lost", "waiting", "waiting"]
    fake = Fake()
    conducted(folder, fake)
    assert [(spec.method, spec.seed) for spec in fake.ran] == [("seeking", 0), ("default_lora", 1), ("seeking", 1)]
    assert states(folder) == ["done"] * 4
    assert len(list_runs(place)) == 4  # the run that was cut off went on in its own folder


@pytest.mark.parametrize("by", ["file", "signal"])
def test_a_study_that_is_asked_to_stop_saves_its_active_run(place, by):
    folder = study(place)
    with process_of(folder) as process:
        until(lambda: states(folder)[:2] == ["done", "running"])
        ask_to_stop(folder) if by == "file" else process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert folder.state() == "stopped"
    assert states(folder) == ["done", "stopped", "waiting", "waiting"]
    conducted(folder, Fake())
    assert states(folder) == ["done"] * 4


def test_a_run_that_is_stopped_alone_leaves_the_others_going(place):
    folder = study(place)
    fake = Fake(slow=lambda spec: 20.0 if (spec.method, spec.seed) == ("seeking", 0) else 0.0)
    thread = threading.Thread(target=conducted, args=(folder, fake))
    thread.start()
    until(lambda: states(folder)[1] == "running")
    ask_to_stop(folder.cells()[1].run)
    thread.join(30)
    assert states(folder) == ["done", "stopped", "done", "done"]


def test_damaged_files_of_a_study_are_rebuilt_from_its_runs(place):
    fake, folder = Fake(), study(place, **TUNED)
    conducted(folder, fake)
    before, ran = {cell.cell.key: cell.run for cell in folder.cells()}, len(fake.ran)
    rates = folder.rates()
    folder.file("runs.json").write_text('{"a": [1')
    assert {cell.cell.key: cell.run for cell in folder.cells()} == before
    folder.file("runs.json").write_text("[]")
    folder.file("rates.json").write_text("garbage")
    conducted(folder, fake)
    assert len(fake.ran) == ran
    assert folder.rates() == rates
    assert {cell.cell.key: cell.run for cell in folder.cells()} == before


def test_a_run_folder_that_is_deleted_or_of_another_spec_is_run_again(place):
    fake, folder = Fake(), study(place)
    conducted(folder, fake)
    first, second = (cell.run for cell in folder.cells()[:2])
    (first.path / "spec.yaml").unlink()
    second.file("spec.yaml").write_text(RunSpec(method="olora").to_yaml())
    assert states(folder)[0] == "waiting"
    conducted(folder, fake)
    assert [(spec.method, spec.seed) for spec in fake.ran[4:]] == [("default_lora", 0), ("seeking", 0)]
    assert states(folder) == ["done"] * 4


def test_a_spec_that_is_changed_after_the_start_is_refused(place):
    """A margin is declared before the first run."""
    folder = study(place)
    conducted(folder, Fake())
    text = folder.file("study.yaml").read_text()
    folder.file("study.yaml").write_text(text.replace("margin: 0.01", "margin: 0.2"))
    with pytest.raises(RunError, match="study.yaml was changed since the study has started"):
        conducted(folder, Fake())
    folder.file("study.yaml").write_text(f"# the same\n{text}")
    conducted(folder, Fake())
    folder.file("started.json").write_text("{")
    conducted(folder, Fake())
    folder.file("study.yaml").write_text(text.replace("margin: 0.01", "margin: 0.2"))
    with pytest.raises(RunError, match="was changed"):  # what was damaged is noted again
        conducted(folder, Fake())


def test_a_study_follows_its_runs(place):
    seen, changes = [], []
    folder = study(place, seeds=(0,))
    conducted(folder, Fake(), follow=lambda *one: seen.append(one), on_change=changes.append)
    labels = list(dict.fromkeys(label for label, _, _ in seen))
    assert labels[0] == "test run 1 of 2, default LoRA, seed 0"
    assert labels[1].startswith("test run 2 of 2, seeking (the method), seed 0, about")
    assert seen[-1][2].state == "done"
    assert (changes[-1].state, changes[-1].done, changes[-1].total) == ("done", 2, 2)


def test_grids_grow_by_two_points_and_not_beyond_what_a_spec_takes():
    assert extended([1e-3, 1.7783e-3], "low") == pytest.approx([3.1623e-4, 5.6234e-4, 1e-3, 1.7783e-3], rel=1e-4)
    assert extended([1.0, 8.0], "high") == [1.0, 8.0]


def test_fake_results_are_like_real_ones(place):
    """What the tests here rest on: a result that readers take as it is."""
    run = create_run(place, RunSpec())
    written = result_of(run, RunSpec(), BEST_RATE)
    run.file("result.json").write_text(json.dumps(written))
    assert RunFolder(run.path).result() == written


def test_runs_that_go_together_are_given_together_and_the_others_alone(place):
    fake, packs = Fake(), []

    def execute_packed(runs):
        packs.append([run.spec().seed for run in runs])
        for run in runs:
            fake(run)

    folder = study(place, arms=["default_lora", "full_finetuning"], seeds=[0, 1, 2, 3, 4])
    engine = InlineEngine(place, fake, execute_packed, pack=3)
    conduct(folder, engine, together=engine.together())
    assert packs == [[0, 1, 2], [3, 4]]
    assert states(folder) == ["done"] * 10
    assert sorted(spec.method for spec in fake.ran) == ["default_lora"] * 5 + ["full_finetuning"] * 5


@pytest.mark.parametrize(
    ("there", "packs"), [([], [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]), ([0, 2, 4, 6], [[1, 3, 5, 7]])]
)
def test_packs_stay_whole_though_their_members_end_apart_and_some_runs_are_there(place, there, packs):
    fake, seen = Fake(), []
    if there:
        conducted(study(place, arms=["default_lora"], seeds=there), Fake())

    def execute_packed(runs):
        seen.append([run.spec().seed for run in runs])
        for run in runs:
            fake(run)
            time.sleep(0.1)  # several looks of the study

    engine = InlineEngine(place, lambda run: execute_packed([run]), execute_packed, pack=4)
    folder = study(place, arms=["default_lora"], seeds=[*range(8 if there else 12)])
    conduct(folder, engine, together=engine.together())
    assert seen == packs
    assert set(states(folder)) == {"done"}


class Elsewhere(InlineEngine):
    """Has runs that another engine holds; it notes which it was asked to stop, and cannot be asked about some."""

    def __init__(self, place, silent=()):
        super().__init__(place, Fake())
        self.silent, self.stopped = silent, []

    def alive(self, run):
        if run.spec().seed in self.silent:
            raise RunError("engine slurm: cannot be reached")
        return run.status().state == "queued"

    def stop(self, run, grace_s=None):
        if run.spec().seed in self.silent:
            raise RunError("engine slurm: cannot be reached")
        self.stopped.append(run.spec().seed)
        lifecycle.end(run, "stopped", "asked")


def held_elsewhere(place, folder) -> list[RunFolder]:
    """Make the runs of a study, each given to an engine that the study will not have when it goes on."""
    runs = [create_run(place, cell.cell.spec) for cell in folder.cells()]
    for run in runs:
        add_study(run.path, folder.id)
        lifecycle.hold(run, "slurm", job="4711")
    return runs


def test_a_run_that_another_engine_holds_is_asked_about_there(place):
    folder = study(place, arms=["default_lora"], seeds=(0, 1))
    runs = held_elsewhere(place, folder)
    other, fake = Elsewhere(place), Fake()
    for run in runs:
        lifecycle.lose(run, "its job is gone", job="4711")
    asked = []
    conduct(folder, InlineEngine(place, fake), holder=lambda run: asked.append(run) or other)
    assert set(asked) == set(runs)
    assert [spec.seed for spec in fake.ran] == [0, 1]
    assert states(folder) == ["done"] * 2


def test_a_study_that_is_to_stop_asks_every_run_though_one_cannot_be_asked(place):
    folder = study(place, arms=["default_lora"], seeds=(0, 1, 2))
    held_elsewhere(place, folder)
    other = Elsewhere(place, silent=(0,))
    seen = lambda label, run, status: ask_to_stop(folder) if not folder.file("stop").exists() else None  # noqa: E731
    conduct(folder, InlineEngine(place, Fake()), follow=seen, together=3, holder=lambda run: other)
    assert folder.state() == "stopped"
    assert sorted(other.stopped) == [1, 2]
    warnings = [event["message"] for event in folder.events() if event["event"] == "warning"]
    assert [("cannot be asked" in one, "asked to stop" in one) for one in warnings] == [(True, False), (False, True)]


class Measuring(InlineEngine):
    """Executes two runs at a time; the first that needs a sensitivity measures it until four other runs are done."""

    def __init__(self, place, count):
        super().__init__(place, self.execute)
        self._thread = ThreadPoolExecutor(count)
        self.begun, self.done, self.is_measured = [], [], False
        self.measures = threading.Lock()

    def submit(self, *runs, first=False):
        self.begun += [(run.spec().method, run.spec().seed) for run in runs]
        super().submit(*runs)

    def execute(self, run):
        spec = run.spec()
        with RunWriter(run) as writer:
            if spec.method in ("seeking", "permuted"):
                writer.stage("sensitivity")
                with self.measures:
                    until(lambda: self.is_measured or len(self.done) == 4)
                    self.is_measured = True
            writer.stage("fine-tuning")
            if self.is_measured:
                time.sleep(0.2)  # several looks of the study
            run.file("result.json").write_text(json.dumps(result_of(run, spec, BEST_RATE)))
        self.done.append(spec.method)


def test_runs_that_would_wait_for_a_sensitivity_let_others_go_first(place):
    arms = ["default_lora", "seeking", "permuted", "pissa"]
    engine, folder = Measuring(place, 2), study(place, arms=arms, seeds=(0, 1))
    conduct(folder, engine, together=2)
    assert engine.begun[:2] == [("default_lora", 0), ("seeking", 0)]
    assert engine.begun[2:5] == [("pissa", 0), ("default_lora", 1), ("pissa", 1)]  # those that need none
    assert engine.begun[5:] == [("permuted", 0), ("seeking", 1), ("permuted", 1)]
    assert [cell.cell.key for cell in folder.cells()] == [f"test {arm}, seed {s}" for s in (0, 1) for arm in arms]
    assert states(folder) == ["done"] * 8


def test_one_run_at_a_time_keeps_the_order_whatever_it_measures(place):
    arms = ["seeking", "permuted", "default_lora"]
    engine, folder = Measuring(place, 1), study(place, arms=arms, seeds=(0, 1))
    engine.is_measured = True
    conduct(folder, engine)
    assert engine.begun == [(arm, seed) for seed in (0, 1) for arm in arms]


class Refusing(InlineEngine):
    """Refuses the first submits in some way, before anything was changed; remembers the groups that it was given."""

    def __init__(self, place, *refusals, pack=1):
        self.fake, self.refusals, self.given = Fake(), list(refusals), []
        super().__init__(place, self.fake, lambda runs: [self.fake(run) for run in runs], pack=pack)

    def submit(self, *runs, first=False):
        self.given.append([run.spec().seed for run in runs])
        if self.refusals:
            self.refusals.pop(0)(runs)
        super().submit(*runs, first=first)


def test_of_a_group_the_others_go_on_when_somebody_else_has_begun_one(place):
    other = subprocess.Popen(["sleep", "600"])

    def resumed_by_hand(runs):
        lifecycle.claim(runs[2], process_identity(other.pid), *lifecycle.requeue(runs[2]))

    engine, folder = Refusing(place, resumed_by_hand, pack=4), study(place, arms=["default_lora"], seeds=(0, 1, 2, 3))
    thread = threading.Thread(target=conduct, args=(folder, engine), kwargs={"together": 4})
    thread.start()
    until(lambda: states(folder).count("done") == 3)
    assert states(folder) == ["done", "done", "queued", "done"]  # his goes on
    other.kill()
    other.wait()
    thread.join(30)
    assert states(folder) == ["done"] * 4  # when his process is gone, the study takes it over
    assert engine.given == [[0, 1, 2, 3], [0, 1, 3], [2]]


def test_runs_that_an_engine_takes_only_later_wait_for_it(place, monkeypatch):
    monkeypatch.setattr(conducting_room, "LATER_S", 0.05)

    def is_full(runs):
        raise Later("engine slurm: a limit of your account is reached")

    engine = Refusing(place, lambda runs: None, is_full, is_full)
    folder = study(place, arms=["default_lora"], seeds=(0, 1))
    conduct(folder, engine, together=2)
    assert engine.given == [[0], [1], [1], [1]]
    assert states(folder) == ["done"] * 2
    [warning] = [event["message"] for event in folder.events() if event["event"] == "warning"]
    assert "a limit of your account" in warning
    assert len(list_runs(place)) == 2
    monkeypatch.setattr(conducting_room, "LATER_S", 60.0)
    waits = study(place, arms=["default_lora"], seeds=(2,))
    thread = threading.Thread(target=conduct, args=(waits, Refusing(place, is_full)))
    thread.start()
    until(lambda: [event for event in waits.events() if event["event"] == "warning"])
    assert states(waits) == ["queued"]
    ask_to_stop(waits)
    thread.join(30)
    assert waits.state() == "stopped"
    assert states(waits) == ["queued"]  # nothing has happened to it


def test_a_lost_run_that_is_taken_only_later_is_not_given_up(place, dying, monkeypatch):
    monkeypatch.setattr(conducting_room, "LATER_S", 0.02)
    (dying / "default_lora").write_text("1")
    local, given = LocalEngine(place), []

    class Full(LocalEngine):
        def submit(self, *runs, first=False):
            given.append(runs)
            if 1 < len(given) < 7:
                raise Later("full")
            local.submit(*runs)

    folder = study(place, arms=["default_lora"], seeds=(0,))
    conduct(folder, Full(place))
    assert states(folder) == ["done"] and len(given) == 7
    assert [event["number"] for event in folder.events() if event["event"] == "resubmitted"] == [1]
