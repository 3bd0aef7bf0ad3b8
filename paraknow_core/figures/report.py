"""A comparison or a study as one HTML file that needs no network, and a run's files as they are handed out.

`report.html.jinja` and `study.html.jinja` say how the files look; here is what they say.
"""

import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from paraknow_core.catalogue import BASELINE
from paraknow_core.display import NOT_MEASURED, SHARE, score_text, scorer_label, significant, source_label
from paraknow_core.errors import RunError
from paraknow_core.figures import ablations
from paraknow_core.figures import compare as charts
from paraknow_core.files import packing
from paraknow_core.files.packing import refuse_links, safe_name
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.labels import Label, label_of
from paraknow_core.studies import differences
from paraknow_core.studies.arms import NO_EFFECT, Arm, settings_that_differ
from paraknow_core.studies.differences import Contrast
from paraknow_core.studies.report import methods_text
from paraknow_core.studies.words import interval_text, p_text, points_text, size_text

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go

    from paraknow_core.studies.outcome import GroupOutcome, StudyOutcome

__all__ = ["adapter_zip", "html_report", "records_parquet", "records_table", "refuse_linked", "safe_name"]
READ = ("spec.yaml", "result.json", "events.jsonl", "predictions.jsonl")  # of each run, for a report


def html_report(arms: Sequence[Arm], base_key: str = "", title: str = "") -> str:
    """Write a comparison as one HTML document: scores, differences in words, curves, settings, how to reproduce.

    Args:
        arms: the arms; their runs are finished.
        base_key: the arm that the others are compared with; default LoRA, else the last one, where it is not there.
        title: for people; made from the pair by default.

    Returns:
        HTML; figures and their library are inside, every text is escaped.

    Raises:
        RunError: there is no arm, or a file of a run is a link.
    """
    if not arms:
        raise RunError("report: no finished run was chosen; choose some in the table of Compare")
    refuse_linked(arms)
    fallback = next((arm for arm in arms if arm.method == BASELINE), arms[-1])
    base = next((arm for arm in arms if arm.key == base_key), fallback)
    spec = base.spec
    pair = f"{source_label(spec.teacher.source)} → {source_label(spec.student.source)}"
    pictures = Pictures()
    scores = [_score(arms, base, scorer, pictures) for scorer in differences.scorers(arms)]
    curves = _curves(arms, pictures)
    runs = list(_runs(arms))
    return _template("report.html.jinja").render(
        heading=title or f"{pair}: {source_label(spec.task.source)}",
        date=time.strftime("%Y-%m-%d"),
        arms=list(arms),
        base=base,
        runs=runs,
        tasks=sorted({source_label(arm.spec.task.source) for arm in arms}),
        scores=[score for score in scores if score],
        notes=[(name, label) for name, run in runs if (label := label_of(run.path)) != Label()],
        curves=curves,
        settings=[[key, *map(_value, values)] for key, values in settings_that_differ(arms)],
        origins=_origins(runs),
        seeds=sorted({seed for arm in arms for seed in arm.seeds}),
        library=_library() if pictures.scripts else "",
        scripts=pictures.scripts,
    )


def report_html(outcome: "StudyOutcome") -> str:
    """Write a study as one HTML document: question, groups, charts, where a gain comes from, methods, spec and runs.

    Returns:
        HTML; figures and their library are inside, every text is escaped, and the reader's light or dark is followed.
    """
    study, pictures = outcome.study, Pictures()
    makes = [ablations.forest, *(partial(_by_factor, factor=factor) for factor in study.factors)]
    makes += [partial(_levels, factor=factor) for factor in dict.fromkeys(c.factor for c in outcome.contrasts)]
    makes += [] if study.factors else [ablations.by_arm]
    makes += [ablations.rate_curves] if outcome.curves else []
    drawn = [pictures.add(partial(make, outcome)) for make in makes]
    unit = next((group.verdict_unit for group in outcome.groups if group.verdict), SHARE)
    attributions = [
        (pictures.add(partial(ablations.waterfall, each, unit=unit)), each.paragraph) for each in outcome.attribution
    ]
    return _template("study.html.jinja").render(
        heading=study.name,
        question=study.question,
        state=outcome.state.capitalize(),
        date=time.strftime("%Y-%m-%d"),
        warnings=outcome.warnings,
        head=(
            *("group", "score", "seeds × examples", "rate", f"difference [{'points' if unit == SHARE else unit}]"),
            *("smallest detectable", "verdict", "budget equal", "keeps the student"),
        ),
        numbers=range(1, 7),
        lines=_group_lines(outcome),
        untouched=[f"{name} {score_text(score)}" for name, score in outcome.references.items()],
        pictures=drawn,
        attributions=attributions,
        methods=methods_text(outcome).split("\n\n"),
        yaml=study.to_yaml(),
        runs=[[g.label, ", ".join(f"{seed}: {run}" for seed, run in g.runs.items())] for g in outcome.groups],
        library=_library() if pictures.scripts else "",
        scripts=pictures.scripts,
    )


