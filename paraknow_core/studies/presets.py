"""Studies that are there for the asking: every figure of the paper, every control, each as one study spec.

A preset asks one question of any base run: its teacher, student and task stay. `full` is what may be believed: six
seeds, tuned rates, all that the catalogue offers. `pocket` ends within ten minutes on two cores with the bundled
models: fewer arms, fewer examples, smaller batches so that there are about as many optimiser steps, and it says what it
cannot decide. The paper's own values stand here as marks, for charts to draw beside the study's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from paraknow_core import catalogue
from paraknow_core.catalogue import ARMS, BASELINE, METHODS, PAPER_METHOD, STRATEGIES, STRUCTURES
from paraknow_core.demo.tasks import TASKS
from paraknow_core.errors import SpecError
from paraknow_core.ops.detectable import fewest_seeds
from paraknow_core.spec import GROUPS, RunSpec
from paraknow_core.studies.study import RATE, Group, StudySpec, groups_of, parse_study, step_of_grid

Size = Literal["full", "pocket"]
Fields = dict[str, Any]  # of a spec, as its file has them
Grid = tuple[list[str], Fields]  # arms, and factors with their values

RANDOM, UNTRAINED_TEACHER = "random_offset", "untrained_teacher"
SEED_SAMPLES = (1, 2, 4, 8, 16, 32, 64, 128)
BUNDLED_RATE = 3e-3  # about where validation loss is lowest for the bundled students, which are tiny
AVERAGE = "average of its seven scores"  # what most of the paper's figures show
POCKET = ", pocket size"  # ends the name of such a study
_POCKET = {
    "task.sizes": {"train": 256, "validation": 64, "test": 400},
    "finetuning.batch_size": 16,  # 48 steps; the paper's recipe takes 45
    "finetuning.micro_batch_size": None,
    "finetuning.epochs": 3,
    "finetuning.max_steps": None,
    "finetuning.validations": 1,
}


@dataclass(frozen=True)
class Mark:
    """A value that the paper reports, for a chart to draw beside a study's.

    Attributes:
        value: as the paper gives it, in percent.
        words: what of.
        model: the pair.
        arm: of the study, or an untrained model of `catalogue.UNTRAINED`.
        point: factor -> value, as far as the paper's value has one.
        against: the paper's default LoRA beside it, in percent; None where it gives none.
        benchmark: what was scored, as `TaskInfo.mirrors` and formats name it; empty: the average of its seven scores.
        scorer: of that benchmark.
    """

    value: float
    words: str
    model: str
    arm: str = PAPER_METHOD
    point: Mapping[str, Any] = field(default_factory=dict)
    against: float | None = None
    benchmark: str = ""
    scorer: str = ""

    @property
    def label(self) -> str:
        """How a chart names it: `paper (LLaMA-1)`."""
        return f"paper ({self.model.split()[0]})"


@dataclass(frozen=True)
class Preset:
    """A study for the asking.

    Attributes:
        name: as the command line has it.
        title: as people read it.
        asks: its question, one sentence.
        figure: of the paper; empty: not in the paper.
        grid: gives its arms and factors, of the base run and of whether it is pocket size.
        pocket_limits: what its pocket size cannot decide; ends with "undecided.", as `_FEW_EXAMPLES` does. That size
            has the fewer runs, if only because its rates are tuned over fewer points.
        marks: the paper's values.
    """

    name: str
    title: str
    asks: str
    figure: str
    grid: Callable[[RunSpec, bool], Grid]
    pocket_limits: str
    marks: tuple[Mark, ...] = ()

    def make(
        self, base: RunSpec | None = None, size: Size = "full", changes: Mapping[str, Any] | None = None
    ) -> StudySpec:
        """Return the study.

        Args:
            base: whose teacher, student, task and recipe it keeps; None: the bundled ones.
            size: `full` or `pocket`.
            changes: dotted keys and values: of the study (`seeds`, `hold`, `factors.teacher.source`), or of the base
                run (`student.source`, or with `base.` before it), which are set before the study is made.

        Raises:
            SpecError: a key is unknown, or a value is refused.
        """
        if size not in ("full", "pocket"):
            raise SpecError(f"preset {self.name}: size '{size}' is unknown; choose full or pocket")
        of_run, of_study = _apart(changes or {})
        pocket = size == "pocket"
        given = (base or RunSpec()).with_changes(of_run)
        ready = given.with_changes(_recipe(given, pocket) | of_run | {"name": "", "until": "evaluation"})
        arms, factors = self.grid(ready, pocket)
        data: Fields = {
            "name": f"{self.title}{POCKET if pocket else ''}",
            "question": self.asks,
            "preset": self.name,
            "base": ready.model_dump(mode="json"),
            "arms": arms,
            "factors": factors,
            "seeds": list(range(fewest_seeds(len(arms) - 1))),
            "tuning": None if RATE in factors else {"points": 5 if pocket else 7},
        }
        for dotted, value in of_study.items():
            head, _, rest = dotted.partition(".")
            if rest:
                data[head] = {**(data.get(head) or {}), rest: value}
            else:
                data[head] = value
        return parse_study(data, f"preset {self.name}")


def find_preset(name: str) -> Preset:
    """Return the preset of this name.

    Raises:
        SpecError: there is none.
    """
    if name not in PRESETS:
        raise SpecError(f"preset '{name[:60]}' is unknown; choose from {', '.join(PRESETS)}")
    return PRESETS[name]


def marks_of(study: StudySpec) -> list[tuple[Mark, str]]:
    """Return the paper's values that belong into a study's charts, each with the key of its group.

    A value of one benchmark belongs only where the task stands for this benchmark and the scorer is the same; an
    average belongs everywhere, as what it is. A value of an untrained model has this model's name as key.
    """
    preset = PRESETS.get(study.preset)
    if preset is None:
        return []
    groups = groups_of(study)
    found: list[tuple[Mark, str]] = []
    for mark in preset.marks:
        places = [group for group in groups if _belongs(mark, group, study)]
        untrained = mark.arm in catalogue.UNTRAINED
        found += [(mark, mark.arm)] if untrained and places else [(mark, group.key) for group in places]
    return found


def _belongs(mark: Mark, group: Group, study: StudySpec) -> bool:
    if mark.arm not in (group.arm.name, *catalogue.UNTRAINED):
        return False
    if any(_plain(group.point.get(key)) != _plain(value) for key, value in mark.point.items()):
        return False
    return not mark.benchmark or (mark.benchmark, mark.scorer) == _scored(group, study)


def _scored(group: Group, study: StudySpec) -> tuple[str, str]:
    """Return the benchmark that a group's task is or stands for, and its scorer."""
    source, task = str(group.point.get("task.source", study.base.task.source)), study.base.task
    info = TASKS.get(source.removeprefix("bundled:"))
    benchmark = info.mirrors if info else {"gsm8k": "GSM8K", "mmlu": "MMLU"}.get(task.format, "")
    first = next(iter(task.scorers), info.scorer if info else {"GSM8K": "number_match"}.get(benchmark, ""))
    return benchmark, study.scorer or first


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _apart(changes: Mapping[str, Any]) -> tuple[Fields, Fields]:
    """Part what changes the base run from what changes the study; a key that both have is the study's."""
    of_run: Fields = {}
    of_study: Fields = {}
    for key, value in changes.items():
        head, _, rest = key.partition(".")
        if head == "base" and rest:
            of_run[rest] = value
        elif head in StudySpec.model_fields:
            of_study[key] = value
        else:
            of_run[key] = value
    return of_run, of_study


