"""The import rule of the project, read from the source itself: who may know whom, and what stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "paraknow_core"

# Each part of the core and the parts it may import. One way only: the table is a drawing of the house.
BASE = {"errors", "naming", "whole", "spec", "paths", "disk"}
MAY_IMPORT = {
    "errors": set(),
    "disk": set(),
    "paths": {"errors", "disk"},
    "processes": {"paths"},
    "naming": set(),
    "whole": set(),
    "spec": {"errors", "naming"},
    "settings": BASE,
    "ops": {"errors"},
    "memory": set(),
    "openmp": set(),
    "tensor_file": {"errors"},
    "planner": BASE | {"models", "display"},
    "estimates": BASE | {"models", "planner"},
    "sensitivity_store": BASE,
    "agreement": BASE,
    "runs": BASE | {"processes"},
    "writer": BASE | {"runs", "processes"},
    "packing": {"errors"},
    "labels": BASE | {"display"},
    "demo": BASE | {"ops", "models", "tasks"},
    "models": BASE | {"ops"},
    "tasks": BASE | {"ops", "models", "demo"},
    "stages": BASE
    | {
        "settings",
        "ops",
        "models",
        "tasks",
        "sensitivity_store",
        "writer",
        "memory",
        "tensor_file",
        "planner",
        "display",
    },
    "methods": BASE | {"settings", "ops", "models", "tasks", "sensitivity_store", "stages"},
    "pipeline": BASE | {"settings", "runs", "writer", "sensitivity_store", "models", "tasks", "stages", "methods"},
    "engines": BASE | {"runs", "services", "settings", "processes"},
    "playground": BASE | {"access", "services", "runs"},  # what pages know of it
    "playground.serve": BASE | {"playground", "services", "runs", "settings", "models", "tasks", "stages", "memory"},
    "studies": BASE | {"runs", "ops"},
    "comparison": BASE | {"runs", "studies", "ops", "display"},
    "display": set(),
    "figure_style": {"display"},
    "figures": {"errors", "display", "figure_style"},
    "charts": {"errors", "display", "figure_style", "figures", "agreement", "lessons"},  # one module a page
    "reports": BASE
    | {"runs", "studies", "comparison", "display", "figure_style", "figures", "charts", "packing", "sensitivity_store"},
    "launcher": {"access", "errors", "paths"},
    "draft": BASE,
    "lessons": BASE | {"agreement", "runs", "studies", "ops", "sensitivity_store", "display"},
    "access": BASE,
    "services": BASE | {"runs", "processes"},
    "desk": BASE | {"access", "services"},
    # What the desk works out: only its own process imports it.
    "desk.kinds": BASE
    | {
        "desk",
        "settings",
        "runs",
        "sensitivity_store",
        "services",
        "ops",
        "models",
        "tasks",
        "stages",
        "methods",
        "memory",
        "planner",
        "estimates",
        "display",
        "demo",
        "pipeline",
    },
    "cli": BASE
    | {
        "settings",
        "runs",
        "processes",
        "writer",
        "models",
        "tasks",
        "stages",
        "pipeline",
        "engines",
        "studies",
        "comparison",
        "labels",
        "launcher",
        "display",
        "desk",
        "packing",
    },
    "__main__": {"cli", "openmp"},
    "__init__": set(),
}
# What pages and app.py may know of the core: run folders and pictures, nothing that computes.
PAGES_MAY_IMPORT = BASE | {
    "settings",
    "runs",
    "sensitivity_store",
    "studies",
    "comparison",
    "figures",
    "display",
    "engines",
    "demo",
    "draft",
    "access",
    "services",
    "desk",
    "playground",
    "charts",
    "reports",
    "planner",
    "agreement",
    "lessons",
    "figure_style",
    "packing",
    "labels",
}
# The interface of methods belongs to the stages, which call it; the methods themselves stand above them. The desk's
# loop and its kinds of questions are not the part that pages know.
BELONGS_TO = {
    "methods.base": "stages",
    "desk.serve": "desk.kinds",
    "desk.kinds": "desk.kinds",
    "playground.serve": "playground.serve",
}
HEAVY = ("torch", "transformers", "peft", "datasets")


def imported(file: Path) -> set[str]:
    """Return the dotted names a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def core_parts(file: Path) -> set[str]:
    """Return the parts of the core that a file imports."""
    names = {name.removeprefix("paraknow_core.") for name in imported(file) if name.startswith("paraknow_core.")}
    parts = {BELONGS_TO.get(".".join(name.split(".")[:2]), name.split(".")[0]) for name in names}
    return {part for part in parts if not part.startswith("_")}


