"""Pages stay light: importing everything that they import loads none of the heavy libraries."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_pages_load_no_heavy_library():
    files = [ROOT / "app.py", *sorted((ROOT / "pages").rglob("*.py"))]
    statements = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                statements.add(ast.unparse(node))
    heavy = "{'torch', 'transformers', 'peft', 'datasets', 'accelerate'}"
    program = "\n".join([*sorted(statements), "import sys", f"print(sorted({heavy} & set(sys.modules)))"])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    assert any("paraknow_core.runs.folder" in statement for statement in statements)
