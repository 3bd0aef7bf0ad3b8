"""Commands that compute one product of the method into a folder: sensitivity, extract."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from paraknow_core.catalogue import MANUAL, METHODS, MODES, SPLITS, STRATEGIES, STRUCTURES, offered
from paraknow_core.cli.console import show, show_json, show_table, working
from paraknow_core.cli.options import Columns, Json, Out, Teacher, columns_of, new_folder, with_settings
from paraknow_core.display import percent, significant
from paraknow_core.errors import RunError, SpecError
from paraknow_core.settings import Settings
from paraknow_core.spec import RunSpec

COMPUTED = ", ".join(name for name in STRATEGIES if name != MANUAL)

Data = Annotated[str, typer.Option(metavar="FILE", help="Seed samples: the first N examples of it; or bundled:NAME.")]
Samples = Annotated[int, typer.Option(min=1, metavar="N", help="How many seed samples.")]
Template = Annotated[Literal["tulu", "chat", "plain"], typer.Option(help="How an example becomes text.")]
MaxLength = Annotated[int, typer.Option(min=2, help="Tokens; longer examples are cut at the end.")]
TooLong = Annotated[
    Literal["refuse", "leave_out"], typer.Option(help="Seed samples of which the limit leaves nothing to learn.")
]


@with_settings()
def sensitivity(
    context: typer.Context,
    teacher: Teacher,
    data: Data,
    out: Out,
    samples: Samples = 32,
    template: Template = "tulu",
    max_length: MaxLength = 2048,
    too_long: TooLong = "refuse",
    columns: Columns = None,
    *,
    settings: Settings,
    part: Annotated[
        str | None, typer.Option(metavar="K/N", help="Measure only the K-th of N parts of the samples, on one worker.")
    ] = None,
    add: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="Add up measured parts instead; once for each part.")
    ] = None,
    json: Json = False,
) -> None:
    """Measure how sensitive a teacher's weights are to seed samples.

    Leaves sensitivity.safetensors (S of every parameter), reductions.safetensors and sensitivity.json in DIR. A
    teacher larger than the memory budget is read layer by layer; of its S only reductions are kept unless asked.
    """
    changes = {"teacher.source": teacher, "student.source": teacher, "until": "sensitivity"}
    changes |= _of_samples(data, samples, template, max_length, too_long, columns)
    spec = RunSpec().with_changes(changes)
    if part and add:
        raise SpecError("--part and --add: measure a part, or add parts up; give one of the two")
    if part and context.params["keep"] == "reductions":
        raise SpecError("--part: a part is kept whole, or it could not be added; leave out --keep reductions")
    extra = {"parts": add} if add else {}
    totals = _compute(context, spec, settings, out, "sensitivity_to", _part(part), **extra)
    if json:
        show_json(totals)
        return
    layers, whole = totals["layers"], totals["total"] or 1.0  # weights that are all 0: every share is
    headings = ("layer", "sensitivity", "share")
    rows = [(index, significant(value, 4), percent(value / whole)) for index, value in enumerate(layers)]
    show_table(headings, rows, right=headings)
    groups = ", ".join(f"{name} {percent(value / whole)}" for name, value in totals["groups"].items())
    show(f"{groups}; {totals['samples']} seed samples, {totals['supervised_tokens']} supervised tokens")
    show(f"saved in {out}")


@with_settings()
def extract(
    context: typer.Context,
    teacher: Teacher,
    student: Annotated[str, typer.Option(metavar="MODEL", help="bundled:NAME, a local folder, or a hub id.")],
    data: Data,
    out: Out,
    samples: Samples = 32,
    rank: Annotated[int, typer.Option(help="Rank r of the adapter.")] = 16,
    lora_alpha: Annotated[float | None, typer.Option(help="Scaling is lora_alpha / r (default: r).")] = None,
    origin: Annotated[str, typer.Option(help="all, or groups and roles with commas: attention,down.")] = "all",
    structure: Annotated[Literal[*offered(STRUCTURES)], typer.Option(help="How a block is picked.")] = "submatrix",
    mapping: Annotated[str, typer.Option(help=f"{COMPUTED}, or teacher layers with commas: 0,1,2,5.")] = "sensitivity",
    mode: Annotated[Literal[*MODES], typer.Option(help="How the block enters the student.")] = "residual",
    split: Annotated[Literal[*SPLITS], typer.Option(help="Where the singular values go: B, or both.")] = "us_v",
    method: Annotated[Literal[*METHODS], typer.Option(help="Who starts the LoRA.")] = "seeking",
    template: Template = "tulu",
    max_length: MaxLength = 2048,
    too_long: TooLong = "refuse",
    columns: Columns = None,
    seed: Annotated[int, typer.Option(min=0, help="For random mappings, blocks and initialisation.")] = 0,
    *,
    settings: Settings,
    json: Json = False,
) -> None:
    """Cut the teacher's most sensitive blocks to the student's size and make them an initial LoRA adapter.

    Leaves extraction.json, init_adapter/ (PEFT format) and the sensitivity's files in DIR.
    """
    changes = {
        "teacher.source": teacher,
        "student.source": student,
        "factorisation.rank": rank,
        "factorisation.lora_alpha": lora_alpha or rank,
        "factorisation.split": split,
        "extraction.origin": [part.strip() for part in origin.split(",")],
        "extraction.structure": structure,
        "extraction.seed": seed,
        "injection.mode": mode,
        "method": method,
        "until": "extraction",
        "seed": seed,
        **_of_samples(data, samples, template, max_length, too_long, columns),
        **_of_mapping(mapping, seed),
    }
    spec = RunSpec().with_changes(changes)
    record = _compute(context, spec, settings, out, "extract_to")
    if json:
        show_json(record)
        return
    if record["layer_mapping"]:
        shown = ", ".join("-" if layer is None else str(layer) for layer in record["layer_mapping"])
        show(f"teacher layer for each student layer: {shown}")
    rows = [
        (name, entry.get("teacher_module"), percent(entry.get("captured_mass")), percent(entry.get("retained_energy")))
        for name, entry in record["modules"].items()
    ]
    headings = ("student module", "teacher module", "captured", "energy in rank")
    show_table(headings, rows, right=headings[2:])
    show(*(f"skipped {name}: {reason}" for name, reason in record["skipped"].items()))
    show(f"saved in {out}; the adapter is {out / 'init_adapter'}", record["init_adapter"])


def _of_mapping(mapping: str, seed: int) -> dict[str, Any]:
    if mapping in STRATEGIES and mapping != MANUAL:
        return {"mapping.strategy": mapping, "mapping.seed": seed}
    parts = [part.strip() for part in mapping.split(",")]
    if not all(part.isdecimal() or part in ("null", "-") for part in parts):
        raise SpecError(
            f"--mapping: '{mapping}' given; choose {COMPUTED}, or one teacher layer a student layer, "
            "such as 0,1,2,5 (null: none)"
        )
    layers = [int(part) if part.isdecimal() else None for part in parts]
    return {"mapping": {"strategy": MANUAL, "layers": layers, "seed": seed}}


def _of_samples(
    data: str, samples: int, template: str, max_length: int, too_long: str, columns: list[str] | None
) -> dict[str, Any]:
    return {
        "task.source": data,
        "task.template": template,
        "task.max_length": max_length,
        "task.too_long": too_long,
        "task.columns": columns_of(columns),
        "task.sizes": {"train": None, "validation": 0, "test": None},
        "sensitivity.samples": samples,
    }


def _part(text: str | None) -> tuple[int, int] | None:
    """Read K/N.

    Raises:
        SpecError: it is not that.
    """
    if text is None:
        return None
    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise SpecError(f"--part: '{text}' given; K/N is right, such as 1/4 for the first of four parts")
    return int(number), int(of)


def _compute(
    context: typer.Context,
    spec: RunSpec,
    settings: Settings,
    out: Path,
    product: str,
    part: tuple[int, int] | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """Build DIR with a function of `products`: complete, or not at all."""
    from paraknow_core.files.atomic import build_folder

    folder = new_folder(out)
    with working() as progress:
        from paraknow_core import products
        from paraknow_core.context import Context

        build: Callable[..., dict[str, Any]] = getattr(products, product)
        work = Context(spec, settings, context.obj, progress, part, train_only=True)
        with build_folder(folder) as building:
            content = build(work, building, **extra)
            for warning in work.task.warnings:
                progress.event("warning", message=warning)
            names: Sequence[str] = sorted(path.name for path in building.iterdir())
    if not all((folder / name).exists() for name in names):  # somebody else filled DIR meanwhile
        raise RunError(f"--out: {out} was filled by somebody else meanwhile; choose another folder")
    return content
