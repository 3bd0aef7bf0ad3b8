"""The report and the files of a run: whole, escaped, loaded from nowhere."""

import io
import json
import re
import zipfile
from dataclasses import replace
from html.parser import HTMLParser

import pandas
import pytest

from paraknow_core.errors import RunError
from paraknow_core.figures import report as reports
from paraknow_core.paths import Workspace
from paraknow_core.runs.folder import list_runs
from paraknow_core.runs.labels import set_label
from paraknow_core.studies.arms import arms_of
from paraknow_core.studies.presets import PRESETS
from paraknow_core.studies.study import StudySpec
from tests.pages import compared
from tests.studies import made


class Loads(HTMLParser):
    """Collects what a browser would fetch, and the text outside scripts."""

    def __init__(self):
        super().__init__()
        self.fetched, self.text, self.inside, self.tags = [], [], "", []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.inside = tag if tag in ("script", "style") else self.inside
        self.fetched += [v for k, v in attributes if k in ("src", "href", "srcset", "data", "action", "poster")]

    def handle_endtag(self, tag):
        self.inside = "" if tag == self.inside else self.inside

    def handle_data(self, data):
        if not self.inside:
            self.text.append(data)


@pytest.fixture
def place(tmp_path):
    return Workspace(tmp_path)


def groups_of(place):
    return arms_of([(run, run.spec()) for run in list_runs(place)])


def parsed(html):
    parser = Loads()
    parser.feed(html)
    return parser, " ".join(parser.text)


def test_the_report_holds_everything_and_fetches_nothing(place):
    compared.study(place, seeds=2)
    html = reports.html_report(groups_of(place))
    page, text = parsed(html)
    assert page.fetched == []
    assert "link" not in page.tags and "img" not in page.tags and "iframe" not in page.tags
    style = "".join(re.findall(r"<style>(.*?)</style>", html, re.DOTALL))
    assert "url(" not in style and "@import" not in style
    assert "default-src 'none'" in html
    assert len(html.encode()) < 8_000_000
    for part in (
        "seeking (the method)",
        "against default LoRA",
        "p, Holm",
        "Curves",
        "Settings that differ",
        "Versions and fingerprints",
        "How to reproduce",
        "torch 2.13.0",
        "version: 1",
    ):
        assert part in text, part
    figures = re.findall(r'<div id="(figure-\d+)"', html)
    assert len(figures) == 6  # two scorers, each with scores and differences; two curves
    assert all(f"Plotly.newPlot('{name}'" in html for name in figures)


def test_hostile_names_stay_text(place):
    compared.run(place, "seeking", name=compared.HOSTILE[:120], student__source="/m/</script><img src=x onerror=1>")
    compared.run(place, "default_lora", student__source="/m/</script><img src=x onerror=1>")
    html = reports.html_report(groups_of(place))
    page, text = parsed(html)
    assert page.tags.count("script") == 2
    assert "img" not in page.tags
    assert "</script><img src=x onerror=1>" in text
    assert html.count("</script>") == 2


def test_names_and_notes_of_runs_are_in_the_report_as_text(place):
    runs = compared.study(place, seeds=1)
    _, text = parsed(reports.html_report(groups_of(place)))
    assert "Names and notes" not in text
    set_label(runs["pissa"][0].path, name="the <b>odd</b> one", note="first line\nsecond <i>line</i>", starred=True)
    page, text = parsed(reports.html_report(groups_of(place)))
    assert "the <b>odd</b> one" in text and "second <i>line</i>" in text
    assert f"PiSSA, seed 0: {runs['pissa'][0].id}" in text and "★" in text
    assert "i" not in page.tags
    assert text.count("first line") == 1


def test_a_report_of_one_arm_or_of_none(place):
    with pytest.raises(RunError, match="no finished run was chosen"):
        reports.html_report([])
    compared.run(place, "pissa")
    _, text = parsed(reports.html_report(groups_of(place)))
    assert "differences are to PiSSA" in " ".join(text.split())


def test_an_arm_without_shared_examples_takes_nothing_from_the_report(place):
    runs = compared.study(place, seeds=1)
    file = runs["pissa"][0].file("predictions.jsonl")
    file.write_text(file.read_text().replace('"test/', '"other/'))
    _, text = parsed(reports.html_report(groups_of(place)))
    assert text.count("share no test example") == 2  # once a scorer
    assert text.count("p, Holm") == 2
    assert "points (95 %" in text


def test_a_scorer_that_no_arm_has_in_all_its_runs_is_left_out(place):
    runs = compared.study(place, seeds=2)
    for same in runs.values():
        result = same[1].result()
        result["scores"] = result["scores"][:1]
        same[1].file("result.json").write_text(json.dumps(result))
    _, text = parsed(reports.html_report(groups_of(place)))
    assert text.count("p, Holm") == 1


