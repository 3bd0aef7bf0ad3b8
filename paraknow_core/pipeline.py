"""The pipeline: the stages of a run, in order. Read this first.

models + task -> sensitivity -> layer mapping -> extraction -> factorisation -> injection -> fine-tuning -> export
-> evaluation. Each stage leaves its product in the run folder (or, shared between runs, in the cache), so that a run
that was stopped or killed continues after the last finished stage.
"""

import platform
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paraknow_core.context import Context
from paraknow_core.errors import ModelError, ParaknowError, RunError, is_panic
from paraknow_core.files.disk import disk_trouble
from paraknow_core.paths import Workspace, read_json, write_json
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.status import Status
from paraknow_core.runs.table import flat_settings
from paraknow_core.runs.writer import RunWriter, StopRequested
from paraknow_core.sensitivity.store import TOTALS
from paraknow_core.settings import Settings, usable_cores
from paraknow_core.training.checkpoints import prune
from paraknow_core.training.inputs import fingerprints, more_fingerprints, other_circumstances, pinned, refuse_changed
from paraknow_core.training.preparation import IDENTITY_SAMPLES, check_examples, told_date

if TYPE_CHECKING:
    from paraknow_core.sensitivity.store import SensitivityStore

# What stages leave in the run folder: all of it, what rests on the initial adapter, what rests on the trained one.
OF_TRAINED = ("adapter", "predictions.jsonl")
OF_ADAPTER = ("extraction.json", "init_adapter", "checkpoints", *OF_TRAINED)
PRODUCTS = ("sensitivity.json", *OF_ADAPTER)


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
    with _disk_errors(run), RunWriter(run, on_change) as writer, _handle_signals(writer), _disk_errors(run):
        _prepare_torch(settings)
        result = _so_far(run)
        context = Context(pinned(spec, result), settings, place, writer)
        work = _Work(context, run, result, writer)
        try:
            work.run()
        except BaseException as error:
            if is_panic(error):
                raise ModelError(
                    f"model: one of its files is damaged so that its library gave up ({str(error)[:100]}); get the "
                    "model's tokenizer and weights again"
                ) from None
            raise
        result.pop("settings", None)  # the spec lies beside
        write_json(run.file("result.json"), result)
        run.file("partial.json").unlink(missing_ok=True)
        prune(run.file("checkpoints"), 1)
        return result


def _so_far(run: RunFolder) -> dict[str, Any]:
    """Return what earlier attempts have noted, or the result of a run that is done."""
    found = read_json(run.file("partial.json")) or run.result()
    found = found if isinstance(found, dict) else {}
    return {**found, "timings": found["timings"] if isinstance(found.get("timings"), dict) else {}}


