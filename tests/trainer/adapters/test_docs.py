"""docs/adapters.md says what is so: it names every option there is, and no other."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from verse_clients import side_by_side
from verse_trainer.adapters.cli import app

GUIDE = (Path(__file__).parents[3] / "docs" / "adapters.md").read_text("utf-8")
INTRODUCTION, *PARTS = re.split(r"^## ", GUIDE, flags=re.MULTILINE)
SECTIONS = {part.split("\n", 1)[0]: part for part in PARTS}
COMMANDS = {
    **typer.main.get_command(app).commands,  # type: ignore[attr-defined]
    "compare": typer.main.get_command(side_by_side.app),
}
FLAG = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")


def options(command: str) -> set[str]:
    found = {flag for parameter in COMMANDS[command].params for flag in parameter.opts}
    return {flag for flag in found if flag.startswith("-")} - {"--help"}


def test_every_command_has_its_section() -> None:
    assert SECTIONS.keys() == COMMANDS.keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_section_names_the_options_there_are_and_no_others(command: str) -> None:
    named = set(FLAG.findall(SECTIONS[command]))
    assert named == options(command) - {"--adapters"}  # the introduction has that one
    assert "--adapters" in INTRODUCTION


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_parse(command: str) -> None:
    examples = re.findall(rf"^    verse adapters {command} ?(.*)$", SECTIONS[command], re.MULTILINE)
    assert examples
    for example in examples:
        COMMANDS[command].make_context(command, shlex.split(example))
