"""The pipeline: the stages of a run, in order. Read this first.

models + task -> sensitivity -> layer mapping -> extraction -> factorisation -> injection -> fine-tuning -> export
-> evaluation. Each stage leaves its product in the run folder (or, shared between runs, in the cache), so that a run
that was stopped or killed continues after the last finished stage.
"""

import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paraknow_core.errors import RunError
from paraknow_core.paths import Workspace, read_json, write_json
from paraknow_core.runs import RunFolder, Status
from paraknow_core.sensitivity_store import TOTALS
from paraknow_core.settings import Settings, usable_cores
from paraknow_core.stages.context import Context
from paraknow_core.writer import RunWriter

if TYPE_CHECKING:
    from paraknow_core.sensitivity_store import SensitivityStore

IDENTITY_SAMPLES = 4  # examples on which step-0 identity and the exported adapter are checked


def execute(
    run: RunFolder, place: Workspace, settings: Settings, on_change: Callable[[Status], None] | None = None
) -> dict[str, Any] | None:
    """Execute a run folder from its first unfinished stage to the end.

    Args:
        run: an existing folder with a frozen spec.
        place: the workspace whose caches are shared with other runs.
        settings: where and how to compute.
        on_change: called with every new status.

    Returns:
        The result (also in result.json), or None if the run was asked to stop.

    Raises:
        ParaknowError: what a user can mend, one sentence; the folder's state is then `failed`.
    """
    spec = run.spec()
    with RunWriter(run, on_change) as writer, _handle_signals(writer):
        _prepare_torch(settings)
        context = Context(spec, settings, place, writer)
        result = read_json(run.file("partial.json"), {"timings": {}})
        work = _Work(context, run, result, writer)
        work.run()
        write_json(run.file("result.json"), result)
        run.file("partial.json").unlink(missing_ok=True)
        return result


