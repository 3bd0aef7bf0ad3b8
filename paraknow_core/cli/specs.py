"""Commands about spec files: show, validate, schema."""

from pathlib import Path
from typing import Annotated

import typer

from paraknow_core.cli.console import show, show_json, show_text
from paraknow_core.cli.options import Json
from paraknow_core.spec import RunSpec, read_spec

app = typer.Typer(help="Show, validate and document specs.")


@app.command("show")
def show_spec(
    file: Annotated[Path | None, typer.Argument(metavar="[SPEC.yaml]", help="Default: the default spec.")] = None,
    json: Json = False,
) -> None:
    """Print a spec with every key written out; without a file, the defaults: a start for your own."""
    spec = read_spec(file) if file else RunSpec()
    show_json(spec.model_dump(mode="json")) if json else show_text(spec.to_yaml())


@app.command()
def validate(file: Annotated[Path, typer.Argument(metavar="SPEC.yaml")], json: Json = False) -> None:
    """Check a spec file; the first problem is named in one sentence (exit 2)."""
    spec = read_spec(file)
    if json:
        show_json({"valid": True, "spec": spec.model_dump(mode="json")})
    else:
        show(f"{file}: valid; `run {file}` computes it")


@app.command()
def schema() -> None:
    """Print the JSON schema of a spec."""
    show_json(RunSpec.model_json_schema())
