"""Pictures of studies: arms by factor, curves of learning rates, verdicts, where a gain comes from, progress.

Each takes an outcome of `studies.outcome`, finished or not, and has in `layout.meta["alt"]` what there is to see, for
those who cannot. Shares are drawn in percent, their differences in points.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy
import plotly.graph_objects as go

from paraknow_core.display import LOWER_IS_BETTER, SHARE, arm_of, counted, shorten, significant, source_label
from paraknow_core.figures import draw
from paraknow_core.figures.compare import Look, look_of, score_forest
from paraknow_core.figures.style import BLUE, HIGHLIGHT, blank, ink, legend_below, neutral, paper, text_on, wrapped
from paraknow_core.studies.presets import AVERAGE
from paraknow_core.studies.study import RATE
from paraknow_core.studies.words import (
    factor_text,
    interval_text,
    points_text,
    setting_text,
    unit_text,
    value_text,
    verdict_line,
)

if TYPE_CHECKING:
    from paraknow_core.studies.attribution import Attribution
    from paraknow_core.studies.outcome import GroupOutcome, StudyOutcome
    from paraknow_core.studies.presets import Mark

_STATE_COLOURS = {  # light, dark; a word says it too
    "waiting": ("#ECEEEC", "#23292D"),
    "queued": ("#D9DCD8", "#343C41"),
    "running": ("#56B4E9", "#0072B2"),
    "stopping": ("#A7AEB1", "#5A6266"),
    "stopped": ("#A7AEB1", "#5A6266"),
    "done": ("#C7D0CC", "#4A5550"),
    "failed": ("#E69F00", "#D55E00"),
    "lost": ("#F0C36D", "#A86400"),
}
_ROW, _CELL = 46, 26  # pixels of a row of words, of a row of cells
_LABEL, _WIDTH = 44, 36  # letters of a name in a legend, and of a line beside an axis
_MOST_LINES = 12  # of an alternative text


def by_factor(outcome: "StudyOutcome", factor: str, dark: bool = False) -> go.Figure:
    """Draw the scores of all arms along one factor: means with their intervals, single seeds, the paper's values.

    Args:
        outcome: of the study.
        factor: dotted key; numbers lie on a logarithmic axis, names beside each other.
        dark: theme.
    """
    word = factor_text(factor)
    title = f"Score by {word}"
    groups = [group for group in outcome.groups if factor in group.point and group.value is not None]
    if not groups:
        return _empty(title, outcome, dark, "Scores appear here as soon as the first runs are done.")
    axis = _Axis.of(list(dict.fromkeys(_plain(g.point[factor]) for g in outcome.groups if factor in g.point)), factor)
    figure = blank(title, f"{_about(outcome)}; lines: 95 % intervals, small points: single seeds", dark, height=400)
    lines = _lines(groups, factor)
    places: dict[str, float] = {}
    for number, (name, members) in enumerate(lines.items()):
        look = _look(members[0], lines, name, dark)
        shift = axis.shift(number, len(lines))
        members = sorted(members, key=lambda group: axis.place(group.point[factor]))
        x = [axis.place(group.point[factor], shift) for group in members]
        places |= {group.key: at for group, at in zip(members, x, strict=True)}
        seeds = [(at, score) for at, group in zip(x, members, strict=True) for score in _by_seed(group)]
        if len(seeds) > len(members):
            small = {"marker": {"color": look.colour, "size": 4.5, "symbol": look.symbol}, "opacity": 0.55}
            shown = {"legendgroup": name, "showlegend": False}
            draw.scatter(figure, *zip(*seeds, strict=True), "markers", "one seed: %{y:.3~g}", **small, **shown)
        values, lows, highs = zip(*map(_scaled, members), strict=True)
        draw.scatter(
            figure,
            x,
            values,
            "lines+markers" if axis.ordered else "markers",
            "%{customdata}",
            customdata=[_hover(group) for group in members],
            error_y=draw.error_bars(values, lows, highs, dark),
            marker={"color": look.colour, "size": 9, "symbol": look.symbol, "line": {"color": ink(dark), "width": 0.8}},
            line={"color": look.colour, "width": 1.6, "dash": look.dash},
            name=escape(shorten(name, _LABEL)),
            legendgroup=name,
        )
    names = [*lines, *_published(figure, outcome, places, dark)]
    figure.update_yaxes(title_text=_score_title(outcome))
    figure.update_xaxes(title_text=word, **axis.layout())
    legend_below(figure, [shorten(name, _LABEL) for name in names])
    return _described(figure, title, [f"{group.label} {_number(group)}" for group in groups])


def by_arm(outcome: "StudyOutcome", dark: bool = False) -> go.Figure:
    """Draw the score of every group, one below the other, the untrained models as lines, and the paper's values."""
    title = "Score by arm"
    groups = [group for group in outcome.groups if group.value is not None]
    if not groups:
        return _empty(title, outcome, dark, "Scores appear here as soon as the first runs are done.")
    rows = [
        {
            "label": group.label,
            "method": group.arm,
            "value": group.value,
            "low": group.low,
            "high": group.high,
            "unit": group.unit,
            "n": group.n,
            "seeds": len(group.seeds),
            "points": group.scores_by_seed,
        }
        for group in groups
    ]
    rows += [{**score, "label": arm_of(name).label, "method": name} for name, score in outcome.references.items()]
    figure = score_forest(
        rows, title, f"{_about(outcome)}; lines: 95 % intervals, small points: single seeds", dark=dark
    )
    places = {group.key: float(place) for place, group in enumerate(groups)}
    names = _published(figure, outcome, places, dark, upright=False)
    if names:
        drawn = [trace.x[0] for trace in figure.data if str(trace.marker.symbol).startswith("diamond-")]
        low, high = figure.layout.xaxis.range
        figure.update_xaxes(range=[min(low, *(x - 1 for x in drawn)), max(high, *(x + 1 for x in drawn))])
        legend_below(figure, names)
        figure.for_each_trace(lambda trace: trace.update(showlegend=bool(trace.name and trace.showlegend)))
    return _described(figure, title, [f"{group.label} {_number(group)}" for group in groups])


