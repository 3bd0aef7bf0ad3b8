"""Figures hold the numbers they were given, at the places and in the colours that the rules say."""

import math

import numpy
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from paraknow_core.display import GROUP_COLOURS
from paraknow_core.figures import maps as figures
from paraknow_core.figures.style import MAX_BINS, MAX_POINTS, binned, log_scale, thin


@pytest.fixture
def modules() -> pandas.DataFrame:
    rows = [
        {
            "module": f"layers.{layer}.{role}",
            "role": role,
            "group": "attention",
            "layer": layer,
            "rows": 4,
            "cols": 3,
            "sum": 10.0 ** (layer - 1),
            "mean": 10.0 ** (layer - 1) / 12,
            "share": 0.1 * (layer + 1),
        }
        for layer in range(3)
        for role in ("down", "q")
    ]
    rows.append({**rows[0], "module": "embed", "role": "embed", "layer": None, "sum": 1e9})
    return pandas.DataFrame(rows)


def test_heatmap_has_layers_upwards_roles_in_order_and_log_colour(modules):
    figure = figures.sensitivity_heatmap(modules, "sum", "T", "for n = 3")
    heat, labels, targets = figure.data
    assert heat.colorscale == figures.go.Heatmap(colorscale="Cividis").colorscale
    assert list(heat.y) == [0, 1, 2]
    assert list(figure.layout.xaxis.ticktext) == ["q", "down"]
    assert tuple(figure.layout.yaxis.range) == (-0.5, 2.5)
    numpy.testing.assert_allclose(numpy.array(heat.z), [[-1, -1], [0, 0], [1, 1]])
    assert (figure.layout.title.text, figure.layout.title.subtitle.text) == ("T", "for n = 3")
    places = {data[0]: (x, y) for data, x, y in zip(targets.customdata, targets.x, targets.y, strict=True)}
    assert places["layers.2.down"] == (1, 2)
    assert places["layers.0.q"] == (0, 0)
    assert "embed" not in places
    assert len(labels.text) == 6


def test_heatmap_frames_the_chosen_cell_only_if_it_is_there(modules):
    [frame] = figures.sensitivity_heatmap(modules, chosen="layers.1.q").layout.shapes
    assert (frame.x0, frame.x1, frame.y0, frame.y1) == (-0.5, 0.5, 0.5, 1.5)
    assert not figures.sensitivity_heatmap(modules, chosen="embed").layout.shapes


def test_heatmap_of_nothing_and_of_zeros_is_still_a_figure(modules):
    assert figures.sensitivity_heatmap(modules[modules["layer"].isna()]).data
    assert figures.sensitivity_heatmap(modules.assign(sum=0.0)).data


def test_layer_ranking_numbers_and_kept_layers():
    [bars] = figures.layer_ranking([1.0, 5.0, 3.0], kept=[1]).data
    assert list(bars.text) == ["3.", "1.", "2."]
    assert [row[2] for row in bars.customdata] == ["left out", "kept", "left out"]
    assert list(bars.marker.pattern.shape) == ["/", "", "/"]


def test_group_shares_are_percent_of_the_total_in_the_groups_colours():
    [bars] = figures.group_shares({"attention": 1.0, "ffn": 3.0}).data
    assert list(bars.x) == [75.0, 25.0]
    assert list(bars.marker.color) == [GROUP_COLOURS["ffn"], GROUP_COLOURS["attention"]]
    assert list(bars.text) == ["75.0 %", "25.0 %"]


def test_matrix_map_spans_the_whole_matrix_and_frames_the_window():
    blocks = numpy.arange(1.0, 13.0).reshape(3, 4)
    figure = figures.matrix_map(blocks, numpy.ones(6), numpy.ones(8), window=(2, 3, 4, 5))
    heat = figure.data[0]
    # Blocks are 2 x 2: the first one covers rows 0 and 1, so its middle lies at 0.5.
    assert (heat.x0, heat.dx, heat.y0, heat.dy) == (0.5, 2.0, 0.5, 2.0)
    assert tuple(figure.layout.yaxis.range) == (5.5, -0.5)
    [frame] = figure.layout.shapes
    assert (frame.x0, frame.x1, frame.y0, frame.y1) == (2.5, 7.5, 1.5, 5.5)
    numpy.testing.assert_allclose(heat.customdata, blocks)


