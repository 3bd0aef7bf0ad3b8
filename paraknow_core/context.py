"""What the stages of one run share: its spec, its task, its models (loaded when first needed), and who is told.

`Context` is what stages read, `Work` what they hand on to one another.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from paraknow_core.catalogue import METHODS, asks_judge
from paraknow_core.display import count, memory
from paraknow_core.errors import ModelError, RunError
from paraknow_core.files.json_file import read_object, write_json
from paraknow_core.models.anatomy import Anatomy, read_anatomy
from paraknow_core.models.fingerprint import folder_stamp, tokenizer_fingerprint, weights_fingerprint
from paraknow_core.models.modules import LogicalModule
from paraknow_core.models.source import ModelSource, resolve_model
from paraknow_core.paths import Workspace
from paraknow_core.remembered import Remembered
from paraknow_core.runs.folder import RunFolder
from paraknow_core.settings import Settings
from paraknow_core.spec import ModelSpec, RunSpec, SplitSizes, TaskSpec
from paraknow_core.tasks.examples import Example, Task, load_task

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from paraknow_core.models.tokenizer import TokenAlignment
    from paraknow_core.tasks.fitting import Reader, Readings
    from paraknow_core.tasks.templates import Encoded


T = TypeVar("T")


class Reporter(Protocol):
    """Whoever follows a run: the writer of its folder, or a progress bar. `check_stop` raises if a stop is wanted."""

    def stage(self, name: str, message: str = "") -> None: ...
    def progress(self, done: float, total: float, message: str = "") -> None: ...
    def event(self, name: str, **fields: Any) -> None: ...
    def check_stop(self) -> None: ...

    @property
    def stop_requested(self) -> bool: ...


class Silent(Reporter):
    """A reporter that says nothing and never asks for a stop: the empty methods of `Reporter`."""

    stop_requested = False


# Of the models of this process, by what their folders hold: what they are made of, and which were found to be sound.
_ANATOMIES: Remembered[Anatomy] = Remembered(16)
_SOUND: Remembered[bool] = Remembered(64)


class Model:
    """One model of a run: its source, its anatomy, its tokenizer and its weights, each read when first needed."""

    def __init__(
        self,
        spec: ModelSpec,
        settings: Settings,
        place: Workspace,
        who: str = "model",
        report: Reporter = Silent(),  # noqa: B008 - it holds nothing
    ) -> None:
        self._spec, self._settings, self._place, self._who, self._report = spec, settings, place, who, report

    @cached_property
    def described(self) -> ModelSource:
        """The source of its config, its headers and its tokenizer: enough for all that reads no weight."""
        spec, seed = self._spec, self._spec.untrained
        trained = resolve_model(spec.source, spec.revision, offline=self._settings.offline, weights=seed is None)
        if seed is None:
            return trained
        from paraknow_core.models.untrained import named_untrained

        return named_untrained(trained, seed)

    @cached_property
    def source(self) -> ModelSource:
        """The source of all of it; the random weights of an untrained model are made when they are first asked for."""
        seed = self._spec.untrained
        if seed is None:
            return self.described
        from paraknow_core.models.untrained import untrained

        return untrained(self.described, self.anatomy, seed, self._place.untrained, self._say)

    @property
    def is_made(self) -> bool:
        """Whether weights are there to be read; the random ones of an untrained model are made for whoever asks."""
        seed = self._spec.untrained
        if seed is None:
            return True
        from paraknow_core.models.untrained import place_of

        return place_of(self.described, seed, self._place.untrained).is_dir()

    def _say(self, message: str, lasting: bool = False) -> None:
        self._report.check_stop()
        if lasting:
            self._report.event("untrained", message=message)
        self._report.progress(0, 0, message)

    @cached_property
    def anatomy(self) -> Anatomy:
        source = self.described
        return self._remembered(_ANATOMIES, source, (), lambda: read_anatomy(source))

    def _remembered(
        self, memory: Remembered[T], source: ModelSource, more: tuple[str, ...], work: Callable[[], T]
    ) -> T:
        """Return what follows from a source's files, as this process found it before if they are the same."""
        stamp = folder_stamp(source.folder) if source.remote is None else None
        return memory.recall((source.label, source.revision, stamp, *more), work) if stamp else work()

    @cached_property
    def dtype(self) -> str:
        """The number format that this model computes in: the setting, or for `auto` the faster one on this machine."""
        if self._settings.dtype != "auto":
            return self._settings.dtype
        from paraknow_core.models.load import pick_device
        from paraknow_core.ops.speed import faster_dtype

        size, device = self.anatomy, pick_device(self._settings.device)
        # Decided once a workspace: a stopwatch may change its mind, and a run that resumes must not.
        file, key = self._place.root / "dtype.json", f"{device} {size.hidden_size} {size.intermediate_size}"
        decided = read_object(file)
        if decided.get(key) not in ("float32", "bfloat16", "float16"):
            decided[key] = faster_dtype(device, 256, size.hidden_size, size.intermediate_size)
            write_json(file, decided)
        return decided[key]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights' content."""
        return weights_fingerprint(self.source, memo=self._place.root / "fingerprints.json")

    def refuse_replaced(self) -> None:
        """Refuse weights that are not those whose fingerprint was taken before: a file may be replaced at any time.

        Raises:
            ModelError: they were replaced.
        """
        before = vars(self).get("fingerprint")
        memo = self._place.root / "fingerprints.json"  # so that an unchanged file is not read again
        if before and weights_fingerprint(self.source, memo=memo) != before:
            raise ModelError(
                f"{self.source.label}: its weights were replaced while they were used; put the old ones back, or start "
                "anew with the new ones"
            )

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        return tokenizer_fingerprint(self.described)

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        from paraknow_core.models.tokenizer import load_tokenizer

        return load_tokenizer(self.described)

    def check(self) -> None:
        """Check, before anything costly starts, that weights and tokenizer can be loaded; no weight is loaded for that.

        Raises:
            ModelError: they cannot be; names the file.
        """
        self._remembered(_SOUND, self.source, (self.dtype,), self._build)
        self.tokenizer  # noqa: B018 - read now, so that a tokenizer that cannot be read is told at once

    def _build(self) -> bool:
        import torch

        from paraknow_core.models.load import build_checked
        from paraknow_core.models.shards import Shards

        build_checked(self.source, self.anatomy, Shards(self.source, getattr(torch, self.dtype)))
        return True

    @cached_property
    def reader(self) -> "Reader":
        """What turns examples into this model's tokens; it keeps those that it has tokenised."""
        from paraknow_core.tasks.fitting import Reader

        anatomy, who = self.anatomy, f"{self._who} {self.anatomy.label}"
        # What a tokenizer makes of a text follows from its files and from config.json, which says its class.
        content = f"{self.tokenizer_fingerprint} {json.dumps(self.described.config(), sort_keys=True)}"
        identity = hashlib.sha256(content.encode()).hexdigest()
        return Reader(who, self.tokenizer, anatomy.max_position_embeddings, anatomy.vocab_size, identity)

    def weights(self) -> "Mapping[str, Tensor]":
        """Return the weights by parameter name; each is mapped from disk, as it is stored, when it is looked up."""
        from paraknow_core.models.load import pick_device
        from paraknow_core.models.shards import Shards

        return Shards(self.source, None, pick_device(self._settings.device))

    def load(self) -> "PreTrainedModel":
        """Load the untouched model afresh, in evaluation mode; the caller owns it."""
        from paraknow_core.models.load import load_model, pick_device

        loaded = load_model(self.source, device=pick_device(self._settings.device), dtype=self.dtype)
        self.refuse_replaced()
        return loaded

    def require_memory(self, bytes_a_weight: int, doing: str) -> None:
        """Refuse what this machine has no room for now.

        Args:
            bytes_a_weight: that it takes, the weight's own among them.
            doing: what is done with the weights, as in `measuring`.

        Raises:
            RunError: fewer bytes are free.
        """
        from paraknow_core.memory import available_bytes

        weights = self.anatomy.parameters
        needs, free = bytes_a_weight * weights, available_bytes()
        if needs > free:
            raise RunError(
                f"{self.source.label}: {doing} its {count(weights)} weights here takes about {memory(needs)}, and "
                f"{memory(free)} are free; use a machine with more memory"
            )


