"""docs/refine.md names every flag there is, and none that is not."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from verse_clients.refine import cli as refine
from verse_clients.refine.plan import Plan
from verse_clients.report import cli as report

PAGE = (Path(__file__).parents[3] / "docs" / "refine.md").read_text("utf-8")


def told(command: str) -> set[str]:
    table = PAGE.split(f"| Flag of `{command}` |")[1].split("\n\n")[0]
    return set(
        re.findall(r"`(--?[a-z-]+)`", "\n".join(r.split(" | ")[0] for r in table.split("\n")))
    )


def refine_commands() -> dict[str, Any]:
    group = typer.main.get_command(refine.app)
    assert isinstance(group, TyperGroup)
    return dict(group.commands)


def there(command: str) -> set[str]:
    found = (
        typer.main.get_command(report.app) if command == "report" else refine_commands()[command]
    )
    options = [option for option in found.params if option.param_type_name == "option"]
    return {name for option in options for name in option.opts} - {"--help"}


@pytest.mark.parametrize("command", ["convert", "filter", "compare", "start", "report"])
def test_the_page_names_the_flags_that_the_help_has(command: str) -> None:
    assert told(command) == there(command)


def test_the_page_names_every_key_of_the_plan() -> None:
    table = PAGE.split("| Key |")[1].split("\n\n")[0]
    keys = re.findall(r"^\| ([a-z_, ]+) \|", table, re.MULTILINE)
    assert {key for line in keys for key in line.split(", ")} == set(Plan.__struct_fields__)


def test_the_page_names_every_step() -> None:
    for name in set(refine_commands()) - {"next"}:
        assert f"refine {name}" in PAGE or f"`{name}`" in PAGE
