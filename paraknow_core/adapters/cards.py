"""What lies beside an adapter or a merged model as README.md: of what it is, its form, lines that load and merge it.

Every snippet works as it stands with transformers and PEFT alone, once its paths are right.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from paraknow_core.catalogue import METHODS
from paraknow_core.models.source import BUNDLED_PREFIX, ModelSource
from paraknow_core.spec import RunSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

CARD = "README.md"
_BUNDLED_FOLDER = "paraknow_core/demo/models"


def adapter_card(spec: RunSpec, student: ModelSource, head: str | None) -> str:
    """Describe the exported adapter.

    Args:
        spec: the run's.
        student: the untouched student, resolved.
        head: path of an output layer that the student shares with its embedding and that the adapter brings whole.
    """
    rank = spec.factorisation.rank
    form = (
        f"LoRA of rank {2 * rank} on the untouched student: A = [A1; A0] and B = [B1, -B0] hold what training made of "
        f"the factors and, with the other sign, where they began (rank {rank} each, added up where modules share a "
        "weight). Where nothing was taken off the student's weights it is the trained factors alone."
    )
    tied = (
        f"\n- The student uses one matrix as embedding and as output layer (tied). The embedding has LoRA factors; the "
        f"changed output layer `{head}` is here whole. So merging changes each of the two once. With factors on both "
        "uses, PEFT would add the change to the shared matrix twice. PEFT still warns of tied layers when it loads or "
        "merges this adapter: nothing is to be done. `unload()` leaves the changed output layer in place; for the "
        "untouched student, load it again, or use `with model.disable_adapter():`."
        if head
        else ""
    )
    merged = (
        "\n\nThe merged model has an embedding and an output layer of their own, with the same numbers "
        "(`tie_word_embeddings` is false). `runs export ID --merged` of the workbench writes a model whose embeddings "
        "stay tied."
        if head
        else "\n\n`runs export ID --merged` of the workbench writes the same as a whole model folder."
    )
    body = f"""# Adapter for {_name(student)}

What a run of the ParaKnow workbench changed in its student, as a PEFT adapter for the **untouched** student.

{_facts(spec, student)}
- Form: {form}{tied}

## Load

```python
{_load(student, "adapter")}
model = PeftModel.from_pretrained(student, adapter_path).eval()
```

## Merge

```python
merged = model.merge_and_unload()
```{merged}
"""
    return _front(student, spec) + body


def initial_card(spec: RunSpec, student: ModelSource, record: "Mapping[str, Any]", *, tied: bool) -> str:
    """Describe the initial adapter.

    Args:
        spec: the run's.
        student: the untouched student, resolved.
        record: content of extraction.json.
        tied: the embedding gets factors, and the output layer shares its matrix.
    """
    take_off = """
with torch.no_grad():
    done = set()  # tied embeddings are one weight with two uses
    for layer in model.modules():
        if isinstance(layer, LoraLayer) and layer.get_base_layer().weight.data_ptr() not in done:
            weight = layer.get_base_layer().weight
            weight -= layer.get_delta_weight("default").to(weight.dtype)
            done.add(weight.data_ptr())"""
    subtracted = bool(record["subtracted"])
    uses = (
        " Embedding and output layer are one matrix here (tied), so the factors of the output layer are the "
        "embedding's, transposed. Trained by plain PEFT they are parameters of their own, and the two uses move apart; "
        "a run of the workbench keeps them one."
        if tied
        else ""
    )
    imports = "import torch\n" if subtracted else ""
    more = "from peft.tuners.lora import LoraLayer\n" if subtracted else ""
    body = f"""# Initial adapter for {_name(student)}

Where a fine-tuning starts, as a PEFT adapter. {start_note(record)}

{_facts(spec, student)}
- Form: LoRA factors of rank {spec.factorisation.rank} for each module, alpha {spec.factorisation.lora_alpha:g}.

## Start training from it

```python
{imports}{_load(student, "init_adapter", more)}
model = PeftModel.from_pretrained(student, adapter_path, is_trainable=True){take_off if subtracted else ""}
```

