"""What a transfer method is: a class with a few hooks, each with a default, so that a method writes only what it needs.

To add a method (or a control), write its row in `catalogue.METHODS` and its class: a control of the student
in `controls.py`, one of the method's block in `seeking/controls.py`, anything larger in a file of its own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from paraknow_core import catalogue
from paraknow_core.adapters.update import Update
from paraknow_core.context import Context
from paraknow_core.methods.plan import Plan
from paraknow_core.sensitivity.build import Request
from paraknow_core.sensitivity.store import SensitivityStore

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

# A method's term of the training loss: of the student in training, a batch (input_ids, attention_mask, labels:
# (examples, tokens) each), and the student's outputs for it. It returns a scalar with a gradient: the mean over the
# batch's supervised tokens, as the loss it is added to.
LossTerm = Callable[["PeftModel", Mapping[str, Tensor], Any], Tensor]


@dataclass(frozen=True)
class MethodInputs:
    """What a method may look at.

    Attributes:
        context: the spec, the settings, both models (loaded when asked for), the task, and whom to tell of progress.
        student_parameters: parameter name -> the student's weight, stored orientation, before anything is injected.
        store, plan: the teacher's sensitivity and what goes where; None for a method that needs no teacher.
        student: loaded, untouched, for `learn`; None for whoever has to do with its weights alone.
    """

    context: Context
    student_parameters: Mapping[str, Tensor]
    store: SensitivityStore | None = None
    plan: Plan | None = None
    student: "PreTrainedModel | None" = None

    @cached_property
    def teacher_parameters(self) -> Mapping[str, Tensor]:
        """Parameter name -> the teacher's weight, stored orientation, mapped from disk when it is asked for."""
        return self.context.teacher.weights()

    @property
    def scaling(self) -> float:
        """lora_alpha / rank: what LoRA multiplies B @ A with."""
        factorisation = self.context.spec.factorisation
        return factorisation.lora_alpha / factorisation.rank


class Method:
    """A way to start the student's adapter, and to train it. The hooks, in the order in which a run calls them:

    `wanted`, `learn`, `start`, `loss`. A run that resumes after its start calls `loss` alone.

    Attributes:
        row: what the catalogue says of it.
        trains: which of the factors A and B training moves; the other one stays as it started.
        directions: how many singular directions of a module it takes for each rank.
    """

    trains: ClassVar[tuple[str, ...]] = ("A", "B")
    directions: ClassVar[int] = 1

    def __init__(self, row: catalogue.Method) -> None:
        self.row = row

    @property
    def needs_teacher(self) -> bool:
        """Whether it reads the teacher: its sensitivity is then measured, and the transfer planned."""
        return self.row.needs_teacher

    def wanted(self, plan: Plan) -> Sequence[Request]:  # noqa: ARG002 - a hook
        """Say what to keep of the teacher's sensitivity, of each module while it is in memory. Default: nothing.

        Only row sums, column sums and maps are kept of a sensitivity that is larger than what may be kept. What is
        wanted of it besides has to be taken then. The layer mapping is not known yet at that moment, so that a request
        is for every layer.
        """
        return ()

    def learn(self, inputs: MethodInputs) -> None:
        """Fit something short before the adapter starts, and keep it on `self`. Default: nothing."""

    def start(self, inputs: MethodInputs) -> Iterator[Update]:  # noqa: ARG002 - a hook
        """Yield the factors, and what extraction.json says of them, module by module: only one is in memory at a time.

        A module without an update starts as LoRA does by default (A random, B zero). Default: no update.
        """
        return iter(())

    def loss(self, inputs: MethodInputs) -> LossTerm | None:  # noqa: ARG002 - a hook
        """Return what is added to the training loss; see `LossTerm`. Default: None, nothing."""
        return None
