"""The command that shows the main job on the bundled models: the method beside its controls, in one table."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from paraknow_core.catalogue import ARMS, METHODS
from paraknow_core.catalogue import PAPER_METHOD as METHOD
from paraknow_core.cli.console import show, show_json, show_table, working
from paraknow_core.cli.options import Json, with_settings
from paraknow_core.cli.study import FAILED, STOPPED, refuse_missing_tasks, run_study
from paraknow_core.display import NOT_MEASURED, SHARE, percent, significant
from paraknow_core.settings import Settings

if TYPE_CHECKING:
    from paraknow_core.spec import RunSpec
    from paraknow_core.studies.scores import ScoredArm


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
    from paraknow_core.studies.folder import StudyFolder
    from paraknow_core.studies.scores import compare, verdict
    from paraknow_core.studies.study import StudySpec, arms_of

    settings = settings.model_copy(update={"offline": True})
    # The names that this command has always shown, and their arms.
    controls = [row.label for row in METHODS.values() if row.standard and row.name != METHOD]
    names = [*controls, METHOD, *(["seeking, difference"] if student == "kin" else [])]
    arms = {METHOD: METHOD} | {row.label: row.name for row in ARMS.values() if row.name != METHOD}
    base = _base(task, student)
    study = StudySpec(
        name=base.name,
        question="Does the method beat default LoRA and its controls?",
        base=base,
        arms=tuple(arms[name] for name in names),
        seeds=tuple(range(seeds)),
    )
    refuse_missing_tasks(study)
    folder = StudyFolder.create(context.obj, study)
    with working() as progress:
        run_study(folder, settings, progress, "inline")
        cells = [cell for cell in folder.cells() if cell.cell.purpose == "test"]
        if any(cell.state != "done" for cell in cells):
            raise typer.Exit(STOPPED if folder.state() == "stopped" else FAILED)
        runs = {
            name: [cell.run for cell in cells if cell.cell.group.arm.name == arm.name]
            for name, arm in zip(names, arms_of(study), strict=True)
        }
        lines = compare(runs)
    sentences = [verdict(lines, name) for name in names if name.startswith("seeking")]
    if json:
        ids = {name: [run.id for run in arm_runs] for name, arm_runs in runs.items()}
        show_json({"arms": [line.row() for line in lines], "says": sentences, "runs": ids})
        return
    _print(lines, seeds, f"{task}: bundled:teacher -> bundled:{student}, scored by {lines[0].score['scorer']}")
    show(
        *sentences, "`runs list` shows these runs; `ui` draws them.", f"`study show {folder.id}` shows them as a study."
    )


# Half the paper's training data, so that all arms together take minutes on a laptop; the recipe is the paper's.
SIZES = {"train": 512, "validation": 32, "test": 300}


def _base(task: str, student: str) -> "RunSpec":
    from paraknow_core.spec import RunSpec

    return RunSpec().with_changes(
        {
            "name": f"demo {student}",
            "student.source": f"bundled:{student}",
            "task.source": f"bundled:{task}",
            "task.sizes": SIZES,
            "finetuning.validations": 2,
            "references": ["student", "teacher"],
        }
    )


def _print(lines: "Sequence[ScoredArm]", seeds: int, title: str) -> None:
    rows = []
    for line in lines:
        score, paired = line.score, line.difference
        number = percent if score["unit"] == SHARE else significant
        change = interval = NOT_MEASURED
        if paired is not None:
            change = f"{'+' if paired.difference >= 0 else ''}{number(paired.difference)}"
            interval = f"{number(paired.low)} to {number(paired.high)}"
        own = f"{number(score['low'])} to {number(score['high'])}"
        rows.append((line.arm, number(score["value"]), own, score["n"], change, interval))
    columns = ("arm", "score", "95 % interval", "n", "against default LoRA", "95 % interval, paired")
    show_table(columns, rows, f"{title}{f', {seeds} seeds' if seeds > 1 else ''}", right=columns[1:])