@contextmanager
def _disk_errors(run: RunFolder) -> Iterator[None]:
    """Turn what a full disk raises, in whatever library, into a sentence; what was saved stays.

    Raises:
        RunError: the disk is full, or takes no more for another reason.
    """
    try:
        yield
    except (ParaknowError, StopRequested):
        raise
    except Exception as error:
        trouble = disk_trouble(error)
        if trouble is None:
            raise
        stage = run.written().stage
        where = f" (stage {stage})" if stage else ""
        raise RunError(f"disk: {trouble[0]}{where}; {trouble[1]}; {run.way_on(stage)}") from None


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
        from paraknow_core.adapters.inject import check_rank
        from paraknow_core.adapters.quantise import require_package
        from paraknow_core.methods.plan import plan_transfer

        context = self.context
        self.modules = [m for m in context.student.anatomy.modules if m.role in self.spec.extraction.roles]
        check_rank(self.modules, self.spec.factorisation.rank)
        if context.settings.student_bits:
            require_package()
        context.teacher.anatomy  # noqa: B018 - read now, so that an unreadable teacher is told at once
        context.student.check()
        if self.method.needs_teacher:
            context.teacher.check()
            plan_transfer(context).refuse_blocked()
        task, needs_teacher = context.task, self.method.needs_teacher
        noted = (*context.teacher.anatomy.notes, *context.student.anatomy.notes, *task.warnings)
        warnings = list(dict.fromkeys([*noted, *check_examples(context, needs_teacher=needs_teacher)]))
        for warning in warnings:
            self.writer.event("warning", message=warning)
        date = told_date(context, needs_teacher=needs_teacher)
        facts = {
            "fingerprints": fingerprints(context),
            "inputs": more_fingerprints(context),
            "versions": versions(),
            "machine": self._machine(),
            "settings": flat_settings(self.folder.spec().model_dump(mode="json")),
        }
        before = self._go_on(facts)
        self.result |= {
            "spec_version": self.spec.version,
            "warnings": list(dict.fromkeys([*warnings, *before])),
            "task": {
                "name": task.name,
                "sizes": {name: len(split) for name, split in task.splits.items()},
                **({"left_out": context.left_out} if self.spec.task.too_long == "leave_out" else {}),
                **({"date": date} if date else {}),
            },
            "revisions": {
                "teacher": context.teacher.source.revision,
                "student": context.student.source.revision,
                "task": task.revision,
            },
            **facts,
        }

    def _go_on(self, now: dict[str, Any]) -> list[str]:
        """See that what is there was computed with what is there now; return the warnings of earlier attempts.

        Raises:
            RunError: data, models or precision were replaced since.
        """
        from paraknow_core.adapters.initial import is_sound

        if not any(self.folder.file(name).exists() for name in PRODUCTS):
            for name in ("versions", "machine", "settings", "computed_with", "step0", "training"):
                self.result.pop(name, None)
            return []
        if not self.result.get("fingerprints"):
            self._begin_anew("partial.json, which says what it was computed with, is missing or damaged", PRODUCTS)
            return list(self.result["warnings"])
        reads_teacher = self.method.needs_teacher or "teacher" in self.spec.references or "judge" in now["inputs"]
        refuse_changed(self.result, now, reads_teacher)
        other = other_circumstances(self.result, now)
        if other:
            with_what = {name: self.result.get(name) for name in ("versions", "machine")}
            self.result.setdefault("computed_with", [with_what]).append({name: now[name] for name in with_what})
            self._warn(other)
        started = [name for name in OF_ADAPTER if name != "init_adapter"]  # a kill may leave that one alone
        if any(self.folder.file(name).exists() for name in started) and not is_sound(self.folder.path):
            self._begin_anew("the initial adapter is damaged", OF_ADAPTER)
        return list(self.result.get("warnings", []))

    def _begin_anew(self, why: str, names: Sequence[str]) -> None:
        """Drop what cannot be relied on."""
        for name in names:
            path = self.folder.file(name)
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        for name in ("step0", "training"):
            self.result.pop(name, None)
        self._warn(f"resume: {why}, so what rests on it is computed again")

    def _warn(self, message: str) -> None:
        self.writer.event("warning", message=message)
        self.result["warnings"] = list(dict.fromkeys([*self.result.get("warnings", []), message]))

    def _machine(self) -> dict[str, Any]:
        """Return the settings that may change numbers, as they were decided here."""
        from paraknow_core.models.load import pick_device

        settings = self.context.settings
        device = str(pick_device(settings.device)).partition(":")[0]
        return {"device": device, "dtype": self.context.student.dtype, "student_bits": settings.student_bits}

    def _sensitivity(self) -> "SensitivityStore":
        from paraknow_core.methods import wanted
        from paraknow_core.sensitivity.measure import sensitivity

        store = sensitivity(self.context, wanted(self.context))
        write_json(self.folder.file("sensitivity.json"), store.totals)
        self.result["sensitivity"] = {"key": store.folder.name, "samples": store.totals["samples"]}
        return store

    def _inject(self, store: "SensitivityStore | None") -> None:
        """Build the student with its adapter; the initial factors are computed once and read back on a resume."""
        from paraknow_core.adapters.export import step0_identity
        from paraknow_core.methods.mapping import map_layers
        from paraknow_core.methods.plan import plan_transfer
        from paraknow_core.methods.start import start_adapter

        context, plan = self.context, None
        if self.method.needs_teacher:
            plan = plan_transfer(context, map_layers(self.spec.mapping, context, store))
        started = start_adapter(context, self.method, store, plan, self.folder.path)
        self.peft_model, self.initial = started.peft_model, started.initial
        self.result["layer_mapping"] = started.layer_mapping
        train = context.task.split("train")[:IDENTITY_SAMPLES]
        self.samples = context.encode(train, context.student)[:IDENTITY_SAMPLES]
        if "step0" not in self.result:
            self.result["step0"] = step0_identity(self.peft_model, context.student.load(), self.samples)
        if context.settings.student_bits:
            from paraknow_core.adapters.quantise import quantise

            self.result["student_bits"] = {"bits": 4, "weights": quantise(self.peft_model)}

    def _finetune(self) -> None:
        from paraknow_core.training.finetuning import finetune

        context = self.context
        train = context.encode(context.task.split("train"), context.student)
        validation = context.encode(context.task.split("validation"), context.student)
        summary = finetune(
            self.peft_model,
            train,
            validation,
            context.student.tokenizer.pad_token_id,
            self.spec,
            context.settings,
            self.folder.file("checkpoints"),
            self.writer,
            lambda: self.writer.stop_requested,
        )
        before = self.result.get("training") or {}
        for warning in summary.pop("warnings"):
            self._warn(warning)
            before.setdefault("weights", None)  # an earlier version noted none: what it made is of other weights
        if before.get("weights", summary["weights"]) != summary["weights"]:
            self._drop_made_with_other_weights()
        if summary["padding"] is None:
            summary["padding"] = before.get("padding")
        metrics = self.folder.metrics()
        losses = [m["loss"] for m in metrics if "loss" in m]
        validations = [m["validation_loss"] for m in metrics if "validation_loss" in m]
        self.result["trainable_parameters"] = summary.pop("trainable_parameters")
        self.result["training"] = {
            **summary,
            "first_loss": losses[0] if losses else None,
            "last_loss": losses[-1] if losses else None,
            "first_validation_loss": validations[0] if validations else None,
            "last_validation_loss": validations[-1] if validations else None,
        }

    def _drop_made_with_other_weights(self) -> None:
        """One result is of one model: what an earlier attempt has exported and answered is made again."""
        if any(self.folder.file(name).exists() for name in OF_TRAINED):
            self._warn("fine-tuning: ended with other weights than before, so export and evaluation begin again")
        for name in OF_TRAINED:
            path = self.folder.file(name)
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def _export(self) -> None:
        from paraknow_core.adapters.cards import adapter_card
        from paraknow_core.adapters.export import check_export, export_adapter
        from paraknow_core.adapters.inject import tied_head

        folder, student = self.folder.file("adapter"), self.context.student
        shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was cut off
        head = tied_head(self.peft_model.base_model.model, student.anatomy, self.modules)
        export_adapter(
            self.peft_model,
            self.initial,
            student.anatomy,
            self.modules,
            self.spec.factorisation,
            folder,
            student.source.label,
            adapter_card(self.spec, student.source, head),
        )
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

    def _evaluate(self) -> None:
        from paraknow_core.training.evaluation import evaluate, reference_scores

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
    from paraknow_core.methods import wanted
    from paraknow_core.sensitivity.measure import sensitivity
    from paraknow_core.sensitivity.parts import combine

    _warn(context, needs_teacher=True)
    _prepare_torch(context.settings)
    store = combine(context, parts) if parts else sensitivity(context, wanted(context))
    _copy_store(store, out)
    return store.totals