def _is_bundled(base: RunSpec) -> bool:
    return base.student.source.startswith("bundled:")


def _recipe(base: RunSpec, pocket: bool) -> Fields:
    """Return what a preset sets in the base run: something to validate on, and the examples of its size."""
    changes: Fields = {}
    if base.task.sizes.validation == 0:
        changes["task.sizes.validation"] = 100  # rates are chosen on it
    if base.finetuning.validations == 0:
        changes["finetuning.validations"] = 1
    if _is_bundled(base):
        changes["references"] = ["student", "teacher"]
        if base.finetuning.learning_rate == RunSpec().finetuning.learning_rate:
            changes["finetuning.learning_rate"] = BUNDLED_RATE
        if base.task == RunSpec(task={"source": base.task.source}).task:
            changes["task.sizes"] = {"train": 1000, "validation": 200, "test": 500}  # all there are
    return changes | (_POCKET if pocket else {})


def _tasks(base: RunSpec, pocket: bool) -> list[str]:
    """Return the tasks to vary: all bundled ones where the base's is one, else its own alone."""
    own = base.task.source
    if not own.startswith("bundled:"):
        return [own]
    others = [f"bundled:{name}" for name in TASKS if f"bundled:{name}" != own]
    return [own, *others[: 1 if pocket else None]]


