"""One comparison as one HTML file that needs no network, and a run's files as they are handed out."""

import json
import time
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from paraknow_core import studies as comparison
from paraknow_core.display import NOT_MEASURED, SHARE, score_text, scorer_label, source_label
from paraknow_core.errors import RunError
from paraknow_core.figures import compare as charts
from paraknow_core.files import packing
from paraknow_core.files.packing import refuse_links, safe_name
from paraknow_core.runs.folder import RunFolder
from paraknow_core.studies import Arm, Contrast, p_text, points_text

if TYPE_CHECKING:
    import pandas

__all__ = ["adapter_zip", "html_report", "records_table", "refuse_linked", "safe_name"]
READ = ("spec.yaml", "result.json", "events.jsonl", "predictions.jsonl")  # of each run, for a report
# Nothing is ever fetched, whatever the figures' library would like to: the browser itself is told to refuse it.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
CSS = """
body {font: 15px/1.5 "Source Sans 3", "Source Sans", system-ui, sans-serif; color: #1F2427; background: #FCFCFB;
  max-width: 1080px; margin: 2rem auto; padding: 0 1.5rem; font-variant-numeric: tabular-nums;}
h1 {font-size: 1.8rem; line-height: 1.2; overflow-wrap: anywhere;} h2 {font-size: 1.25rem; margin: 2rem 0 .5rem;}
table {border-collapse: collapse; margin: .5rem 0 1rem; display: block; overflow-x: auto;}
th, td {text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #D9DCD8; vertical-align: top;
  overflow-wrap: anywhere; max-width: 28rem;}
td.n, th.n {text-align: right; white-space: nowrap;}
code, pre {font-size: .82rem; background: #F2F3F1;} code {padding: 0 .25rem;}
pre {padding: .6rem .8rem; overflow-x: auto;} .quiet {color: #5F676B;} .caution {color: #B04A00;}
details {margin: .4rem 0;} summary {cursor: pointer;} @media print {details > *:not(summary) {display: block;}}
"""


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
    fallback = next((g for g in arms if g.method == "default_lora"), arms[-1])
    base = next((g for g in arms if g.key == base_key), fallback)
    spec = base.spec
    pair = f"{source_label(spec.teacher.source)} → {source_label(spec.student.source)}"
    heading = title or f"{pair}: {source_label(spec.task.source)}"
    figures: list[str] = []
    parts = [
        f"<h1>{escape(heading)}</h1>",
        _question(arms, base),
        *(_scores(arms, base, scorer, figures) for scorer in comparison.scorers(arms)),
        _curves(arms, figures),
        _settings(arms),
        _origin(arms),
        _again(arms),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(heading)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="viewport" content="width=device-width">\n<style>{CSS}</style>\n'
        f"<script>{_library() if figures else ''}</script></head>\n<body>\n{body}\n"
        f"<script>{''.join(figures)}</script>\n</body></html>\n"
    )


def refuse_linked(arms: Sequence[Arm]) -> None:
    """Refuse runs of which a file that is read here is a link: what it leads to would be handed out.

    Raises:
        RunError: names the first.
    """
    for run in (run for g in arms for run in g.runs):
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
    for g in arms:
        for seed, run in zip(g.seeds, g.runs, strict=True):
            for record in run.predictions():
                own = {key: str(record.get(key) or "") for key in ("scorer", "id", "prompt", "reference", "output")}
                detail = json.dumps(record.get("detail") or {}, ensure_ascii=False)
                rows.append(
                    {
                        "arm": g.label,
                        "seed": seed,
                        "run": run.id,
                        **own,
                        "score": float(record["score"]),
                        "detail": detail,
                    }
                )
    return pandas.DataFrame(rows)


def _question(arms: Sequence[Arm], base: Arm) -> str:
    names = ", ".join(escape(g.label) for g in arms)
    runs = sum(len(g.runs) for g in arms)
    tasks = sorted({source_label(g.spec.task.source) for g in arms})
    return (
        f"<p>Does where LoRA starts change what a student learns? {len(arms)} arms ({names}) with {runs} "
        f"run{'s' if runs != 1 else ''} on {escape(', '.join(tasks))}; differences are to <b>{escape(base.label)}</b>, "
        f'paired example by example.</p><p class="quiet">Made on {time.strftime("%Y-%m-%d")} by the ParaKnow '
        "workbench. Method: Zhong et al., Seeking Neural Nuggets, ICLR 2024, arXiv:2310.11451.</p>"
    )


def _scores(arms: Sequence[Arm], base: Arm, scorer: str, figures: list[str]) -> str:
    ready = comparison.scored_by(arms, scorer)
    if not ready:  # no arm has it in all of its runs
        return ""
    rows = comparison.score_rows(ready, scorer)
    changes = comparison.contrasts(ready, base, scorer) if base in ready else []
    by_label = {c.arm.label: c for c in changes}
    lines = [_score_line(row, by_label.get(row["label"])) for row in rows]
    unit = (changes[0].unit if changes else rows[0].get("unit")) or "score"
    unit = "points" if unit == SHARE else unit
    head = ("arm", "score", "seeds", f"difference [{unit}]", "95 % interval", "p", "p, Holm")
    words = "".join(
        f"<p><b>{escape(c.arm.label)}</b> against {escape(base.label)}: {escape(c.says)}"
        + (f'<br><span class="caution">{escape("; ".join(c.cautions))}.</span>' if c.cautions else "")
        + "</p>"
        for c in changes
    )
    name = escape(scorer_label(rows[0]))
    pictures = _figure(charts.score_forest(rows, "Test score", "lines: 95 % intervals over examples"), figures)
    if changes:
        title = f"Difference to {base.label}"
        lines_ = [by_label.get(g.label, g) for g in ready]
        pictures += _figure(charts.difference_forest(lines_, title, "paired by example; 95 % intervals"), figures)
    return f"<h2>Score: {name}</h2>{_table(head, lines, right=range(1, 7))}{pictures}{words}"


