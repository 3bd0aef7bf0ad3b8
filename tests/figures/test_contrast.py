"""Every pair of text and ground has a contrast of 4.5 at least (WCAG 2.2, AA): theme, styles of the pages, charts."""

import re
import tomllib
from itertools import product
from pathlib import Path

import numpy
import pandas
import pytest
from plotly.colors import sample_colorscale

from paraknow_core.display import ARMS, GROUP_COLOURS, arm_of
from paraknow_core.figures import compare, mapping, models, sensitivity, train
from paraknow_core.figures import maps as figures
from paraknow_core.figures.style import (
    BLUE,
    HIGHLIGHT,
    READABLE,
    blank,
    contrast,
    ink,
    mixed,
    neutral,
    paper,
    readable,
    text_on,
    texts_on_scale,
)

ROOT = Path(__file__).resolve().parents[2]
THEMES = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())["theme"]
INKS = ("textColor", "linkColor", "redColor", "orangeColor", "yellowColor", "blueColor", "greenColor", "grayColor")
FADED = 0.6  # Streamlit writes captions, placeholders and quiet icons in this part of the text colour
TINT = 0.1  # and chosen segments and pills on this part of the primary colour
STYLES = [ROOT / "pages" / "_ui" / "style.css", *sorted((ROOT / "pages").rglob("*.py"))]


def test_contrast_is_that_of_the_guideline():
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21)
    assert contrast("#777777", "#FFFFFF") == pytest.approx(4.48, abs=0.005)
    assert contrast("#0072B2", "#0072B2") == 1


def grounds(theme: dict) -> list[str]:
    side = theme["sidebar"]
    return [
        theme["backgroundColor"],
        theme["secondaryBackgroundColor"],
        side["backgroundColor"],
        side["secondaryBackgroundColor"],
    ]


@pytest.mark.parametrize("name", ["light", "dark"])
def test_what_a_theme_writes_can_be_read_on_all_its_grounds(name):
    theme = THEMES[name]
    for key, ground in product(INKS, grounds(theme)):
        assert contrast(theme[key], ground) >= READABLE, (key, ground)
    for ground in grounds(theme):
        assert contrast(mixed(ground, theme["textColor"], FADED), ground) >= READABLE, ground
    assert contrast(theme["codeTextColor"], theme["codeBackgroundColor"]) >= READABLE
    page, primary = theme["backgroundColor"], theme["primaryColor"]
    assert contrast(primary, page) >= READABLE
    assert contrast(primary, mixed(page, primary, TINT)) >= READABLE


def test_labels_and_buttons_of_the_pages_can_be_read():
    found = []
    for file in STYLES:
        for rule in re.findall(r"\{([^{}]*)\}", file.read_text()):
            ground = re.search(r"background: (#[0-9A-Fa-f]{6})", rule)
            text = re.search(r"(?<!-)color: (#[0-9A-Fa-f]{6}|#fff\b)", rule)
            if ground and text:
                colour = "#FFFFFF" if text[1] == "#fff" else text[1]
                found.append((file.name, colour, ground[1]))
                assert contrast(colour, ground[1]) >= READABLE, found[-1]
    assert len(found) > 8
    style = (ROOT / "pages/_ui/style.css").read_text()
    assert re.search(r'stBaseButton-primary"\]:not\(:disabled\).*\{\s*background: #', style)  # in both themes


def test_quiet_words_are_not_too_quiet():
    for file, name in product(STYLES, ("light", "dark")):
        theme = THEMES[name]
        for part in re.findall(r"(?<!\{)opacity: ?(0?\.\d+)", file.read_text()):
            ground = theme["backgroundColor"]
            assert contrast(mixed(ground, theme["textColor"], float(part)), ground) >= READABLE, (file.name, part)