def rate_curves(outcome: "StudyOutcome", dark: bool = False) -> go.Figure:
    """Draw validation loss against learning rate for every tuned group; the chosen rates are ringed.

    A study whose factor is the learning rate is drawn by its scores instead: it tunes nothing.
    """
    if not outcome.curves and RATE in outcome.study.factors:
        return by_factor(outcome, RATE, dark)
    title = "Validation loss by learning rate"
    labels = {group.key: group for group in outcome.groups}
    curves = _different({key: curve for key, curve in outcome.curves.items() if any(p.loss is not None for p in curve)})
    if not curves:
        tuned = outcome.study.tuning is not None
        words = "Curves appear here as soon as the first rates are tried." if tuned else "This study tunes no rates."
        return _empty(title, outcome, dark, words)
    figure = blank(title, "chosen on the validation split alone; rings: chosen, crosses: diverged", dark, height=420)
    names: list[str] = []
    variants: dict[str, int] = {}
    worst = max(point.loss for curve in curves.values() for point in curve if point.loss is not None)
    for key, curve in curves.items():
        group = labels.get(key)
        label, method = (group.label, group.arm) if group else (key, key.split(" ")[0])
        variants[method] = variants.get(method, -1) + 1
        look = look_of(method, variants[method], dark)
        known = [point for point in curve if point.loss is not None]
        lost = [point.rate for point in curve if point.diverged]
        names.append(shorten(label, _LABEL))
        edge = f"; the best lies at the {curve.edge} end of the grid" if curve.edge else ""
        sizes = [13 if _same(point.rate, curve.chosen) else 6 for point in known]
        ring = {"color": ink(dark), "width": [2.4 if _same(point.rate, curve.chosen) else 0 for point in known]}
        draw.scatter(
            figure,
            [point.rate for point in known],
            [point.loss for point in known],
            "lines+markers",
            "rate %{x:.3~g}: %{y:.4f} nats per token",
            extra=escape(label + edge),
            name=escape(names[-1]),
            legendgroup=key,
            line={"color": look.colour, "width": 1.6, "dash": look.dash},
            marker={"color": look.colour, "symbol": look.symbol, "size": sizes, "line": ring},
        )
        if lost:
            cross = {"marker": {"color": look.colour, "symbol": "x-thin-open", "size": 9, "line": {"width": 2}}}
            hover, shown = "rate %{x:.3~g}: diverged", {"legendgroup": key, "showlegend": False}
            draw.scatter(figure, lost, [worst] * len(lost), "markers", hover, extra=escape(label), **cross, **shown)
    figure.update_xaxes(title_text="learning rate", type="log", **_rate_ticks(curves))
    figure.update_yaxes(title_text="validation loss [nats per token]")
    legend_below(figure, names)
    chosen = [f"{name} {significant(curve.chosen)}" for name, curve in zip(names, curves.values(), strict=True)]
    return _described(figure, f"{title}, chosen rates", chosen)