def _score_line(row: dict[str, Any], change: Contrast | None) -> list[str]:
    line = [row["label"], score_text(row), "" if row["seeds"] is None else str(row["seeds"])]
    if change is None or change.result is None:
        return [*line, "", "", "", ""]
    value = points_text(change.result.difference, row["unit"])
    interval = comparison.interval_text(change.result.low, change.result.high, row["unit"])
    return [*line, value, interval, p_text(change.result.p_value), p_text(change.p_adjusted)]


def _curves(arms: Sequence[Arm], figures: list[str]) -> str:
    import pandas

    curves = [
        charts.RunCurve(g.label, g.method, g.variant, seed, pandas.DataFrame(run.metrics()))
        for g in arms
        for seed, run in zip(g.seeds, g.runs, strict=True)
    ]
    curves = [curve for curve in curves if "step" in curve.table]
    if not curves:
        return ""
    pictures = [
        _figure(charts.overlaid(curves, column, title, f"{len(curves)} runs"), figures)
        for column, title in (("loss", "Training loss on answers"), ("validation_loss", "Validation loss on answers"))
        if any(column in curve.table for curve in curves)
    ]
    return f"<h2>Curves</h2>{''.join(pictures)}"


def _settings(arms: Sequence[Arm]) -> str:
    lines = [[key, *map(_value, values)] for key, values in comparison.settings_that_differ(arms)]
    head = ["setting", *(g.label for g in arms)]
    differing = _table(head, lines) if lines else "<p>All arms have the same settings, seeds apart.</p>"
    full = "".join(
        f"<details><summary>{escape(g.label)}: the whole spec</summary><pre>{escape(g.spec.to_yaml())}</pre></details>"
        for g in arms
    )
    return f"<h2>Settings that differ</h2>{differing}{full}"


def _origin(arms: Sequence[Arm]) -> str:
    """Say which versions and which content made the numbers; runs that share them share a line."""
    made: dict[tuple[str, str], list[str]] = {}
    for g in arms:
        for seed, run in zip(g.seeds, g.runs, strict=True):
            result = run.result() or {}
            versions = ", ".join(f"{name} {number}" for name, number in (result.get("versions") or {}).items())
            prints = (result.get("fingerprints") or {}).items()
            of = ", ".join(f"{name} {str(value)[:12]}" for name, value in prints)
            made.setdefault((versions or NOT_MEASURED, of or NOT_MEASURED), []).append(
                f"{g.label}, seed {seed}: {run.id}"
            )
    lines = [["; ".join(runs), *both] for both, runs in made.items()]
    head = ("runs", "versions", "fingerprints (sha256, first 12 digits)")
    return f"<h2>Versions and fingerprints</h2>{_table(head, lines)}"


def _again(arms: Sequence[Arm]) -> str:
    seeds = sorted({seed for g in arms for seed in g.seeds})
    return (
        "<h2>How to reproduce</h2><p>Save each arm's spec above as a file and run it once for each seed "
        f"({', '.join(map(str, seeds))}, the key <code>seed</code>):</p>"
        "<pre>python -m paraknow_core run spec.yaml</pre>"
        "<p>The same versions, data and weights (fingerprints above) give the same numbers on the same machine.</p>"
    )


def _figure(figure: Any, figures: list[str]) -> str:
    """Keep a figure's script, and return the place where it will be drawn."""
    number = len(figures)
    figure.update_layout(autosize=True)
    # `<` as an escape: a name in a figure can never end the script.
    data = figure.to_json().replace("<", "\\u003c")
    figures.append(
        f"{{const f={data};Plotly.newPlot('figure-{number}',f.data,f.layout,{{displaylogo:false,responsive:true}});}}\n"
    )
    return f'<div id="figure-{number}" style="height:{figure.layout.height}px"></div>'


def _library() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs().replace("</script", "<\\/script")


def _table(head: Sequence[str], lines: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    def cell(tag: str, text: str, place: int) -> str:
        return f"<{tag}{' class=n' if place in right else ''}>{escape(str(text))}</{tag}>"

    rows = "".join(f"<tr>{''.join(cell('td', text, i) for i, text in enumerate(line))}</tr>" for line in lines)
    return f"<table><tr>{''.join(cell('th', text, i) for i, text in enumerate(head))}</tr>{rows}</table>"


def _value(value: Any) -> str:
    if value is comparison.NO_EFFECT:
        return "no effect"
    if isinstance(value, list | tuple):
        return ", ".join("–" if each is None else str(each) for each in value) or NOT_MEASURED
    return source_label(value, 60) if isinstance(value, str) else NOT_MEASURED if value is None else str(value)