@pytest.mark.parametrize("dark", [False, True])
def test_every_colour_of_the_charts_has_a_shade_for_words(dark):
    arms = [arm.shade(dark) for arm in (*ARMS.values(), arm_of("unknown"))]
    for colour in {*arms, *GROUP_COLOURS.values(), BLUE, HIGHLIGHT, neutral(dark), ink(dark)}:
        assert contrast(readable(colour, dark), paper(dark)) >= READABLE
        assert contrast(text_on(colour), colour) >= READABLE
    assert readable(ink(dark), dark) == ink(dark)
    assert contrast(blank("t", "s", dark, 300).layout.title.subtitle.font.color, paper(dark)) >= READABLE
    assert paper(dark) == THEMES["dark" if dark else "light"]["backgroundColor"]


@pytest.mark.parametrize("scale", ["Cividis", compare.DIVERGING, sensitivity.DIVERGING])
def test_numbers_on_heatmaps_can_be_read_on_every_colour(scale):
    values = list(numpy.linspace(0, 1, 101))
    stops = [list(stop) for stop in scale] if not isinstance(scale, str) else scale
    colours = sample_colorscale(stops, values, colortype="tuple")
    for text, parts in zip(texts_on_scale(values, 0, 1, stops), colours, strict=True):
        ground = "#" + "".join(f"{round(255 * part):02X}" for part in parts)
        assert contrast(text, ground) >= READABLE, ground
    assert texts_on_scale([-3.0, 9.0], 0, 1, stops) == [texts_on_scale([v], 0, 1, stops)[0] for v in (0.0, 1.0)]
    assert texts_on_scale([], 0, 0) == []
    assert len(texts_on_scale([2.0], 2.0, 2.0)) == 1


@pytest.mark.parametrize("dark", [False, True])
def test_words_in_pictures_have_these_colours(dark):
    line = train.Line("PiSSA", "pissa", (numpy.arange(3.0), numpy.arange(3.0)))
    curves = train.loss([line, train.Line("LoRA", "default_lora", line.shown)], dark=dark)
    stable = sensitivity.stability_curve([(4, 0.9, 0.8), (8, 1.0, 1.0)], dark=dark)
    common = sensitivity.top_overlap_curve([1, 0, 2], kept=1, dark=dark)
    links = mapping.layer_links([0, 1], 3, [1.0, 2.0, 3.0], picked=("teacher", 1), dark=dark)
    lengths = models.length_histogram([5, 9], 512, dark=dark)
    notes = [note for figure in (curves, stable, common, links, lengths) for note in figure.layout.annotations]
    assert len(notes) > 8
    for note in notes:
        assert contrast(note.font.color or ink(dark), paper(dark)) >= READABLE, note.text
    for nodes in links.select_traces({"type": "scatter", "mode": "markers+text"}):
        for text, ground in zip(nodes.textfont.color, nodes.marker.color, strict=True):
            assert contrast(text, ground) >= READABLE
    parts = [{"role": "q", "group": group, "parameters": 9, "modules": 1} for group in GROUP_COLOURS]
    for bar in models.parameter_bars({"a": parts}, dark=dark).data:
        assert contrast(bar.textfont.color, bar.marker.color) >= READABLE


def test_maps_write_every_number_in_black_or_white():
    records = [{"module": f"{layer}.q", "role": "q", "layer": layer, "v": layer / 4} for layer in range(5)]
    for kind in ("size", "share", "change"):
        _, texts = compare.module_map([{**r, "v": r["v"] or None} for r in records], "v", kind=kind).data
        assert set(texts.textfont.color[1:]) <= {"#FFFFFF", "#000000"}
        assert texts.textfont.color[0] == ink(False)  # an empty cell is the page's paper
    numbers = {"sum": [1.0, 2.0], "mean": 1.0, "share": 0.5, "rows": 2, "cols": 2}
    table = pandas.DataFrame({"module": ["0.q", "1.q"], "role": "q", "layer": [0, 1], **numbers})
    _, texts, _ = figures.sensitivity_heatmap(table).data
    assert list(texts.textfont.color) == ["#FFFFFF", "#000000"]