class _Work:
    """One execution of a run: its stages as methods, its result as a dict that grows."""

    def __init__(self, context: Context, run: RunFolder, result: dict[str, Any], writer: RunWriter) -> None:
        self.context, self.folder, self.result, self.writer = context, run, result, writer
        self.spec = context.spec

    def run(self) -> None:
        from paraknow_core.methods import method

        self.method = method(self.spec.method)
        with self._stage("prepare"):
            self._prepare()
        store = None
        if self.method.needs_teacher or self.spec.until == "sensitivity":
            with self._stage("sensitivity"):
                store = self._sensitivity()
        if self.spec.until == "sensitivity":
            return
        with self._stage("injection"):
            self._inject(store)
        if self.spec.until == "extraction":
            return
        with self._stage("fine-tuning"):
            self._finetune()
        with self._stage("export"):
            self._export()
        with self._stage("evaluation"):
            self._evaluate()

    def _prepare(self) -> None:
        """Read task and anatomies, and refuse what cannot work before anything costly starts."""
        from paraknow_core.stages.extraction import refuse_incompatible
        from paraknow_core.stages.injection import check_rank
        from paraknow_core.stages.quantisation import require_package

        context = self.context
        self.modules = [m for m in context.student.anatomy.modules if m.role in self.spec.extraction.roles]
        check_rank(self.modules, self.spec.factorisation.rank)
        if context.settings.student_bits:
            require_package()
        context.teacher.anatomy  # noqa: B018 - read now, so that an unreadable teacher is told at once
        if self.method.needs_teacher:
            refuse_incompatible(context)
        task = context.task
        for warning in task.warnings:
            self.writer.event("warning", message=warning)
        self.result |= {
            "spec_version": self.spec.version, "warnings": list(task.warnings),
            "task": {"name": task.name, "sizes": {name: len(split) for name, split in task.splits.items()}},
            "fingerprints": {
                "teacher": context.teacher.fingerprint, "student": context.student.fingerprint,
                "tokenizer": context.student.tokenizer_fingerprint,
                **{name: task.fingerprint(name) for name in task.splits},
            },
            "revisions": {"teacher": context.teacher.source.revision, "student": context.student.source.revision},
            "versions": versions(), "machine": self._machine(),
        }  # fmt: skip

    def _machine(self) -> dict[str, Any]:
        """Return the settings that may change numbers, as they were decided here."""
        from paraknow_core.models.load import pick_device

        settings = self.context.settings
        device = str(pick_device(settings.device)).partition(":")[0]
        return {"device": device, "dtype": self.context.student.dtype, "student_bits": settings.student_bits}

    def _sensitivity(self) -> "SensitivityStore":
        from paraknow_core.stages.sensitivity import sensitivity

        store = sensitivity(self.context)
        write_json(self.folder.file("sensitivity.json"), store.totals)
        self.result["sensitivity"] = {"key": store.folder.name, "samples": store.totals["samples"]}
        return store

    def _inject(self, store: "SensitivityStore | None") -> None:
        """Build the student with its adapter; the initial factors are computed once and read back on a resume."""
        from paraknow_core.stages.adapter import start_adapter
        from paraknow_core.stages.export import step0_identity

        context = self.context
        started = start_adapter(context, self.method, self.modules, store, self.folder.path)
        self.peft_model, self.initial = started.peft_model, started.initial
        self.result["layer_mapping"] = started.layer_mapping
        train = context.task.split("train")[:IDENTITY_SAMPLES]
        self.samples = context.encode(train, context.student)[:IDENTITY_SAMPLES]
        if "step0" not in self.result:
            self.result["step0"] = step0_identity(self.peft_model, context.student.load(), self.samples)
        if context.settings.student_bits:
            from paraknow_core.stages.quantisation import quantise

            self.result["student_bits"] = {"bits": 4, "weights": quantise(self.peft_model)}

    def _finetune(self) -> None:
        from paraknow_core.stages.finetuning import finetune

        context = self.context
        train = context.encode(context.task.split("train"), context.student)
        validation = context.encode(context.task.split("validation"), context.student)
        summary = finetune(
            self.peft_model, train, validation, context.student.tokenizer.pad_token_id, self.spec, context.settings,
            self.folder.file("checkpoints"), self.writer, lambda: self.writer.stop_requested,
        )  # fmt: skip
        metrics = self.folder.metrics()
        losses = [m["loss"] for m in metrics if "loss" in m]
        validations = [m["validation_loss"] for m in metrics if "validation_loss" in m]
        self.result["trainable_parameters"] = summary.pop("trainable_parameters")
        self.result["training"] = {
            **summary, "first_loss": losses[0] if losses else None, "last_loss": losses[-1] if losses else None,
            "first_validation_loss": validations[0] if validations else None,
            "last_validation_loss": validations[-1] if validations else None,
        }  # fmt: skip

    def _export(self) -> None:
        from paraknow_core.stages.cards import adapter_card
        from paraknow_core.stages.export import check_export, export_adapter
        from paraknow_core.stages.injection import tied_head

        folder, student = self.folder.file("adapter"), self.context.student
        if not folder.exists():
            head = tied_head(self.peft_model.base_model.model, student.anatomy, self.modules)
            export_adapter(
                self.peft_model, self.initial, student.anatomy, self.modules, self.spec.factorisation, folder,
                student.source.label, adapter_card(self.spec, student.source, head),
            )  # fmt: skip
        self.result["export_check"] = check = check_export(self.peft_model, student.load(), folder, self.samples)
        if not check["passed"]:
            why = "train without student_bits" if self.context.settings.student_bits else "compute in float32"
            message = (
                f"the exported adapter differs from the trained model by {check['max_abs']:.2g} in a logit "
                f"(tolerance {check['tolerance']:.2g}); {why}, or take the whole model from "
                f"`runs export {self.folder.id} --merged` instead of the adapter"
            )
            self._warn(message)
        elif not check["merges"]:
            self._warn(
                f"the exported adapter loads right, but merged by plain PEFT it differs from the trained model by "
                f"{check['merged_max_abs']:.2g} in a logit (tolerance {check['tolerance']:.2g}); do not merge it, take "
                f"the whole model from `runs export {self.folder.id} --merged`"
            )

    def _warn(self, message: str) -> None:
        self.writer.event("warning", message=message)
        self.result["warnings"].append(message)

    def _evaluate(self) -> None:
        from paraknow_core.stages.evaluation import evaluate, reference_scores

        context = self.context
        self.result["scores"] = evaluate(
            context, self.peft_model, context.student.tokenizer, self.folder.file("predictions.jsonl")
        )
        self.result["references"] = {name: reference_scores(context, name) for name in self.spec.references}

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self.writer.stage(name)
        began = time.monotonic()
        try:
            yield
        finally:  # also when stopped: a resumed stage adds to its own time
            timings = self.result["timings"]
            timings[name] = round(timings.get(name, 0.0) + time.monotonic() - began, 3)
            self.result["peak_memory_bytes"] = max(self.result.get("peak_memory_bytes", 0), peak_memory_bytes())
            write_json(self.folder.file("partial.json"), self.result)