def _teachers(base: RunSpec) -> list[str]:
    """Return teachers of two sizes: the base's, and of the bundled models a smaller one that is not the student."""
    small = "bundled:stranger" if base.student.source == "bundled:kin" else "bundled:kin"
    return [base.teacher.source, *([small] if _is_bundled(base) and base.teacher.source == "bundled:teacher" else [])]


def _table1(base: RunSpec, pocket: bool) -> Grid:
    tasks = [base.task.source] if pocket else _tasks(base, pocket)
    factors = {"task.source": tasks} if len(tasks) > 1 else {}
    return [BASELINE, PAPER_METHOD, RANDOM], factors


def _task_transfer(base: RunSpec, pocket: bool) -> Grid:
    tasks = _tasks(base, pocket)
    own = base.task.source
    sources = tasks if len(tasks) > 1 else [own, *(f"bundled:{name}" for name in TASKS)][: 2 if pocket else None]
    return [BASELINE, PAPER_METHOD], {"task.source": tasks, "sensitivity.task": sources}


def _initialisations(base: RunSpec, pocket: bool) -> Grid:
    of_student = [name for name, row in METHODS.items() if not row.needs_teacher and not row.budget_note]
    chosen = [BASELINE, "pissa", "init_ab"] if pocket else of_student
    arms = list(dict.fromkeys((*chosen, PAPER_METHOD, RANDOM)))
    return arms, {"teacher.source": _teachers(base)}


def _seed_samples(base: RunSpec, pocket: bool) -> Grid:
    del base
    counts = SEED_SAMPLES[1::3] if pocket else SEED_SAMPLES
    return [BASELINE, PAPER_METHOD], {"sensitivity.samples": list(counts)}


def _layers(base: RunSpec, pocket: bool) -> Grid:
    del base, pocket
    names = [name for name in catalogue.offered(STRATEGIES) if name != catalogue.MANUAL]
    return [BASELINE, PAPER_METHOD], {"mapping.strategy": names}


def _origin(base: RunSpec, pocket: bool) -> Grid:
    del base, pocket
    origins = [[group] for group in reversed(GROUPS)]
    return [BASELINE, PAPER_METHOD], {"extraction.origin": [*origins, ["all"]]}


def _structure(base: RunSpec, pocket: bool) -> Grid:
    del base, pocket
    return [BASELINE, PAPER_METHOD], {"extraction.structure": list(catalogue.offered(STRUCTURES))}


def _teacher_scale(base: RunSpec, pocket: bool) -> Grid:
    del pocket
    return [BASELINE, PAPER_METHOD, UNTRAINED_TEACHER], {"teacher.source": _teachers(base)}


def _injection_modes(base: RunSpec, pocket: bool) -> Grid:
    del pocket
    students = {"student.source": ["bundled:stranger", "bundled:kin"]} if _is_bundled(base) else {}
    modes = {"injection.mode": list(catalogue.offered(catalogue.MODES))}
    return [BASELINE, PAPER_METHOD], {**students, **modes}