def forest(outcome: "StudyOutcome", dark: bool = False) -> go.Figure:
    """Draw every arm's difference to the arm it is judged against, with its interval, its word, and the margin."""
    judged = [group for group in outcome.groups if group.arm != outcome.study.against]
    rows = [_Judged(g.label, g.arm, g.verdict, g.verdict_unit or g.unit, g.key, g.vacuous) for g in judged]
    missing = "Differences appear here as soon as an arm and the arm it is judged against share a seed."
    return _forest(outcome, f"Difference to {_against(outcome)}", rows, missing, dark)


def levels(outcome: "StudyOutcome", factor: str, dark: bool = False) -> go.Figure:
    """Draw how each value of a factor differs from the base run's, within one arm: submatrix or scattered?"""
    judged = [contrast for contrast in outcome.contrasts if contrast.factor == factor]
    than = judged[0].against_label if judged else "the base run's"
    rows = [_Judged(c.label, c.arm, c.verdict, c.unit) for c in judged]
    missing = "Differences appear here as soon as two values share a seed."
    return _forest(outcome, f"By {factor_text(factor)}: difference to {than}, within each arm", rows, missing, dark)


@dataclass(frozen=True)
class _Judged:
    """A line of a forest: `key` names the group that a value of the paper belongs to, `why` why it is not judged."""

    label: str
    arm: str
    verdict: Any
    unit: str | None
    key: str = ""
    why: str = ""


