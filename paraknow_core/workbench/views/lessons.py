"""The runs of a lesson: found again by what they compute, how far they are, when their turn comes, what is missing."""

from collections.abc import Mapping
from dataclasses import dataclass

from paraknow_core.display import counted, duration
from paraknow_core.engines import queue
from paraknow_core.paths import Workspace
from paraknow_core.runs.folder import RunFolder
from paraknow_core.studies import same
from paraknow_core.studies.lessons import Lesson
from paraknow_core.workbench import reading, waiting

ENDED_BADLY = ("failed", "lost", "stopped")


@dataclass(frozen=True)
class LessonRuns:
    """Which runs of a lesson are there.

    Attributes:
        runs: label -> the best run of this spec: done, else active, else the newest that ended otherwise.
        states: label -> its state; "" where there is none.
    """

    runs: Mapping[str, RunFolder]
    states: Mapping[str, str]

    @property
    def done(self) -> bool:
        """Whether every run is done."""
        return all(state == "done" for state in self.states.values())

    @property
    def active(self) -> bool:
        """Whether a run is going on, or waits."""
        return any(state in ("queued", "running", "stopping") for state in self.states.values())

    @property
    def missing(self) -> list[str]:
        """The labels of the runs that have to be started."""
        return [label for label, state in self.states.items() if not state or state in ENDED_BADLY]

    @property
    def finished(self) -> int:
        """How many runs are done."""
        return sum(state == "done" for state in self.states.values())

    @property
    def running(self) -> str | None:
        """The label of the run that is going on."""
        return next((label for label, state in self.states.items() if state == "running"), None)

    @property
    def fraction(self) -> float:
        """How far the lesson is; a run that is going on counts half of its stage."""
        part = 0.5 * self.runs[self.running].status().fraction if self.running else 0.0
        return min(1.0, (self.finished + part) / len(self.states))


def find(place: Workspace, lesson: Lesson) -> LessonRuns:
    """Look for a run that computes what each spec of the lesson does, whatever it is called."""
    labels = {same.computes(spec): label for label, spec in lesson.specs.items()}
    runs: dict[str, RunFolder] = {}
    states: dict[str, str] = {}
    order = queue.read(place)
    for run, facts in reading.all_facts(place):
        label = labels.get(facts.computes)
        if label is None or states.get(label) == "done" or queue.never_started(run, order):
            continue
        if not same.shows(facts.spec, lesson.specs[label]):
            continue  # the lesson shows an untrained model that this run has not scored
        state = run.status().state
        state = "lost" if state == "done" and not facts.result else state  # its result was removed
        if label not in runs or _rank(state) < _rank(states[label]):
            runs[label], states[label] = run, state
    return LessonRuns(runs, {label: states.get(label, "") for label in lesson.specs})


def _rank(state: str) -> int:
    return 0 if state == "done" else 2 if state in ENDED_BADLY else 1


def waiting_words(place: Workspace, lesson_runs: LessonRuns) -> str:
    """Say which place in line the lesson's next run has, and when its turn will be; empty where it begins at once."""
    queued = [lesson_runs.runs[label] for label, state in lesson_runs.states.items() if state == "queued"]
    waits = [wait for wait in (waiting.wait_of(place, run) for run in queued) if wait is not None]
    soonest = min(waits, key=lambda wait: wait.number, default=None)
    if soonest is None or (soonest.number == 1 and not soonest.busy):
        return ""
    words = f"Waiting: {waiting.words(soonest)}. Lessons go before other runs that wait, not before those going on."
    return words + waiting.unknown(soonest)


def wait_before(place: Workspace, count: int, whose: str = "Its") -> str:
    """Return a sentence on how long a lesson that is started now would wait; empty where it begins at once.

    Args:
        place: the workspace.
        count: how many of its runs are missing.
        whose: the lesson's, at the start of the sentence.
    """
    wait = waiting.wait_of_new_first(place, count)
    if wait is None:
        return ""
    others = len(queue.read(place).waiting) - (wait.number - 1)
    ahead = f"; it goes before {counted(others, 'run')} that wait{'s' if others == 1 else ''}" if others else ""
    return f"{whose} turn would be {waiting.words(wait)}{ahead}.{waiting.unknown(wait)}"


def cost(lesson: Lesson, lesson_runs: LessonRuns) -> str:
    """Say what the missing runs will take."""
    number = len(lesson_runs.missing)
    seconds = max(10.0, round(number / len(lesson.specs) * lesson.seconds, -1))
    return f"{counted(number, 'run')}, about {duration(seconds)}"