def _learning_rates(base: RunSpec, pocket: bool) -> Grid:
    centre = base.finetuning.learning_rate
    steps = range(-4, 2) if pocket else range(-6, 4)
    rates = [step_of_grid(centre, step) for step in steps]
    trained = [name for name, row in ARMS.items() if row.changes.get("finetuning.max_steps") != 0]
    return [BASELINE, PAPER_METHOD, "pissa"] if pocket else trained, {RATE: rates}


def _controls(base: RunSpec, pocket: bool) -> Grid:
    del base
    few = [BASELINE, PAPER_METHOD, RANDOM, "spectrum_matched", "permuted", UNTRAINED_TEACHER, "wrong_task", "pissa"]
    return (few if pocket else list(ARMS)), {}


_L1, _L1_30, _L2 = "LLaMA-1 13B to 7B", "LLaMA-1 30B to 7B", "Llama-2 13B to 7B"
_LORA, _LORA_2 = 27.00, 32.28  # its default LoRA, averages


def _table1_marks() -> tuple[Mark, ...]:
    """Return the zero-shot columns of Table 1: untouched 7B, LoRA, with 13B, with 30B; Llama-2: LoRA, with 13B."""
    columns: dict[tuple[str, str], tuple[float | None, ...]] = {
        ("GSM8K", "number_match"): (4.70, 17.26, 18.73, 18.63, 23.38, 25.30),
        ("MMLU", "multiple_choice"): (32.10, 43.43, 44.03, 45.20, 47.77, 49.37),
        ("Super-NaturalInstructions", "exact_match"): (0.67, 22.91, 24.51, 25.01, 24.93, 26.16),
        ("Super-NaturalInstructions", "rouge_l"): (5.55, 40.49, 42.37, 43.08, 41.25, 42.98),
        ("AlpacaFarm", "win_rate"): (None, 9.07, 9.28, 9.40, 20.50, 24.64),
    }
    marks = []
    for (benchmark, scorer), (vanilla, lora, with_13b, with_30b, lora_2, with_13b_2) in columns.items():
        words = {"benchmark": benchmark, "scorer": scorer, "words": benchmark}
        if vanilla is not None:
            marks.append(Mark(vanilla, model=_L1, arm="student", **words))
        marks += [
            Mark(lora, model=_L1, arm=BASELINE, **words),
            Mark(with_13b, model=_L1, against=lora, **words),
            Mark(with_30b, model=_L1_30, against=lora, **words),
            Mark(lora_2, model=_L2, arm=BASELINE, **words),
            Mark(with_13b_2, model=_L2, against=lora_2, **words),
        ]
    return tuple(marks)


def _pair(key: str, value: Any, with_13b: float, with_30b: float) -> tuple[Mark, Mark]:
    """Return two values of Figure 5, digitised."""
    words = f"{AVERAGE}, digitised"
    return (
        Mark(with_13b, words, _L1, point={key: value}, against=_LORA),
        Mark(with_30b, words, _L1_30, point={key: value}, against=_LORA),
    )


def _lora_mark(value: float = _LORA, model: str = _L1) -> Mark:
    return Mark(value, AVERAGE, model, arm=BASELINE)


def _transfer_marks() -> tuple[Mark, ...]:
    rows = {"word_problems": (33.75, "GSM"), "multiple_choice": (33.94, "MMLU"), "instructions": (33.81, "SNI")}
    rows["open_writing"] = (34.15, "LIMA")
    return tuple(
        Mark(value, f"block of {name}, {AVERAGE}", _L2, point={"sensitivity.task": f"bundled:{task}"}, against=_LORA_2)
        for task, (value, name) in rows.items()
    )


_MAPPING, _ORIGIN, _STRUCTURE = "mapping.strategy", "extraction.origin", "extraction.structure"
_FEW_EXAMPLES = "400 test examples and 256 training examples: differences of a few points stay undecided."

