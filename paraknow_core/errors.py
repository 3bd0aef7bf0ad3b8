"""Errors a user can cause. Each message is one sentence: where: what was given; what would be right; what next."""

from collections.abc import Iterator
from contextlib import contextmanager


class ParaknowError(Exception):
    """Base of every error that is shown as a sentence instead of a traceback (the command line exits with 2)."""


def is_panic(error: BaseException) -> bool:
    """Tell whether a library written in Rust met something in a file that it could not go on from.

    Such an error is no `Exception`: what takes care of damaged files must ask for it.
    """
    return type(error).__name__ == "PanicException"


@contextmanager
def without_panic() -> Iterator[None]:
    """Raise what `is_panic` names as a RuntimeError, which whoever takes care of damaged files knows."""
    try:
        yield
    except BaseException as error:
        if is_panic(error):
            raise RuntimeError(str(error)) from None
        raise


class SpecError(ParaknowError):
    """A spec or setting is not valid."""


class DataError(ParaknowError):
    """A task file or example cannot be used."""


class ModelError(ParaknowError):
    """A model cannot be found, read, or is not supported."""


class ShapeError(ParaknowError):
    """Shapes, ranks or sizes do not fit together."""


class NumericError(ParaknowError):
    """A number is NaN or infinite, or a numerical check failed."""


class DivergedError(NumericError):
    """Training came to a loss or a gradient that is NaN or infinite.

    Attributes:
        step: the optimiser step at which it did.
    """

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class RunError(ParaknowError):
    """A run folder is missing, busy, or in a state that does not allow the request."""


class Later(RunError):  # noqa: N818 - not an error: an answer that passes
    """Who was asked cannot take it now, and may later."""