def _levels(outcome: "StudyOutcome", dark: bool, *, factor: str) -> "go.Figure":
    return ablations.levels(outcome, factor, dark)


def _by_factor(outcome: "StudyOutcome", dark: bool, factor: str) -> "go.Figure":
    return ablations.by_factor(outcome, factor, dark)


def _group_lines(outcome: "StudyOutcome") -> list[list[str]]:
    """Return a row for each group; one for all points at which an arm is the same runs, because it reads no factor."""
    by_runs: dict[Any, list[GroupOutcome]] = {}
    for group in outcome.groups:
        by_runs.setdefault((group.arm, tuple(group.runs.values()) or group.key), []).append(group)
    return [_group_line(same, outcome.study.against) for same in by_runs.values()]


def _group_line(same: "Sequence[GroupOutcome]", against: str) -> list[str]:
    group, verdict = same[0], same[0].verdict
    unit = group.verdict_unit or group.unit
    score = {"value": group.value, "low": group.low, "high": group.high, "unit": group.unit}
    judged = [NOT_MEASURED] * 3
    if group.arm == against:
        judged = ["compared with", "", ""]
    elif group.vacuous:
        judged[-1] = group.vacuous
    elif verdict is not None:
        difference = f"{points_text(verdict.difference, unit)} ({interval_text(verdict.low, verdict.high, unit)})"
        judged = [difference, size_text(verdict.smallest_detectable, unit), verdict.verdict]
    return [
        group.label if len(same) == 1 else f"{ablations.arm_label(group)}, at {len(same)} points",
        score_text(score),
        f"{len(group.seeds)} × {group.n:,}" if group.n else "0",
        significant(group.rate) + (" (edge)" if group.rate_at_edge else ""),
        *judged,
        "yes" if group.equal else f"no{f': {group.note}' if group.note else ''}",
        "yes" if group.keeps_student else "no",
    ]