@dataclass
class Context:
    """Everything the stages of one run read."""

    spec: RunSpec
    settings: Settings
    place: Workspace
    report: Reporter = field(default_factory=Silent)
    part: tuple[int, int] | None = None  # measure only every n-th seed sample, from the k-th: (k, n), k from 1
    train_only: bool = False  # measure on a file as it is: all of it is the train split

    @cached_property
    def teacher(self) -> Model:
        return Model(self.spec.teacher, self.settings, self.place, "teacher", self.report)

    @cached_property
    def student(self) -> Model:
        return Model(self.spec.student, self.settings, self.place, "student", self.report)

    @property
    def student_modules(self) -> list[LogicalModule]:
        """The student's modules that get an adapter: those of the spec's origin."""
        return [module for module in self.student.anatomy.modules if module.role in self.spec.extraction.roles]

    @cached_property
    def judge(self) -> Model:
        """The judge of win_rate: the model that the spec names, else the teacher."""
        judge = self.spec.task.judge
        return Model(judge, self.settings, self.place, "judge", self.report) if judge else self.teacher

    @cached_property
    def whole_task(self) -> Task:
        """The task as it was loaded."""
        return load_task(self.spec.task, offline=self.settings.offline, train_only=self.train_only)

    @cached_property
    def _other_task(self) -> Task | None:
        """The task that the spec takes seed samples from in place of the run's own; rendered and cut like that one."""
        source, own = self.spec.sensitivity.task, self.spec.task
        if source is None:
            return None
        sizes = SplitSizes(train=None, validation=0)
        alike = own.model_dump(include={"template", "max_length", "split_seed"})
        return load_task(TaskSpec(source=source, sizes=sizes, **alike), offline=self.settings.offline, train_only=True)

    @property
    def seed_task(self) -> Task:
        """The task of the seed samples."""
        return self._other_task or self.task

    @property
    def task(self) -> Task:
        """The task, without examples that are too long if the spec leaves them out."""
        return self._fitted[0]

    @property
    def seed_samples(self) -> tuple[Example, ...]:
        """The seed samples, chosen among examples that are not left out as too long."""
        return self._seeds[0]

    @property
    def left_out(self) -> dict[str, int]:
        """How many examples of each split were left out as too long; of the seed samples, once these were chosen."""
        seeds = {"seed samples": self._seeds[1]} if "_seeds" in vars(self) and self._leaves_out(self.seed_task) else {}
        return self._fitted[1] | seeds

    def _leaves_out(self, task: Task) -> bool:
        return self.spec.task.too_long == "leave_out" and not task.is_text

    @cached_property
    def _fitted(self) -> tuple[Task, dict[str, int]]:
        if not self._leaves_out(self.whole_task):
            return self.whole_task, {}
        from paraknow_core.tasks.fitting import leave_out

        return leave_out(self.whole_task, self.readings, self.skim)

    @cached_property
    def _seeds(self) -> tuple[tuple[Example, ...], int]:
        spec, task = self.spec.sensitivity, self.seed_task
        if not self._leaves_out(task):
            return task.seed_samples(spec), 0
        from paraknow_core.tasks.fitting import seeds_that_fit

        row, measured = METHODS[self.spec.method], self.spec.until == "sensitivity"
        reader = (self.student if row.reads_samples and not (row.needs_teacher or measured) else self.teacher).reader
        return seeds_that_fit(task, self._other_task or self.whole_task, spec, [(reader, ("learn",))], self.skim)

    @property
    def readings(self) -> "dict[str, Readings]":
        """Which models read each split, and for what; the seed samples are not among them."""
        from paraknow_core.tasks.fitting import scoring_uses

        spec, scorers = self.spec, self.whole_task.scorers
        if self.train_only or spec.until == "sensitivity":
            return {}
        readings: dict[str, Readings] = {"train": [(self.student.reader, ("learn",))]}
        if spec.until in ("training", "evaluation"):
            readings["validation"] = readings["train"]
        if spec.until == "evaluation":
            test = [(self.student.reader, scoring_uses(scorers))]
            if "teacher" in spec.references:
                test.append((self.teacher.reader, scoring_uses(scorers)))
            if asks_judge(scorers):
                test.append((self.judge.reader, ("judge",)))
            readings["test"] = test
        return readings

    @cached_property
    def alignment(self) -> "TokenAlignment":
        """Which tokens of the two vocabularies are the same."""
        from paraknow_core.models.tokenizer import align_tokens, vocabulary

        return align_tokens(vocabulary(self.teacher.described), vocabulary(self.student.described))

    def encode(self, examples: Sequence[Example], model: Model, task: Task | None = None) -> "list[Encoded]":
        """Return examples (of the run's task, or of another) as tokens and labels of a model.

        Plain text becomes consecutive token windows.
        """
        task = task or self.whole_task
        return [entry for example in examples for entry in model.reader.encode(example, task)]

    def skim(self, items: Sequence[Any], message: str = "") -> Iterable[Any]:
        """Yield items that take no time each: report progress and look for a stop request at every 64th only."""
        for index, item in enumerate(items):
            if index % 64 == 63:
                self.report.check_stop()
                self.report.progress(index, len(items), message)
            yield item

    def follow(self, items: Sequence[Any], message: str = "") -> Iterable[Any]:
        """Yield items, reporting progress and honouring a stop request before each."""
        for index, item in enumerate(items):
            self.report.check_stop()
            self.report.progress(index, len(items), message)
            yield item
        self.report.progress(len(items), len(items), message)


