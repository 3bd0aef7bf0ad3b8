"""How many steps and passes a recipe makes of so many examples, and how many threads a run takes. Needs no torch."""

from collections.abc import Hashable
from functools import lru_cache

from paraknow_core.catalogue import METHODS
from paraknow_core.errors import ParaknowError
from paraknow_core.models.anatomy import Anatomy, read_anatomy
from paraknow_core.models.source import resolve_model
from paraknow_core.settings import Settings, usable_cores
from paraknow_core.spec import FinetuningSpec, RunSpec

# Padded tokens of one forward pass: enough to fill a core (more passes a step: less padding, and what a layer makes of
# one stays in the cache), or a GPU.
TOKENS_PER_PASS, TOKENS_PER_GPU_PASS = 1_024, 16_384

# Parameters up to which a second thread is worth less than a second run beside it (`benchmarks.engines --threads`).
ONE_THREAD = 20_000_000


def threads_of(student: int, teacher: int = 0, settings: Settings | None = None) -> int:
    """Return how many threads a run's products take: by the models alone, one for small ones, else all cores.

    Args:
        student, teacher: their parameters; 0 for a teacher that is not measured.
        settings: their `threads` win.
    """
    asked = settings.threads if settings else None
    return asked or (1 if max(student, teacher) <= ONE_THREAD else usable_cores())


def threads_of_spec(spec: RunSpec, settings: Settings | None = None) -> int:
    """Return `threads_of` a spec, of which only the models' headers are read; all cores where they are not here."""
    measured = METHODS[spec.method].needs_teacher or spec.until == "sensitivity"
    try:
        models = (spec.student, spec.teacher)[: 1 + measured]
        sizes = [_anatomy(model.source, model.revision).parameters for model in models]
    except ParaknowError:
        return threads_of(ONE_THREAD + 1, settings=settings)
    return threads_of(*sizes, settings=settings)


@lru_cache(maxsize=64)
def _anatomy(source: str, revision: str | None) -> Anatomy:
    return read_anatomy(resolve_model(source, revision, offline=True), tokenizer=False)


def student_of(spec: RunSpec) -> Anatomy | None:
    """Return the anatomy of a spec's student, without a look at the weights; None where it is not on this machine."""
    try:
        return _anatomy(spec.student.source, spec.student.revision)
    except ParaknowError:
        return None


def pack_key(spec: RunSpec) -> Hashable:
    """Return what runs have in common that may be trained in one pass (see `training.packed`); None for one alone.

    The runs themselves find out whether they really can be: a student with dropout, for example, cannot.
    """
    recipe, row = spec.finetuning, METHODS[spec.method]
    if row.whole or spec.until in ("sensitivity", "extraction") or threads_of_spec(spec) > 1:
        return None
    student, size = spec.student.model_dump_json(), (recipe.batch_size, recipe.micro_batch_size)
    return (student, *size, spec.factorisation.rank, spec.extraction.roles, spec.task.max_length)


def micro_batch_size(spec: FinetuningSpec, longest: int, device: str) -> int:
    """Return how many examples one forward pass takes: the spec's, else the largest divisor of the batch that fits."""
    if spec.micro_batch_size:
        return spec.micro_batch_size
    most = TOKENS_PER_PASS if device == "cpu" else TOKENS_PER_GPU_PASS
    return next((d for d in range(spec.batch_size, 0, -1) if spec.batch_size % d == 0 and d * longest <= most), 1)