def test_score_bars_show_interval_number_and_pattern():
    table = pandas.DataFrame(
        [
            {"arm": "seeking", "label": "a<b>", "value": 0.4, "low": 0.3, "high": 0.6, "n": 30, "unit": "share"},
            {"arm": "pissa", "label": "b", "value": 0.5, "low": None, "high": None, "n": 30, "unit": "share"},
        ]
    )
    bars, text = figures.score_bars(table).data
    assert list(bars.x) == [40.0, 50.0]
    numpy.testing.assert_allclose(bars.error_x.array, [20.0, 0.0])
    numpy.testing.assert_allclose(bars.error_x.arrayminus, [10.0, 0.0])
    assert [t.strip() for t in text.text] == ["40.0 ± 15.0 % (n = 30)", "50.0 % (n = 30)"]
    assert list(bars.marker.pattern.shape) == ["", "/"]
    assert figures.score_bars(table).layout.yaxis.ticktext[0] == "a&lt;b&gt;"


@pytest.mark.parametrize("dark", [False, True])
def test_both_themes_have_ink_that_can_be_read(dark):
    table = pandas.DataFrame(
        [{"arm": "olora", "label": "x", "value": 1.0, "low": 0.5, "high": 2.0, "n": 3, "unit": "ppl"}]
    )
    figure = figures.score_bars(table, dark=dark)
    assert figure.layout.font.color == ("#E6E9E8" if dark else "#1F2427")
    assert figure.data[0].marker.color[0] == ("#F0E442" if dark else "#B8A200")
    assert figure.layout.paper_bgcolor == "rgba(0,0,0,0)"


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6000), st.integers(4, 600))
def test_thin_keeps_ends_extremes_order_and_the_limit(values, limit):
    x, y = numpy.arange(len(values)), numpy.array(values)
    kept_x, kept_y = thin(x, y, limit)
    assert len(kept_x) <= max(limit, 2)
    assert kept_x[0] == 0
    assert kept_x[-1] == len(values) - 1
    assert (numpy.diff(kept_x) > 0).all()
    numpy.testing.assert_array_equal(y[kept_x], kept_y)


def test_thin_shows_a_single_spike_among_a_million():
    y = numpy.zeros(1_000_000)
    y[123_456] = 7
    x, kept = thin(numpy.arange(len(y)), y)
    assert len(x) <= MAX_POINTS
    assert kept.max() == 7


@given(arrays(numpy.float64, st.integers(1, 2000), elements=st.floats(0, 1e6)))
def test_binned_profile_agrees_with_the_plain_loop(profile):
    positions, means = binned(profile)
    edges = sorted({int(e) for e in numpy.linspace(0, len(profile), min(len(profile), MAX_BINS) + 1)})
    slow = [math.fsum(profile[a:b]) / (b - a) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    numpy.testing.assert_allclose(means, slow, rtol=1e-9, atol=1e-9)
    assert len(positions) <= MAX_BINS
    assert 0 <= positions[0] <= positions[-1] <= len(profile) - 1


def test_log_scale_draws_zeros_like_the_smallest_and_names_true_values():
    logs, ticks = log_scale(numpy.array([[0.0, 0.01], [1.0, 100.0]]))
    numpy.testing.assert_allclose(logs, [[-2, -2], [0, 2]])
    assert ticks == {"tickvals": [-2, -1, 0, 1, 2], "ticktext": ["0.01", "0.1", "1", "10", "100"]}
    assert log_scale(numpy.array([[1e-6, 1e-9]]))[1]["ticktext"] == ["10⁻⁹", "10⁻⁸", "10⁻⁷", "10⁻⁶"]
    floored, _ = log_scale(numpy.array([1e-9, 1.0]), floor=0.1)
    numpy.testing.assert_allclose(floored, [-1, 0])
