"""What several kinds of questions read: sources, anatomies, tokenizers, tasks, kept while their files stay the same."""

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from paraknow_core.context import Context
from paraknow_core.models.anatomy import Anatomy, read_anatomy
from paraknow_core.models.source import ModelSource, resolve_model
from paraknow_core.paths import Workspace
from paraknow_core.settings import Settings
from paraknow_core.spec import RunSpec, TaskSpec
from paraknow_core.tasks.examples import Task, load_task
from paraknow_core.workbench.desk.questions import question_key

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def model_source(model: dict[str, Any], settings: Settings) -> ModelSource:
    """Find a model given as `{"source": ..., "revision": ...}`; of a hub model only the small files are fetched."""
    return _source(*_named(model, settings))


def anatomy_of(model: dict[str, Any], settings: Settings) -> Anatomy:
    """Return what a model is made of, without reading a weight."""
    return _anatomy(*_named(model, settings))


def tokenizer_of(model: dict[str, Any], settings: Settings) -> "PreTrainedTokenizerBase":
    """Return a model's tokenizer."""
    return _tokenizer(*_named(model, settings))


def task_of(task: dict[str, Any], settings: Settings) -> Task:
    """Load a task given as the `task` part of a spec."""
    return _task(json.dumps(task, sort_keys=True), settings.offline, question_key("task", {"task": task}))


def spec_of(spec: dict[str, Any]) -> RunSpec:
    """Return a whole spec given as plain data."""
    return RunSpec.model_validate_json(json.dumps(spec))


def run_context(spec: RunSpec, place: Workspace, settings: Settings) -> Context:
    """Return the context of a whole spec, with the anatomies, tokenizers and the task that are kept here."""
    context = Context(spec, settings, place)
    models = [(context.teacher, spec.teacher), (context.student, spec.student)]
    if spec.task.judge:
        models.append((context.judge, spec.task.judge))
    for model, named in models:
        given = named.model_dump(mode="json")
        vars(model).update(anatomy=anatomy_of(given, settings), tokenizer=tokenizer_of(given, settings))
    vars(context)["whole_task"] = task_of(spec.task.model_dump(mode="json"), settings)
    return context


def _named(model: dict[str, Any], settings: Settings) -> tuple[str, str | None, bool, str]:
    """Return what a model is kept under: the last part changes when a file of its folder does."""
    named = {"source": model["source"], "revision": model.get("revision")}
    return named["source"], named["revision"], settings.offline, question_key("model", named)


@lru_cache(maxsize=16)
def _source(source: str, revision: str | None, offline: bool, _stamp: str) -> ModelSource:
    return resolve_model(source, revision, offline=offline, weights=False)


@lru_cache(maxsize=16)
def _anatomy(source: str, revision: str | None, offline: bool, stamp: str) -> Anatomy:
    return read_anatomy(_source(source, revision, offline, stamp))


@lru_cache(maxsize=8)
def _tokenizer(source: str, revision: str | None, offline: bool, stamp: str) -> "PreTrainedTokenizerBase":
    from paraknow_core.models.tokenizer import load_tokenizer

    return load_tokenizer(_source(source, revision, offline, stamp))


@lru_cache(maxsize=4)
def _task(task: str, offline: bool, _stamp: str) -> Task:
    return load_task(TaskSpec.model_validate_json(task), offline=offline)
