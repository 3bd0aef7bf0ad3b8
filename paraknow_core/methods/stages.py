"""The stages in which the method has a say, as `pipeline.STAGES` calls them: sensitivity, plan, learn, extraction."""

from dataclasses import replace

from paraknow_core.adapters.export import step0_identity
from paraknow_core.adapters.quantise import quantise
from paraknow_core.adapters.saved import RECORD
from paraknow_core.context import CHECKED, Work
from paraknow_core.files.json_file import read_json, write_json
from paraknow_core.methods import wanted
from paraknow_core.methods.base import MethodInputs
from paraknow_core.methods.mapping import map_layers, reads_states
from paraknow_core.methods.plan import plan_transfer
from paraknow_core.methods.start import start_adapter
from paraknow_core.sensitivity.measure import sensitivity
from paraknow_core.sensitivity.similarity import similarity
from paraknow_core.sensitivity.store import TOTALS


def measure(work: Work) -> None:
    """Measure the teacher, or take its sensitivity from the cache; leave its totals."""
    store = work.store = sensitivity(work.context, wanted(work.context))
    write_json(work.folder.file(TOTALS), store.totals)
    work.result["sensitivity"] = {"key": store.folder.name, "samples": store.totals["samples"]}


def plan(work: Work) -> None:
    """Map the layers, and pair the modules of the student with those of the teacher."""
    record = read_json(work.folder.file(RECORD))  # of a run that has its initial adapter
    layers = record["layer_mapping"] if record else map_layers(work.spec.mapping, work.context, work.store)
    work.plan = plan_transfer(work.context, layers)
    if not record and reads_states(work.spec.mapping):
        work.plan = replace(work.plan, similarity=similarity(work.context))


def learn(work: Work) -> None:
    """Let the method fit something short; a run that has its initial adapter has that behind it."""
    if not work.folder.file(RECORD).exists():
        work.student = work.context.student.load()
        parameters = dict(work.student.named_parameters())
        work.method.learn(MethodInputs(work.context, parameters, work.store, work.plan, work.student))


def extract(work: Work) -> None:
    """Put the method's factors into the student as its adapter, and see that it then computes what it should.

    Leaves extraction.json and init_adapter/; a run that has them reads the factors back.
    """
    context = work.context
    work.started = start_adapter(context, work.method, work.store, work.plan, work.folder.path, work.student)
    model = work.started.peft_model
    work.result["layer_mapping"] = work.started.layer_mapping
    work.samples = context.encode(context.task.split("train")[:CHECKED], context.student)[:CHECKED]
    if "step0" not in work.result:
        work.result["step0"] = step0_identity(model, context.student.load(), work.samples)
    if context.settings.student_bits:
        work.result["student_bits"] = {"bits": 4, "weights": quantise(model)}