def sensitivity_to(context: Context, out: Path, parts: Sequence[Path] = ()) -> dict[str, Any]:
    """Compute the sensitivity of the context's teacher (or take it from the cache) and copy the store to `out`.

    Args:
        context: teacher, task and seed samples.
        out: an existing or new folder.
        parts: add these measured parts up instead.

    Returns:
        The content of `out`/sensitivity.json.
    """
    from paraknow_core.stages.parts import combine
    from paraknow_core.stages.sensitivity import sensitivity

    _prepare_torch(context.settings)
    store = combine(context, parts) if parts else sensitivity(context)
    _copy_store(store, out)
    return store.totals


def _copy_store(store: "SensitivityStore", out: Path) -> None:
    """Copy a store's files.

    Raises:
        RunError: the disk of `out` has no room for them.
    """
    import shutil

    from paraknow_core.stages.work_folder import FULL_DISK

    files = [file for file in store.folder.rglob("*") if file.is_file()]
    out.mkdir(parents=True, exist_ok=True)
    try:
        for file in sorted(files, key=lambda f: f.name == TOTALS):  # last: it says that the rest is whole
            copy = out / file.relative_to(store.folder)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, copy)
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        size = sum(file.stat().st_size for file in files)
        raise RunError(
            f"output: has no room for the {size / 1e6:,.0f} MB of the sensitivity, which is kept in the workspace; "
            "free some space, or give another folder, and start again"
        ) from None


def extract_to(context: Context, out: Path) -> dict[str, Any]:
    """Run sensitivity, mapping, extraction and injection, and leave extraction.json and init_adapter/ in `out`.

    Returns:
        The content of `out`/extraction.json.
    """
    from paraknow_core.methods import method
    from paraknow_core.stages.adapter import start_adapter
    from paraknow_core.stages.extraction import refuse_incompatible
    from paraknow_core.stages.injection import check_rank
    from paraknow_core.stages.sensitivity import sensitivity

    spec, chosen = context.spec, method(context.spec.method)
    modules = [m for m in context.student.anatomy.modules if m.role in spec.extraction.roles]
    check_rank(modules, spec.factorisation.rank)
    if chosen.needs_teacher:
        refuse_incompatible(context)
    _prepare_torch(context.settings)
    store = None
    if chosen.needs_teacher:
        context.report.stage("sensitivity")
        store = sensitivity(context)
        _copy_store(store, out)
    context.report.stage("extraction")
    start_adapter(context, chosen, modules, store, out)
    return read_json(out / "extraction.json")


def versions() -> dict[str, str]:
    """Return the versions that numbers may depend on."""
    packages = ("torch", "transformers", "peft", "tokenizers", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def peak_memory_bytes() -> int:
    """Return the largest resident memory this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _prepare_torch(settings: Settings) -> None:
    import torch

    # All of them even beside other runs: sums, and with them numbers, may depend on the count in their last digits.
    torch.set_num_threads(settings.threads or usable_cores())


@contextmanager
def _handle_signals(writer: RunWriter) -> Iterator[None]:
    """Turn SIGTERM and the first Ctrl-C into a graceful stop while a run is going on (main thread only)."""
    import signal
    import threading

    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def first_interrupt(*_: object) -> None:
        writer.signal_stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C ends it hard

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, writer.signal_stop)
    signal.signal(signal.SIGINT, first_interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