def _forest(outcome: "StudyOutcome", title: str, judged: Sequence[_Judged], missing: str, dark: bool) -> go.Figure:
    if not any(row.verdict for row in judged):
        return _empty(title, outcome, dark, missing)
    unit = next(row.unit for row in judged if row.verdict)
    factor = 100.0 if unit == SHARE else 1.0
    margin = factor * outcome.study.margin
    room = 130 + _ROW * len(judged)
    band = f"band: differences below {significant(margin)} {unit_text(unit)} do not matter"
    figure = blank(title, f"{_about(outcome)}; lines: 95 % intervals; {band}", dark, height=room)
    figure.add_vrect(x0=-margin, x1=margin, fillcolor=neutral(dark), opacity=0.18, line_width=0, layer="below")
    figure.add_vline(x=0, line={"color": ink(dark), "width": 1.2})
    edges = [-margin, margin]
    words: list[tuple[float, int, str]] = []
    for place, group in enumerate(judged):
        verdict = group.verdict
        if verdict is None:
            words.append((0.0, place, group.why or "no shared seeds yet"))
            continue
        value, low, high = (None if v is None else factor * v for v in (verdict.difference, verdict.low, verdict.high))
        look = look_of(group.arm, 0, dark)
        edges += [number for number in (value, low, high) if number is not None]
        line = verdict_words(verdict, unit)
        marker = {"color": look.colour, "size": 11, "symbol": look.symbol, "line": {"color": ink(dark), "width": 0.8}}
        bar = draw.error_bars([value], [low], [high], dark)
        hover = f"{escape(group.label)}<br>{escape(verdict_line(verdict, unit))}"
        draw.scatter(figure, [value], [place], "markers", hover, marker=marker, error_x=bar, showlegend=False)
        words.append((value, place, line))
    seen: list[str] = []
    for mark, key in outcome.marks:
        place = next((number for number, group in enumerate(judged) if group.key == key), None)
        if place is None or mark.against is None or unit != SHARE:
            continue
        gain = mark.value - mark.against
        edges.append(gain)
        name, hover = (
            f"{mark.label}: gain over its own default LoRA",
            f"{gain:+.2f} points<br>{mark.words}<br>{mark.model}",
        )
        _diamond(figure, gain, place + 0.22, hover, dark, mark, name=name, showlegend=name not in seen)
        seen.append(name)
    ends = _room(edges)
    for x, place, text in words:
        look = {"bgcolor": paper(dark), "font": {"size": 12.5}, "yshift": 15, "xanchor": _anchor(x, ends)}
        draw.write(figure, x, place, escape(text), **look)
    figure.update_xaxes(title_text=f"difference [{unit_text(unit)}]", range=ends)
    draw.named_rows(figure, [_short(group.label) for group in judged], 0.7, 0.6)
    if seen:
        legend_below(figure, list(dict.fromkeys(seen)))
    return _described(figure, title, [f"{g.label} {verdict_words(g.verdict, unit)}" for g in judged if g.verdict])


def waterfall(attribution: "Attribution", dark: bool = False, unit: str | None = SHARE) -> go.Figure:
    """Draw where a gain comes from: steps that add up to it, one below the other, and the checks beside them.

    Bars begin where the one above ends; the whole gain and the checks begin at zero. An interval is that of its own
    bar. Blue adds, orange costs, grey is not told from nothing; a word says it too.

    Args:
        attribution: of a study at one point of its factors.
        dark: theme.
        unit: of its numbers.
    """
    scale = 100.0 if unit == SHARE else 1.0
    parts = [*attribution.steps, attribution.gain, *attribution.checks]
    figure = blank(
        f"From {_arm_words(attribution.gain.against)} to {_arm_words(attribution.gain.arm)}, step by step",
        "bars of the steps add up to the gain; lines: 95 % intervals",
        dark,
        height=120 + (_ROW + 8) * len(parts),
    )
    figure.add_vline(x=0, line={"color": ink(dark), "width": 1.2})
    ends, edges, words = 0.0, [0.0], []
    for place, part in enumerate(parts):
        result = part.result
        start = ends if place < len(attribution.steps) else 0.0
        end = start + scale * result.difference
        if place < len(attribution.steps):
            ends = end
            figure.add_shape(
                type="line",
                x0=end,
                x1=end,
                y0=place,
                y1=place + 1,
                line={"color": neutral(dark), "width": 1, "dash": "dot"},
            )
        low, high = (None if bound is None else start + scale * bound for bound in (result.low, result.high))
        edges += [edge for edge in (start, end, low, high) if edge is not None]
        line = verdict_words(result, unit)
        colour = {"better": BLUE, "worse": HIGHLIGHT}.get(result.verdict, neutral(dark))
        draw.bars(
            figure,
            [end - start],
            [place],
            f"{escape(_step_words(part))}<br>{escape(line)}",
            base=[start],
            orientation="h",
            width=0.34,
            marker={"color": colour, "pattern": {"shape": {"worse": "/"}.get(result.verdict, "")}},
            error_x=draw.error_bars([end], [low], [high], dark),
        )
        words.append((end, place, line))
    room = _room(edges)
    for x, place, text in words:
        look = {"bgcolor": paper(dark), "font": {"size": 12.5}, "yshift": 17, "xanchor": _anchor(x, room)}
        draw.write(figure, x, place, escape(text), **look)
    if attribution.checks:
        line = {"color": neutral(dark), "width": 1}
        figure.add_hline(y=len(attribution.steps) + 0.5, line=line)
    figure.update_xaxes(title_text=f"difference [{unit_text(unit)}]", range=room)
    draw.named_rows(figure, [_short(_step_words(part)) for part in parts], 0.8, 0.6)
    return _described(figure, "Where the gain comes from", [f"{p.name} {verdict_words(p.result, unit)}" for p in parts])