def part_of(file: Path) -> str:
    dotted = ".".join(file.relative_to(CORE).with_suffix("").parts)
    return BELONGS_TO.get(".".join(dotted.split(".")[:2]), dotted.split(".")[0])


def python_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


@pytest.mark.parametrize("file", python_files(CORE), ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_go_one_way(file):
    part = part_of(file)
    assert part in MAY_IMPORT, f"{part}: new part of the core; say in MAY_IMPORT what it may know"
    extra = core_parts(file) - MAY_IMPORT[part] - {part}
    assert not extra, f"{file.relative_to(ROOT)} imports {', '.join(sorted(extra))}"


def test_the_table_itself_has_no_circle():
    # tasks reads the bundled tasks, whose recipes read models: demo and tasks are one floor of the house.
    remaining = {part: set(known) - ({"tasks"} if part == "demo" else set()) for part, known in MAY_IMPORT.items()}
    while remaining:
        free = {part for part, known in remaining.items() if not known & remaining.keys()}
        assert free, f"these parts import each other: {sorted(remaining)}"
        remaining = {part: known for part, known in remaining.items() if part not in free}


@pytest.mark.parametrize("file", [ROOT / "app.py", *python_files(ROOT / "pages")], ids=lambda f: f.name)
def test_pages_know_run_folders_and_pictures_only(file):
    if not file.exists():
        pytest.skip("not there yet")
    extra = core_parts(file) - PAGES_MAY_IMPORT
    assert not extra, f"{file.name} imports {', '.join(sorted(extra))}"
    assert not {name.split(".")[0] for name in imported(file)} & set(HEAVY)


def test_only_pages_import_streamlit():
    users = [
        str(f.relative_to(ROOT)) for f in python_files(CORE) if any(n.startswith("streamlit") for n in imported(f))
    ]
    assert users == []


def test_ops_know_no_files_and_no_models():
    banned = {"transformers", "peft", "safetensors", "datasets", "pathlib", "yaml"}
    users = {f.name: {n.split(".")[0] for n in imported(f)} & banned for f in python_files(CORE / "ops")}
    assert not any(users.values()), users


def test_engines_never_import_the_pipeline():
    for file in python_files(CORE / "engines"):
        assert "pipeline" not in core_parts(file)


@pytest.mark.parametrize(
    "modules",
    [
        ["paraknow_core.cli", "paraknow_core.workbench.launcher"],
        [
            "paraknow_core.runs.folder",
            "paraknow_core.runs.writer",
            "paraknow_core.engines.local",
            "paraknow_core.sensitivity.store",
            "paraknow_core.studies.scores",
            "paraknow_core.settings",
        ],
        [
            "paraknow_core.models.anatomy",
            "paraknow_core.models.compat",
            "paraknow_core.tasks.examples",
            "paraknow_core.demo.tasks",
        ],
    ],
    ids=["command line", "run folders", "looking"],
)
def test_light_parts_load_nothing_heavy(modules):
    code = f"import {', '.join(modules)}, sys; print(*(m for m in {HEAVY} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_all_that_pages_import_loads_nothing_heavy():
    files = [f for f in [ROOT / "app.py", *python_files(ROOT / "pages")] if f.exists()]
    modules = {name for file in files for name in imported(file) if name.startswith("paraknow_core.")}
    code = "\n".join(
        [
            "import importlib, sys",
            f"for name in {sorted(modules)!r}:",
            "    try: importlib.import_module(name)",
            "    except ModuleNotFoundError: importlib.import_module(name.rpartition('.')[0])",
            f"print(*(m for m in {HEAVY} if m in sys.modules))",
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