_ALL = (
    Preset(
        "table1",
        "Table 1: the student alone, with LoRA, with the teacher",
        "Does LoRA that starts from the teacher's most sensitive blocks score higher than default LoRA, and than LoRA "
        "from random blocks?",
        "Table 1",
        _table1,
        f"One task. {_FEW_EXAMPLES}",
        _table1_marks(),
    ),
    Preset(
        "task_transfer",
        "Task transfer: seed samples of one task, training on another",
        "Does the gain depend on the task whose seed samples picked the block?",
        "Table of task transfer",
        _task_transfer,
        f"Two tasks. {_FEW_EXAMPLES}",
        (_lora_mark(_LORA_2, _L2), *_transfer_marks()),
    ),
    Preset(
        "initialisations",
        "Figure 3: initialisations, teacher size against place of the block",
        "Is it the teacher's size, the place of the block, or any start with other factors than default LoRA's?",
        "Figure 3",
        _initialisations,
        f"Four initialisations. {_FEW_EXAMPLES}",
    ),
    Preset(
        "seed_samples",
        "Figure 4: how many seed samples",
        "How does the score depend on the number of seed samples, from 1 to 128?",
        "Figure 4",
        _seed_samples,
        f"Three numbers of seed samples. {_FEW_EXAMPLES}",
    ),
    Preset(
        "layers",
        "Figure 5, layers: which teacher layers",
        "Does it matter which teacher layers the student's layers receive?",
        "Figure 5, layers",
        _layers,
        _FEW_EXAMPLES,
        (
            _lora_mark(),
            *_pair(_MAPPING, "random", 28.03, 28.37),
            *_pair(_MAPPING, "top", 27.97, 28.42),
            *_pair(_MAPPING, "last", 28.09, 28.46),
            *_pair(_MAPPING, "sensitivity", 28.22, 28.63),
        ),
    ),
    Preset(
        "origin",
        "Figure 5, origin: attention, FFN or embedding",
        "Which modules carry the gain, each against default LoRA on the same modules?",
        "Figure 5, origin",
        _origin,
        f"Modules have different numbers of parameters at one rank. {_FEW_EXAMPLES}",
        (
            _lora_mark(),
            *_pair(_ORIGIN, ("embedding",), 27.32, 27.52),
            *_pair(_ORIGIN, ("ffn",), 27.87, 28.23),
            *_pair(_ORIGIN, ("attention",), 27.52, 27.92),
            *_pair(_ORIGIN, ("all",), 28.22, 28.63),
        ),
    ),
    Preset(
        "structure",
        "Figure 5, structure: submatrix or scattered",
        "Does it matter how the block is picked from a teacher's matrix?",
        "Figure 5, structure",
        _structure,
        _FEW_EXAMPLES,
        (
            _lora_mark(),
            *_pair(_STRUCTURE, "random", 27.07, 27.12),
            *_pair(_STRUCTURE, "neuron", 27.27, 27.36),
            *_pair(_STRUCTURE, "row_column", 27.83, 28.23),
            *_pair(_STRUCTURE, "submatrix", 28.22, 28.63),
        ),
    ),
    Preset(
        "teacher_scale",
        "Teacher scale",
        "Does a larger teacher give more, and more than untrained weights of its size?",
        "Table 1",
        _teacher_scale,
        f"Two teachers. {_FEW_EXAMPLES}",
    ),
    Preset(
        "injection_modes",
        "Injection modes: residual, additive, difference",
        "Does a start that changes the student do better than one that keeps it, with a kin and with a stranger?",
        "",
        _injection_modes,
        _FEW_EXAMPLES,
    ),
    Preset(
        "learning_rates",
        "Learning-rate curves of all arms",
        "Are arms apart at the best rate of each, or only at one rate for all?",
        "",
        _learning_rates,
        f"Three arms over a decade and a quarter. {_FEW_EXAMPLES}",
    ),
    Preset(
        "controls",
        "The full control set",
        "Where does a gain over tuned default LoRA come from: scale, structure, the teacher's content, or the task?",
        "",
        _controls,
        f"One arm a cause. {_FEW_EXAMPLES}",
    ),
)

PRESETS: dict[str, Preset] = {preset.name: preset for preset in _ALL}