def _step_words(step: Any) -> str:
    return f"{step.name}: {_arm_words(step.arm)} against {_arm_words(step.against)}"


def _arm_words(name: str) -> str:
    return arm_of(name).label.removesuffix(" (the method)")


def progress_grid(outcome: "StudyOutcome", dark: bool = False) -> go.Figure:
    """Draw the state of every run: a row a group, a column a seed; clicking one gives the group's key, seed and run."""
    title, study = "Progress", outcome.study
    groups, seeds = outcome.groups, list(study.seeds)
    height = 96 + _CELL * len(groups)
    done = sum(state == "done" for group in groups for state in group.states.values())
    figure = blank(title, f"{done} of {counted(len(groups) * len(seeds), 'scored run')} done", dark, height)
    states = list(_STATE_COLOURS)
    cells = [[_state(group, seed) for seed in seeds] for group in groups]
    z = numpy.array([[states.index(state) for state in row] for row in cells], dtype=float).reshape(len(groups), -1)
    last = len(states) - 1
    colours = [_STATE_COLOURS[state][dark] for state in states]
    scale = [[edge, colour] for n, colour in enumerate(colours) for edge in (n / len(states), (n + 1) / len(states))]
    shown = {"colorscale": scale, "zmin": -0.5, "zmax": last + 0.5, "showscale": False, "xgap": 2, "ygap": 2}
    draw.heatmap(figure, z, None, **shown)
    places = [(column, row) for row in range(len(groups)) for column in range(len(seeds))]
    texts = [cells[row][column] for column, row in places]
    on = [text_on(_STATE_COLOURS[text][dark]) for text in texts]
    x, y = [column for column, _ in places], [row for _, row in places]
    draw.cell_texts(figure, x, y, texts, on)
    data = [[groups[row].key, seeds[column], groups[row].runs.get(seeds[column], "")] for column, row in places]
    draw.click_targets(figure, x, y, data, _CELL, "%{customdata[0]}<br>seed %{customdata[1]}<br>%{customdata[2]}")
    figure.update_xaxes(title_text="seed", tickvals=list(range(len(seeds))), ticktext=list(map(str, seeds)), side="top")
    figure.update_xaxes(showgrid=False)
    draw.named_rows(figure, [_short(group.label) for group in groups], 0.5, 0.5)
    figure.update_layout(margin={"t": figure.layout.margin.t + 26})
    counts = {state: texts.count(state) for state in states if state in texts}
    return _described(figure, title, [f"{number} {state}" for state, number in counts.items()])


@dataclass(frozen=True)
class _Axis:
    """The places of a factor's values.

    Attributes:
        values: in the study's order.
        factor: whose they are.
        ordered: they are positive numbers, on a logarithmic axis.
    """

    values: list[Any]
    factor: str
    ordered: bool

    @classmethod
    def of(cls, values: list[Any], factor: str) -> "_Axis":
        numbers = all(isinstance(value, int | float) and value > 0 for value in values)
        return cls(sorted(values) if numbers else values, factor, numbers and len(values) > 1)

    def place(self, value: Any, shift: float = 0.0) -> float:
        """Return where a value lies; `shift` parts arms: places on an axis of names, a factor on one of numbers."""
        if not self.ordered:
            return self.values.index(_plain(value)) + shift
        return float(value) * 10**shift

    def shift(self, number: int, lines: int) -> float:
        step = 0.6 / lines if not self.ordered else 0.06 * self._step() / lines
        return (number - (lines - 1) / 2) * min(step, 0.14)

    def _step(self) -> float:
        """Return how far two values lie apart at least, in decades."""
        return float(numpy.diff(numpy.log10(self.values)).min())

    def layout(self) -> Mapping[str, Any]:
        if self.ordered:
            texts = [f"{value:.2g}" if value < 1 else f"{value:g}" for value in self.values]
            return {"type": "log", "tickvals": self.values, "ticktext": texts}
        texts = [escape(value_text(self.factor, value)) for value in self.values]
        places = list(range(len(texts)))
        return {"tickvals": places, "ticktext": texts, "range": [-0.5, len(texts) - 0.5], "showgrid": False}


