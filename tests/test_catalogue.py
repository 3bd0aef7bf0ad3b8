"""One row is all that makes a name known: to specs, the command line and every screen."""

import ast
import dataclasses
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from paraknow_core import catalogue
from paraknow_core.cli import main
from paraknow_core.spec import RunSpec

ROOT = Path(__file__).resolve().parents[1]
TABLES = (*catalogue.CHOICES.values(), catalogue.SCORERS, catalogue.UNTRAINED, catalogue.ARMS)
# Adds a method, a structure and a scorer before anything reads the tables, and prints where they are then known.
NEW_ROWS = """
import dataclasses, sys, types
from paraknow_core import catalogue
module = types.ModuleType("paraknow_core.new")
module.New, module.new = type("New", (), {}), lambda score, height, width: "chosen"
sys.modules["paraknow_core.new"] = module
row = dataclasses.replace(catalogue.METHODS["pissa"], name="new", label="New", code="new:New", needs=("activations",))
catalogue.METHODS["new"], catalogue.ARMS["new"] = row, catalogue._arm_of_method(row)  # as where the tables are made
catalogue.STRUCTURES["new"] = catalogue.Row("new", "new", "as new", "new:new")
catalogue.SCORERS["new"] = catalogue.Scorer("new", "newest", "as new", "new:scored", by="writing")
module.scored = lambda example, evidence: (float(evidence.text == example.reference), {"seen": evidence.text})
from paraknow_core import display
from paraknow_core.cli import main
from paraknow_core.spec import parse_spec
from paraknow_core.tasks.examples import load_task
from paraknow_core.tasks.scorers import score_output, summarise
from paraknow_core.workbench.draft import Draft
assert parse_spec({"method": "new", "extraction": {"structure": "new"}}).method == "new"
assert display.arm_of("new") is row
assert Draft(arms=("new",)).planned()[1].method == "new"
assert catalogue.implementation(catalogue.METHODS["new"]) is module.New
assert catalogue.implementation(catalogue.STRUCTURES["new"])(None, 1, 1) == "chosen"
task = load_task(parse_spec({"task": {"scorers": ["new"]}}).task)
example = task.split("test")[0]
records = [score_output("new", example, text) for text in (example.reference, "<think>no</think> nothing")]
assert [(record.score, record.detail["seen"]) for record in records] == [(1.0, example.reference), (0.0, "nothing")]
assert summarise("new", records).value == 0.5
assert "newest" in display.scorer_label({"scorer": "new", "unit": "share"})
main(["methods"])
main(["extract", "--help"])
"""


def test_a_row_and_its_code_are_all_that_a_method_a_structure_or_a_scorer_takes():
    done = subprocess.run([sys.executable, "-c", NEW_ROWS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    listed, _, usage = done.stdout.partition("Usage:")
    assert "activations" in listed
    usage = "".join(usage.replace("│", " ").split())  # a long list of names is broken over lines
    assert usage.count("|new>") == 2  # --method and --structure


@pytest.mark.parametrize("rows", TABLES, ids=lambda rows: f"{next(iter(rows))}...")
def test_rows_are_complete(rows):
    for name, row in rows.items():
        assert (row.name, bool(row.label), bool(row.text)) == (name, True, True)
        assert row.control_of in ("", *rows) and row.control_of != name
        assert {key.partition(".")[0] for key in row.reads} <= RunSpec.model_fields.keys()


@pytest.mark.parametrize(
    "row", [row for rows in TABLES for row in rows.values() if row.code], ids=lambda row: f"{row.name}: {row.code}"
)
def test_every_row_is_implemented(row):
    assert callable(catalogue.implementation(row))


def test_the_spec_offers_the_tables():
    for key, rows in catalogue.CHOICES.items():
        node = RunSpec.model_json_schema()
        for part in key.split("."):
            node = node["properties"][part]
            node = RunSpec.model_json_schema()["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
        assert node["enum"] == list(catalogue.offered(rows)), key


def test_methods_are_listed(capsys):
    assert main(["methods", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed == json.loads(json.dumps([dataclasses.asdict(row) for row in catalogue.METHODS.values()]))
    assert main(["methods"]) == 0
    out = capsys.readouterr().out
    assert all(row.label in out for row in catalogue.METHODS.values())


def test_nothing_else_lists_a_whole_table():
    """A second list would have to be kept in step by hand; a lesson is a fixed experiment and names its own arms."""
    tables = [set(catalogue.offered(rows)) for rows in TABLES if len(rows) > 2]
    files = [file for room in ("paraknow_core", "pages") for file in (ROOT / room).rglob("*.py")]
    again = []
    for file in (file for file in files if "lessons" not in file.parts):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            parts = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", ())
            names = {part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)}
            again += [f"{file.name}:{node.lineno}" for table in tables if table <= names]
    assert again == []


@pytest.mark.parametrize("dark", [False, True])
def test_every_line_of_a_chart_has_its_own_look(dark):
    lines = [*catalogue.ARMS.values(), *catalogue.UNTRAINED.values()]
    named = defaultdict(list)
    for line in lines:
        named[line.shade(dark), line.pattern].append(line.name)
    assert [f"{look} of {names}" for look, names in named.items() if len(names) > 1] == []


@pytest.mark.parametrize("name", catalogue.ARMS)
def test_a_spec_takes_the_changes_of_every_arm(name):
    known = {"$student": {"source": "bundled:kin"}, "$seed": 3, "$wrong_task": "bundled:open_writing"}
    base = RunSpec().with_changes({"mapping": {"strategy": "manual", "layers": [0, 1, 2]}})
    arm = catalogue.ARMS[name]
    changes = arm.changes.items()
    spec = base.with_changes({key: known.get(v, v) if isinstance(v, str) else v for key, v in changes})
    row = catalogue.METHODS[spec.method]
    assert arm.keeps_student == (row.keeps_student and spec.injection.mode == "residual")


def test_what_a_choice_does_not_read():
    settings = {
        "method": "random_offset",
        "sensitivity.selection": "first",
        "sensitivity.seed": 0,
        "mapping.strategy": "random",
        "mapping.seed": 0,
        "extraction.structure": "random",
        "extraction.seed": 0,
        "teacher.source": "",
        "factorisation.split": "sqrt",
        "injection.mode": "residual",
        "seed": 0,
    }
    assert catalogue.unread(settings) == {"sensitivity.seed", "extraction.structure"}
    assert catalogue.unread(settings | {"method": "pissa"}) == settings.keys() - {"method", "seed"}
    seeking = settings | {"method": "seeking", "mapping.strategy": "top", "extraction.structure": "neuron"}
    assert catalogue.unread(seeking) == {"sensitivity.seed", "mapping.seed", "extraction.seed"}
    scale = {"factorisation.rank": 16, "factorisation.lora_alpha": 16.0}
    assert catalogue.unread(seeking | scale).isdisjoint(scale)
    assert scale.keys() <= catalogue.unread(settings | scale | {"method": "full_finetuning"})