# What stages leave in the run folder: what depends on the trained adapter, what depends on the initial one, and all.
OF_TRAINED = ("adapter", "predictions.jsonl")
OF_ADAPTER = ("extraction.json", "init_adapter", "checkpoints", *OF_TRAINED)
PRODUCTS = ("sensitivity.json", *OF_ADAPTER)
CHECKED = 4  # training examples on which adapters are checked: before the first step, and when they are exported


@dataclass
class Work:
    """One execution of a run: what its stages hand on to one another. Types of rooms above are Any here.

    Attributes:
        context: what all of them read.
        folder: where they leave their products.
        method: the spec's (`methods.base.Method`).
        result: the content of result.json to be; it grows with every stage, and lies in partial.json meanwhile.
        store: of stage sensitivity: the teacher's (`sensitivity.store.SensitivityStore`), if it is measured.
        plan: of stage plan: what goes where (`methods.plan.Plan`), if the teacher was measured.
        student: loaded by stage learn, and taken over by extraction.
        started: of stage extraction (`methods.start.StartedAdapter`): the student with its adapter, trained in place.
        samples: of stage extraction: a few encoded examples, on which adapters are checked.
    """

    context: Context
    folder: RunFolder
    method: Any
    result: dict[str, Any] = field(default_factory=dict)
    store: Any = None
    plan: Any = None
    student: "PreTrainedModel | None" = None
    started: Any = None
    samples: "Sequence[Encoded]" = ()

    @property
    def spec(self) -> RunSpec:
        return self.context.spec

    @property
    def measured(self) -> bool:
        """Whether the teacher is measured: by a method that needs it, or because nothing else was asked for."""
        return self.method.needs_teacher or self.spec.until == "sensitivity"

    def warn(self, message: str) -> None:
        """Report a warning and keep it in the result."""
        self.context.report.event("warning", message=message)
        self.result["warnings"] = list(dict.fromkeys([*self.result.get("warnings", []), message]))

    def drop(self, names: Sequence[str]) -> None:
        """Remove products that cannot be relied on."""
        for path in map(self.folder.file, names):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
