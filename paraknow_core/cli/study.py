"""The command that shows the main job on the bundled models: the method beside its controls, in one table."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from paraknow_core.cli.console import show, show_json, show_table, working
from paraknow_core.cli.options import Json, with_settings
from paraknow_core.display import NOT_MEASURED, SHARE, percent, significant
from paraknow_core.settings import Settings

if TYPE_CHECKING:
    import pandas

    from paraknow_core.spec import RunSpec


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(demo)


@with_settings("device", "dtype", "threads")
def demo(
    context: typer.Context,
    task: Annotated[str, typer.Option(help="A bundled task; `tasks` lists them.")] = "word_problems",
    student: Annotated[
        Literal["stranger", "kin"], typer.Option(help="stranger: trained on its own; kin: the teacher grew from it.")
    ] = "stranger",
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Seeds for every arm.")] = 1,
    *,
    settings: Settings,
    json: Json = False,
) -> None:
    """Run the method and its controls on the bundled models and compare their scores, all on this machine."""
    from paraknow_core.cli.run import REFUSED, execute_all
    from paraknow_core.runs.folder import create_run
    from paraknow_core.studies.scores import STANDARD, arms, compare, verdict

    settings = settings.model_copy(update={"offline": True})
    names = (*STANDARD, "seeking, difference") if student == "kin" else STANDARD
    specs = [arms(_spec(task, student, seed), names) for seed in range(seeds)]
    runs = {name: [create_run(context.obj, spec[name]) for spec in specs] for name in names}
    with working() as progress:
        outcomes = execute_all([run for same in runs.values() for run in same], context.obj, settings, progress)
        if any(outcomes):
            raise typer.Exit(max(outcomes, default=REFUSED))
        table = compare(runs)
    sentences = [verdict(table, name) for name in names if name.startswith("seeking")]
    if json:
        ids = {name: [run.id for run in same] for name, same in runs.items()}
        show_json({"arms": _records(table), "says": sentences, "runs": ids})
        return
    _print(table, seeds, f"{task}: bundled:teacher -> bundled:{student}, scored by {table['scorer'][0]}")
    show(*sentences, "`runs list` shows these runs; `ui` draws them.")


# Half the paper's training data, so that all arms together take minutes on a laptop; the rest is its recipe.
SIZES = {"train": 512, "validation": 32, "test": 300}


def _spec(task: str, student: str, seed: int) -> "RunSpec":
    from paraknow_core.spec import RunSpec

    return RunSpec().with_changes(
        {
            "name": f"demo {student}",
            "student.source": f"bundled:{student}",
            "task.source": f"bundled:{task}",
            "task.sizes": SIZES,
            "finetuning.validations": 2,
            "references": ["student", "teacher"],
            "seed": seed,
        }
    )


def _records(table: "pandas.DataFrame") -> list[dict[str, Any]]:
    """Return the rows as plain data; what is not known is null, not NaN."""
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return [{key: value.item() if hasattr(value, "item") else value for key, value in row.items()} for row in rows]


def _print(table: "pandas.DataFrame", seeds: int, title: str) -> None:
    rows = []
    for row in _records(table):
        show_value = percent if row["unit"] == SHARE else significant
        low, high, change, change_low, change_high = (
            show_value(row.get(key)) for key in ("low", "high", "difference", "difference_low", "difference_high")
        )
        paired = change != NOT_MEASURED
        rows.append(
            (
                row["arm"],
                show_value(row["value"]),
                f"{low} to {high}",
                row["n"],
                f"{'+' if paired and row['difference'] >= 0 else ''}{change}",
                f"{change_low} to {change_high}" if paired else NOT_MEASURED,
            )
        )
    columns = ("arm", "score", "95 % interval", "n", "against default LoRA", "95 % interval, paired")
    show_table(columns, rows, f"{title}{f', {seeds} seeds' if seeds > 1 else ''}", right=columns[1:])