def verdict_words(verdict: Any, unit: str | None) -> str:
    """Return a verdict in a chart: `+1.4 (-0.3 to +3.1): undecided`."""
    interval = interval_text(verdict.low, verdict.high, unit)
    return f"{points_text(verdict.difference, unit)} ({interval}): {verdict.verdict}"


def _lines(groups: Sequence["GroupOutcome"], factor: str) -> dict[str, list["GroupOutcome"]]:
    """Return the lines of a chart by their names: one an arm, at each point of the other factors."""
    lines: dict[str, list[GroupOutcome]] = {}
    for group in groups:
        others = [setting_text(key, value) for key, value in group.point.items() if key != factor]
        lines.setdefault(", ".join([arm_label(group), *others]), []).append(group)
    return lines


def arm_label(group: "GroupOutcome") -> str:
    """Return an arm's own label, without the point that a group's label has as well."""
    tail = "".join(f", {setting_text(key, value)}" for key, value in group.point.items())
    return group.label.removesuffix(tail)


def _look(group: "GroupOutcome", lines: Mapping[str, Sequence["GroupOutcome"]], name: str, dark: bool) -> Look:
    """Return the look of a line: its arm's colour, and another marker and dash for each further line of the arm."""
    same = [other for other, members in lines.items() if members[0].arm == group.arm]
    return look_of(group.arm, same.index(name), dark)


def _published(
    figure: go.Figure, outcome: "StudyOutcome", places: Mapping[str, float], dark: bool, upright: bool = True
) -> list[str]:
    """Draw the paper's values as hollow diamonds beside their groups; return what the legend names.

    Args:
        places: of groups by their keys, on the horizontal axis, or on the other one.
        upright: whether scores lie on the vertical axis.
    """
    seen: list[str] = []
    for mark, key in outcome.marks:
        if key not in places or _unit(outcome) != SHARE:
            continue
        name = f"{mark.label}, {mark.benchmark or AVERAGE}"
        hover = f"{mark.label}: {mark.value:.2f} %<br>{mark.words}<br>{mark.model}"
        at = (places[key], mark.value) if upright else (mark.value, places[key] + 0.3)
        _diamond(figure, *at, hover, dark, mark, name=name, showlegend=name not in seen)
        seen.append(name)
    return list(dict.fromkeys(seen))


def _diamond(figure: go.Figure, x: float, y: float, hover: str, dark: bool, mark: "Mark", **more: Any) -> None:
    """Draw a value of the paper: hollow, and of another form for each of its two generations of models."""
    symbol = "diamond-open" if mark.model.startswith("LLaMA-1") else "diamond-tall-open"
    marker = {"symbol": symbol, "size": 10, "color": ink(dark), "line": {"width": 1.6}}
    shown = {"showlegend": False, **more}
    draw.scatter(figure, [x], [y], "markers", hover, marker=marker, **shown)


def _empty(title: str, outcome: "StudyOutcome", dark: bool, words: str) -> go.Figure:
    figure = blank(title, _about(outcome), dark, height=200)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    draw.write(figure, 0.5, 0.5, words, xref="paper", yref="paper")
    return _described(figure, title, [words])


def _described(figure: go.Figure, title: str, parts: Sequence[str]) -> go.Figure:
    more = f"; and {len(parts) - _MOST_LINES} more" if len(parts) > _MOST_LINES else ""
    figure.layout.meta = {"alt": f"{title}: {'; '.join(parts[:_MOST_LINES])}{more}."}
    return figure