Do not merge it: it is a start, not a result.{uses}
"""
    return _front(student, spec) + body


def start_note(record: "Mapping[str, Any]") -> str:
    """Say in one or two sentences what the student computes with the initial adapter, and what that asks for.

    Args:
        record: content of extraction.json, or what is going to be: `subtracted`, `method`, `injection_mode`.
    """
    if record["subtracted"]:
        return (
            "It belongs to a student whose weights lack the adapter's own product (W - scaling * B @ A): put on the "
            "untouched student it changes what that computes. Subtract the product first (init_adapter/README.md has "
            "the lines); then the student computes what it always did, and training starts there."
        )
    if record["modules"]:
        return (
            f"In {record['injection_mode']} mode nothing is taken off the student's weights: with this adapter the "
            "student computes something else than without it, and that is where training starts."
        )
    return "Its product is zero: with it the student computes what it always did."


def merged_card(
    spec: RunSpec,
    student: ModelSource,
    dtype: str,
    bits: int | None,
    rounding: "Mapping[str, float]",
    files: Sequence[str],
) -> str:
    """Describe a merged model.

    Args:
        spec: the run's.
        student: the untouched student, resolved.
        dtype: number format of its weights.
        bits: the run's `student_bits`.
        rounding: `max_abs` and `max_relative` of what rounding to `dtype` changed; zeros for nothing.
        files: names of licence files that lie beside it.
    """
    quantised = (
        f"\n- The run kept the frozen student in {bits} bits. These weights hold that rounding, because the run's "
        "scores are of it."
        if bits
        else ""
    )
    rounded = (
        f"\n- Rounding to {dtype} changed a weight by up to {rounding['max_abs']:.2g} "
        f"({100 * rounding['max_relative']:.2g} % of the tensor's largest), so logits differ a little from the run's."
        if rounding["max_abs"]
        else ""
    )
    licence = f" {', '.join(files)} came with it." if files else ""
    teacher = (
        f", and perhaps that of the teacher {_name_of(spec.teacher.source)}"
        if METHODS[spec.method].needs_teacher
        else ""
    )
    body = f"""# {_name(student)}, fine-tuned and merged

The student of a run of the ParaKnow workbench with its trained change added to the weights: a whole model, no adapter
is needed.

{_facts(spec, student)}
- Weights: {dtype}, safetensors.{quantised}{rounded}
- Licence: a work derived from {_name(student)}; the licence of that model applies{teacher}.{licence}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this one
model = AutoModelForCausalLM.from_pretrained(folder, dtype="{dtype}").eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
```

In the workbench give this folder as `student.source` or `teacher.source`.
"""
    return _front(student, spec, library="transformers") + body


def _facts(spec: RunSpec, student: ModelSource) -> str:
    commit = f", revision `{student.revision}`" if student.revision else ""
    taught = f", teacher {_name_of(spec.teacher.source)}" if METHODS[spec.method].needs_teacher else ""
    mode = f", {spec.injection.mode} mode" if taught else ""
    return f"- Student: {_name(student)}{commit}\n- Method: {spec.method}{mode}{taught}"


def _load(student: ModelSource, adapter: str, imports: str = "") -> str:
    revision = f', revision="{student.revision}"' if student.revision else ""
    return f"""from peft import PeftModel
{imports}from transformers import AutoModelForCausalLM

student_path = {json.dumps(_path(student), ensure_ascii=False)}  # {_where(student)}
adapter_path = "{adapter}"  # this folder
student = AutoModelForCausalLM.from_pretrained(student_path{revision}, dtype="float32")"""


def _path(student: ModelSource) -> str:
    if student.kind == "bundled":
        return f"{_BUNDLED_FOLDER}/{student.label.removeprefix(BUNDLED_PREFIX)}"
    return student.label


def _where(student: ModelSource) -> str:
    return {"bundled": "the untouched student, in the workbench's own folder", "hub": "the untouched student"}.get(
        student.kind, "the folder of the untouched student"
    )


def _name(student: ModelSource) -> str:
    return _name_of(student.label)


def _name_of(source: str) -> str:
    """Return a model's name without where it lies on this machine."""
    if source.startswith((".", "/", "~")) or "\\" in source:
        return " ".join(source.replace("\\", "/").rstrip("/").rpartition("/")[2].split()) or "a local model"
    return source


def _front(student: ModelSource, spec: RunSpec, library: str = "peft") -> str:
    """Return the head that hubs read."""
    base = f"base_model: {student.label}\n" if student.kind == "hub" else ""
    lines = f"{base}library_name: {library}\npipeline_tag: text-generation\ntags: [paraknow, {spec.method}]\n"
    return f"---\n{lines}---\n\n"