def _template(name: str):  # noqa: ANN202 - a template of jinja2, which is imported for a report only
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    files = FileSystemLoader(Path(__file__).parent)
    rules = Environment(loader=files, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    return rules.get_template(name)


class Picture(NamedTuple):
    """The place where a figure is drawn: its number, height in pixels, and what there is to see."""

    number: int
    height: int
    alt: str


class Pictures:
    """The figures of a report: their scripts are kept for its end."""

    def __init__(self) -> None:
        self.scripts: list[str] = []

    def add(self, make: "Callable[[bool], go.Figure]") -> Picture:
        """Keep the script of a figure, light and dark as the reader's browser is, and return where it will be drawn."""
        light, dark = make(False), make(True)
        alt = (light.layout.meta or {}).get("alt") or unescape(light.layout.title.text or "").replace("<br>", " ")
        picture = Picture(len(self.scripts), light.layout.height, alt)
        # `<` as an escape: a name in a figure can never end the script.
        data = ",".join(
            figure.update_layout(autosize=True).to_json().replace("<", "\\u003c") for figure in (light, dark)
        )
        options = "{displaylogo:false,responsive:true,toImageButtonOptions:{format:'svg'}}"
        plot = f"Plotly.newPlot('figure-{picture.number}',f.data,f.layout,{options});"
        self.scripts.append(f"both(([{data}]),f=>{{{plot}}});\n")
        return picture


def _library() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs().replace("</script", "<\\/script")


def refuse_linked(arms: Sequence[Arm]) -> None:
    """Refuse runs of which a file that is read here is a link: what it leads to would be handed out.

    Raises:
        RunError: names the first.
    """
    for run in (run for arm in arms for run in arm.runs):
        refuse_links(run.path, READ)


def adapter_zip(run: RunFolder) -> bytes:
    """Return a run's adapter/ as a zip: its PEFT files and README.md under `adapter/` and nothing else.

    Raises:
        RunError: the run has no trained adapter, or it is reached through a link.
    """
    return packing.adapter_zip(run.path, "adapter")


def records_table(arms: Sequence[Arm]) -> "pandas.DataFrame":
    """Return the per-example records of all runs: arm, seed, run, scorer, id, prompt, reference, output, score, detail.

    `detail` is JSON text, because its keys differ between scorers.

    Raises:
        RunError: a file of a run is a link.
    """
    import pandas

    refuse_linked(arms)
    rows: list[dict[str, Any]] = []
    for arm in arms:
        for seed, run in zip(arm.seeds, arm.runs, strict=True):
            for record in run.predictions():
                own = {key: str(record.get(key) or "") for key in ("scorer", "id", "prompt", "reference", "output")}
                detail = json.dumps(record.get("detail") or {}, ensure_ascii=False)
                result = {"score": float(record["score"]), "detail": detail}
                rows.append({"arm": arm.label, "seed": seed, "run": run.id, **own, **result})
    return pandas.DataFrame(rows)


def records_parquet(arms: Sequence[Arm]) -> bytes:
    """Return `records_table` as a Parquet file."""
    buffer = io.BytesIO()
    records_table(arms).to_parquet(buffer, index=False)
    return buffer.getvalue()


def _runs(arms: Sequence[Arm]) -> Iterator[tuple[str, RunFolder]]:
    """Give each run with its arm, seed and id in words."""
    for arm in arms:
        for seed, run in zip(arm.seeds, arm.runs, strict=True):
            yield f"{arm.label}, seed {seed}: {run.id}", run


def _score(arms: Sequence[Arm], base: Arm, scorer: str, pictures: Pictures) -> dict[str, Any] | None:
    """Return what is said about one scorer; None where no arm has it in all of its runs."""
    ready = differences.scored_by(arms, scorer)
    if not ready:
        return None
    rows = differences.score_rows(ready, scorer)
    contrasts = differences.contrasts(ready, base, scorer) if base in ready else []
    by_label = {contrast.arm.label: contrast for contrast in contrasts}
    unit = (contrasts[0].unit if contrasts else rows[0].get("unit")) or "score"
    said = ("Test score", "lines: 95 % intervals over examples")
    drawn = [pictures.add(lambda dark: charts.score_forest(rows, *said, dark=dark))]
    if contrasts:
        lines = [by_label.get(arm.label, arm) for arm in ready]
        words = (f"Difference to {base.label}", "paired by example; 95 % intervals")
        drawn.append(pictures.add(lambda dark: charts.difference_forest(lines, *words, dark=dark)))
    return {
        "name": scorer_label(rows[0]),
        "head": ("arm", "score", "seeds", f"difference [{'points' if unit == SHARE else unit}]")
        + ("95 % interval", "p", "p, Holm"),
        "lines": [_score_line(row, by_label.get(row["label"])) for row in rows],
        "pictures": drawn,
        "contrasts": contrasts,
    }


def _score_line(row: dict[str, Any], contrast: Contrast | None) -> list[str]:
    line = [row["label"], score_text(row), "" if row["seeds"] is None else str(row["seeds"])]
    if contrast is None or contrast.result is None:
        return [*line, "", "", "", ""]
    result, unit = contrast.result, row["unit"]
    interval = interval_text(result.low, result.high, unit)
    return [*line, points_text(result.difference, unit), interval, p_text(result.p_value), p_text(contrast.p_adjusted)]


def _curves(arms: Sequence[Arm], pictures: Pictures) -> list[Picture]:
    import pandas

    curves = [
        charts.RunCurve(arm.label, arm.method, arm.variant, seed, pandas.DataFrame(run.metrics()))
        for arm in arms
        for seed, run in zip(arm.seeds, arm.runs, strict=True)
    ]
    curves = [curve for curve in curves if "step" in curve.table]
    return [
        pictures.add(partial(_overlaid, curves, column, title))
        for column, title in (("loss", "Training loss on answers"), ("validation_loss", "Validation loss on answers"))
        if any(column in curve.table for curve in curves)
    ]


def _overlaid(curves: Sequence[charts.RunCurve], column: str, title: str, dark: bool) -> "go.Figure":
    return charts.overlaid(curves, column, title, f"{len(curves)} runs", dark=dark)


def _origins(runs: Sequence[tuple[str, RunFolder]]) -> list[list[str]]:
    """Say which versions and which content made the numbers; runs that share them share a line."""
    lines: dict[tuple[str, str], list[str]] = {}
    for name, run in runs:
        result = run.result() or {}
        versions = ", ".join(f"{package} {number}" for package, number in (result.get("versions") or {}).items())
        prints = (result.get("fingerprints") or {}).items()
        content = ", ".join(f"{part} {str(value)[:12]}" for part, value in prints)
        lines.setdefault((versions or NOT_MEASURED, content or NOT_MEASURED), []).append(name)
    return [["; ".join(names), *both] for both, names in lines.items()]


def _value(value: Any) -> str:
    if value is NO_EFFECT:
        return "no effect"
    if isinstance(value, list | tuple):
        return ", ".join("–" if part is None else str(part) for part in value) or NOT_MEASURED
    return source_label(value, 60) if isinstance(value, str) else NOT_MEASURED if value is None else str(value)