def _about(outcome: "StudyOutcome") -> str:
    """Say for what a chart holds: pair, task, examples, seeds."""
    base, factors = outcome.study.base, outcome.study.factors
    pair = [source_label(part.source, 16) for part in (base.teacher, base.student)]
    task = [] if "task.source" in factors else [source_label(base.task.source, 20)]
    n = max((group.n or 0 for group in outcome.groups), default=0)
    many = [f"n = {n:,}"] if n else []
    done, wanted = max((len(group.seeds) for group in outcome.groups), default=0), len(outcome.study.seeds)
    seeds = f"{done} of {counted(wanted, 'seed')}" if done < wanted else counted(wanted, "seed")
    return ", ".join([" → ".join(pair), *task, *many, seeds])


def _against(outcome: "StudyOutcome") -> str:
    return next((arm_label(g) for g in outcome.groups if g.arm == outcome.study.against), outcome.study.against)


def _unit(outcome: "StudyOutcome") -> str:
    return next((group.unit for group in outcome.groups if group.unit), SHARE)


def _score_title(outcome: "StudyOutcome") -> str:
    unit = _unit(outcome)
    return f"score [{'%' if unit == SHARE else unit}{', lower is better' if unit in LOWER_IS_BETTER else ''}]"


def _scaled(group: "GroupOutcome") -> tuple[float, float | None, float | None]:
    factor = 100.0 if group.unit == SHARE else 1.0
    value, low, high = (None if v is None else factor * v for v in (group.value, group.low, group.high))
    return value, low, high


def _by_seed(group: "GroupOutcome") -> list[float]:
    factor = 100.0 if group.unit == SHARE else 1.0
    return [factor * score for score in group.scores_by_seed if score is not None]


def _number(group: "GroupOutcome") -> str:
    value, low, high = _scaled(group)
    spread = "" if low is None or high is None else f" ({low:.1f} to {high:.1f})"
    return f"{value:.1f}{spread}{' %' if group.unit == SHARE else ''}"


def _hover(group: "GroupOutcome") -> str:
    rate = f"<br>learning rate {significant(group.rate)}" if group.rate else ""
    return f"{escape(group.label)}<br>{_number(group)}, {counted(len(group.seeds), 'seed')}{rate}"


def _state(group: "GroupOutcome", seed: int) -> str:
    state = group.states.get(seed, "waiting")
    return state if state in _STATE_COLOURS else "waiting"


def _short(label: str) -> str:
    return "<br>".join(map(escape, wrapped(shorten(label, 2 * _WIDTH), _WIDTH)))


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _same(rate: float, chosen: float | None) -> bool:
    return chosen is not None and abs(rate - chosen) <= 1e-6 * chosen


def _different(curves: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out a curve that an arm has already: a factor that the arm does not read changes nothing."""
    seen: dict[Any, str] = {}
    for key, curve in curves.items():
        seen.setdefault((key.partition(" ")[0], tuple((point.rate, point.loss) for point in curve)), key)
    return {key: curves[key] for key in seen.values()}


def _rate_ticks(curves: Mapping[str, Any]) -> dict[str, Any]:
    """Return ticks at every second rate of all grids together, at most ten."""
    rates = sorted({point.rate for curve in curves.values() for point in curve})
    rates = rates[:: max(1, -(-len(rates) // 8))]
    return {"tickvals": rates, "ticktext": [f"{rate:.2g}" for rate in rates]}


def _room(edges: Sequence[float]) -> list[float]:
    low, high = min(edges), max(edges)
    width = (high - low) or 1.0
    return [low - 0.2 * width, high + 0.2 * width]


def _anchor(x: float, ends: Sequence[float]) -> str:
    share = (x - ends[0]) / ((ends[1] - ends[0]) or 1.0)
    return "left" if share < 0.35 else "right" if share > 0.65 else "center"