def _copy_store(store: "SensitivityStore", out: Path) -> None:
    """Copy a store's files.

    Raises:
        RunError: the disk of `out` has no room for them.
    """
    files = [file for file in store.folder.rglob("*") if file.is_file()]
    out.mkdir(parents=True, exist_ok=True)
    try:
        for file in sorted(files, key=lambda f: f.name == TOTALS):  # last: it says that the rest is whole
            copy = out / file.relative_to(store.folder)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, copy)
    except OSError as error:
        if disk_trouble(error) is None:
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
    from paraknow_core.adapters.inject import check_rank
    from paraknow_core.methods import method, wanted
    from paraknow_core.methods.mapping import map_layers
    from paraknow_core.methods.plan import plan_transfer
    from paraknow_core.methods.start import start_adapter
    from paraknow_core.sensitivity.measure import sensitivity

    spec, chosen = context.spec, method(context.spec.method)
    modules = [m for m in context.student.anatomy.modules if m.role in spec.extraction.roles]
    check_rank(modules, spec.factorisation.rank)
    context.student.check()
    if chosen.needs_teacher:
        plan_transfer(context).refuse_blocked()
    _warn(context, needs_teacher=chosen.needs_teacher)
    _prepare_torch(context.settings)
    store = plan = None
    if chosen.needs_teacher:
        context.report.stage("sensitivity")
        store = sensitivity(context, wanted(context))
        _copy_store(store, out)
        plan = plan_transfer(context, map_layers(spec.mapping, context, store))
    context.report.stage("extraction")
    start_adapter(context, chosen, store, plan, out)
    return read_json(out / "extraction.json")


def _warn(context: Context, *, needs_teacher: bool) -> None:
    for warning in check_examples(context, needs_teacher=needs_teacher):
        context.report.event("warning", message=warning)


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
