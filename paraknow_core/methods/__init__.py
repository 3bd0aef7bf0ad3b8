"""Transfer methods and the reference arms beside them: each says where a student's LoRA factors start.

`base` holds the hooks, `start` calls them; `plan` and `mapping` say what goes where; then one file a method.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from paraknow_core.catalogue import METHODS, PAPER_METHOD, implementation
from paraknow_core.context import Context
from paraknow_core.methods.base import Method
from paraknow_core.methods.plan import plan_transfer

if TYPE_CHECKING:
    from paraknow_core.sensitivity.build import Request


def method(name: str) -> Method:
    """Return the method of a spec by its name (one of `catalogue.METHODS`)."""
    row = METHODS[name]
    return implementation(row)(row)


def wanted(context: Context) -> "Sequence[Request]":
    """Return what the spec's method wants to be kept of the teacher's sensitivity.

    A method without a teacher measures nothing for itself. If the spec asks for the sensitivity all the same, what the
    paper's method wants is kept, so that the other arms find it in the cache.
    """
    spec = context.spec
    if spec.until == "sensitivity" and spec.teacher == spec.student:
        return ()  # nobody is there to receive anything
    name = spec.method if METHODS[spec.method].needs_teacher else PAPER_METHOD
    return method(name).wanted(plan_transfer(context))
