"""The import rule of the project: who may know whom, and what stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

HEAVY = ("torch", "transformers", "peft", "datasets")


def test_imports_go_one_way():
    """The contracts stand in pyproject.toml: the floors of the house, and what its parts may know."""
    done = subprocess.run([Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


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


def test_the_router_knows_pages_only():
    assert {name.split(".")[0] for name in imported(ROOT / "app.py")} <= {
        "streamlit",
        "pages",
        "pathlib",
        "paraknow_core",
    }


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
    files = [f for f in [ROOT / "app.py", *sorted((ROOT / "pages").rglob("*.py"))] if f.exists()]
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


# What computes or reads files; time, paths and HTML are not among them.
WORKING = {"json", "csv", "io", "os", "math", "statistics", "numpy", "pandas", "scipy", "hashlib", "subprocess"}
READING = {"open", "read_text", "read_bytes", "write_text", "write_bytes", "stat", "unlink", "iterdir", "glob", "rglob"}


@pytest.mark.parametrize("file", sorted((ROOT / "pages").rglob("*.py")), ids=lambda file: str(file.relative_to(ROOT)))
def test_pages_draw_what_the_core_has_worked_out(file):
    """`paraknow_core/workbench/` reads and computes; for the types of what it gives, a page may name a library."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for block in [node for node in ast.walk(tree) if isinstance(node, ast.If)]:
        if ast.unparse(block.test) == "TYPE_CHECKING":
            block.body = [ast.Pass()]
    nodes = list(ast.walk(tree))
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {module.split(".")[0] for module in modules} & WORKING == set()
    calls = {node.func for node in nodes if isinstance(node, ast.Call)}
    assert {getattr(call, "attr", getattr(call, "id", "")) for call in calls} & READING == set()
