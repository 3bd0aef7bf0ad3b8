"""What several questions read: models, tokenizers, tasks, stores; remembered while their files stay the same."""

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from paraknow_core.context import Context
from paraknow_core.models.anatomy import Anatomy, read_anatomy
from paraknow_core.models.source import ModelSource, resolve_model
from paraknow_core.models.untrained import named_untrained
from paraknow_core.paths import Workspace, contained
from paraknow_core.sensitivity.store import SensitivityStore
from paraknow_core.settings import Settings
from paraknow_core.spec import ModelSpec, RunSpec, TaskSpec
from paraknow_core.tasks.examples import Task, load_task
from paraknow_core.workbench.sources import state_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def kept(most: float, size: Callable[[Any], float] = lambda _result: 1) -> Callable:
    """Remember a function's last results, each for the same arguments and unchanged files of the sources they name.

    The first argument is a model of fields, whose sources are looked for.

    Args:
        most: the largest sum of the sizes of the results that are remembered; the last one is kept in any case.
        size: of a result; by default each counts as 1.
    """

    def keep(work: Callable) -> Callable:
        results: dict[tuple, Any] = {}

        @wraps(work)
        def look_up(part: BaseModel, *others: Any) -> Any:
            key = (part.model_dump_json(), others, state_of(part))
            result = results.pop(key) if key in results else work(part, *others)
            results[key] = result  # the newest is the last one
            while len(results) > 1 and sum(map(size, results.values())) > most:
                del results[next(iter(results))]
            return result

        return look_up

    return keep


@kept(16)
def model_source(model: ModelSpec, settings: Settings) -> ModelSource:
    """Find a model; of a hub model only the small files are fetched."""
    source = resolve_model(model.source, model.revision, offline=settings.offline, weights=False)
    return source if model.untrained is None else named_untrained(source, model.untrained)


@kept(16)
def anatomy_of(model: ModelSpec, settings: Settings) -> Anatomy:
    """Return what a model is made of, without reading a weight."""
    return read_anatomy(model_source(model, settings))


@kept(8)
def tokenizer_of(model: ModelSpec, settings: Settings) -> "PreTrainedTokenizerBase":
    """Return a model's tokenizer."""
    from paraknow_core.models.tokenizer import load_tokenizer

    return load_tokenizer(model_source(model, settings))


@kept(4)
def task_of(task: TaskSpec, settings: Settings) -> Task:
    """Load a task."""
    return load_task(task, offline=settings.offline)


@kept(12)
def context_of(spec: RunSpec, settings: Settings, place: Workspace) -> Context:
    """Return a context for the parts of a spec that a question holds, with what it has already read of the models."""
    return Context(spec, settings, place)


def run_context(spec: RunSpec, settings: Settings, place: Workspace) -> Context:
    """Return a context for a whole spec, with the anatomies, tokenizers and the task that are remembered here."""
    context = Context(spec, settings, place)
    models = [(context.teacher, spec.teacher), (context.student, spec.student)]
    if spec.task.judge:
        models.append((context.judge, spec.task.judge))
    for model, model_spec in models:
        vars(model).update(anatomy=anatomy_of(model_spec, settings), tokenizer=tokenizer_of(model_spec, settings))
    vars(context)["whole_task"] = task_of(spec.task, settings)
    return context


def store_of(place: Workspace, name: str) -> SensitivityStore:
    """Return a saved sensitivity of the workspace by its folder's name."""
    return SensitivityStore(contained(place.sensitivity, name))
