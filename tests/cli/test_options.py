"""Flags are made from the settings: a new setting is one field."""

import pytest
import typer
from typer.testing import CliRunner

from paraknow_core.cli import app
from paraknow_core.cli.options import with_settings
from paraknow_core.paths import Workspace
from paraknow_core.settings import Settings


@pytest.mark.parametrize("command", ["run", "sensitivity", "extract"])
def test_what_computes_takes_every_flag_of_the_settings(command):
    flags = {name for name, field in Settings.model_fields.items() if field.json_schema_extra}
    assert flags
    assert flags <= {option.name for option in typer.main.get_command(app).commands[command].params}


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        ([], (None, False, None)),
        (["--workers", "3", "--gradient-checkpointing", "--memory-budget", "2kB"], (3, True, 2000)),
    ],
)
def test_a_setting_becomes_an_option_that_wins_over_the_file(arguments, seen, tmp_path):
    place = Workspace(tmp_path)
    place.settings_file.write_text("threads: 2\n")
    received = []

    @with_settings("workers", "gradient_checkpointing", "memory_budget")
    def command(*, settings: Settings) -> None:
        received.append(settings)

    small = typer.Typer()
    small.command()(command)
    assert CliRunner().invoke(small, arguments, obj=place, catch_exceptions=False).exit_code == 0
    assert [(s.workers, s.gradient_checkpointing, s.memory_budget) for s in received] == [seen]
    assert received[0].threads == 2