def test_the_zip_holds_the_adapter_and_nothing_else(place, tmp_path):
    run = compared.run(place, "seeking")
    with pytest.raises(RunError, match="has no adapter/"):
        reports.adapter_zip(run)
    run.file("adapter").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", "secret.txt"):
        (run.file("adapter") / name).write_text(name)
    with zipfile.ZipFile(io.BytesIO(reports.adapter_zip(run))) as archive:
        assert archive.namelist() == ["adapter/adapter_config.json", "adapter/adapter_model.safetensors"]
    outside = tmp_path / "outside"
    outside.write_text("not yours")
    (run.file("adapter") / "adapter_config.json").unlink()
    (run.file("adapter") / "adapter_config.json").symlink_to(outside)
    with pytest.raises(RunError, match="has no adapter/"):
        reports.adapter_zip(run)


@pytest.mark.parametrize("name", ["predictions.jsonl", "events.jsonl", "result.json"])
def test_a_run_with_a_linked_file_is_not_handed_out(place, tmp_path, name):
    run = compared.run(place, "seeking")
    run.file(name).rename(tmp_path / "outside")
    run.file(name).symlink_to(tmp_path / "outside")
    arms = groups_of(place)
    for hand_out in (reports.html_report, reports.records_table):
        with pytest.raises(RunError, match=f"{name} is a link"):
            hand_out(arms)


def test_records_go_through_csv_and_parquet(place):
    compared.study(place, seeds=2)
    table = reports.records_table(groups_of(place))
    assert len(table) == 3 * 2 * 2 * compared.N
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    pandas.testing.assert_frame_equal(pandas.read_parquet(buffer), table)
    again = pandas.read_csv(io.StringIO(table.to_csv(index=False)))
    assert list(again.columns) == list(table.columns)


@pytest.mark.parametrize(
    ("text", "name"), [("../../etc/passwd", "etc-passwd"), ("a b<c>", "a-b-c"), ("...", "run"), ("x" * 200, "x" * 80)]
)
def test_safe_names(text, name):
    assert reports.safe_name(text) == name


def test_a_study_is_one_file_with_all_that_it_found():
    outcome = made.outcome(PRESETS["structure"].make(None, "pocket"), warnings=["one run failed"])
    html = reports.report_html(outcome)
    page, text = parsed(html)
    assert page.fetched == [] and "default-src 'none'" in html and len(html.encode()) < 8_000_000
    assert "prefers-color-scheme: dark" in html
    for part in (
        outcome.study.name,
        outcome.study.question,
        "one run failed",
        "seeking (the method), submatrix",
        "compared with",
        "Methods",
        "the margin declared before the runs",
        "study run study.yaml",
        "preset: structure",
        "0: 2026-0-0",
    ):
        assert part in text, part
    table = text.split("Methods")[0]
    for group in outcome.groups:  # each score stands there once
        assert table.count(f"{100 * group.value:.1f} ± 2.0 %") == 1
    figures = re.findall(r'<div id="(figure-\d+)" role="img" aria-label="([^"]+)"', html)
    assert len(figures) == 3  # differences, the factor, learning rates
    assert all(f"Plotly.newPlot('{name}'" in html and len(alt) > 40 for name, alt in figures)


def test_a_study_that_has_only_begun_can_be_reported():
    for done in (0, 1):
        outcome = made.outcome(StudySpec(arms=("default_lora", "pissa")), done)
        _, text = parsed(reports.report_html(outcome))
        assert "Running." in text and "not finished" in text


def test_hostile_names_of_a_study_stay_text():
    hostile = "</script><img src=x onerror=1>"
    own = {"name": "own", "label": hostile, "arm": "seeking"}
    study = StudySpec(
        name=hostile, question=hostile, arms=("default_lora", own), factors={"factorisation.rank": (4, 8)}
    )
    html = reports.report_html(made.outcome(study, warnings=[hostile]))
    page, text = parsed(html)
    assert page.tags.count("script") == 2 and "img" not in page.tags
    assert hostile in text and html.count("</script>") == 2


def test_an_arm_that_reads_no_factor_has_one_row():
    outcome = made.outcome(PRESETS["structure"].make(None, "pocket"))
    lora = [group for group in outcome.groups if group.arm == "default_lora"]
    shared = [replace(group, runs=lora[0].runs, value=0.3) if group in lora else group for group in outcome.groups]
    _, text = parsed(reports.report_html(replace(outcome, groups=shared)))
    assert f"default LoRA, at {len(lora)} points" in text
    assert text.split("Methods")[0].count("30.0 ± 2.0 %") == 1


def test_an_arm_that_is_the_method_itself_has_that_in_place_of_a_verdict():
    found = made.outcome(StudySpec(arms=("default_lora", "random_offset", "seeking")))
    why = "is the method itself here, as the teacher's weights are taken whole"
    group = replace(found.groups[1], verdict=None, vacuous=why)
    found = replace(found, groups=[found.groups[0], group, found.groups[2]])
    assert [why in line for line in reports._group_lines(found)] == [False, True, False]
