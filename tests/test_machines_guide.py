"""docs/machines.md: its commands name options that there are, and the guide can be found."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from verse_clients.generate import cli as generate
from verse_clients.judge import cli as judge
from verse_server import cli as serve
from verse_trainer import cli as train
from verse_trainer.adapters import cli as adapters

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "machines.md").read_text("utf-8")
APPS = {
    "generate": generate.app,
    "judge": judge.app,
    "serve": serve.app,
    "train": train.app,
    "adapters": adapters.app,
}
SECTIONS = ("Training", "Serving sharded", "Many servers", "A CUDA cluster", "Bulk")


def commands() -> list[list[str]]:
    """Each call of `verse` in the guide's examples, from the name of the command on."""
    examples = re.findall(r"^    \S.*$", GUIDE.replace("\\\n", " "), re.MULTILINE)
    calls = [shlex.split(line, comments=True) for line in examples if "verse " in line]
    found = [words[words.index("verse") + 1 :] for words in calls if "verse" in words]
    return [words for words in found if words[0] in APPS]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_a_command_has_the_options_it_is_shown_with(words: list[str]) -> None:
    command: Any = typer.main.get_command(APPS[words[0]])
    known = {flag for parameter in command.params for flag in parameter.opts}
    subcommand = getattr(command, "commands", {}).get(words[1] if len(words) > 1 else "")
    known |= {flag for parameter in getattr(subcommand, "params", ()) for flag in parameter.opts}
    used = {word for word in words if re.match(r"--?[a-z]", word)}
    assert used <= known


def test_the_guide_shows_commands_and_has_its_sections() -> None:
    assert {words[0] for words in commands()} >= {"generate", "adapters"}
    assert re.findall(r"^## (.*)$", GUIDE, re.MULTILINE) == [*SECTIONS]
    for part in SECTIONS:
        anchor = part.lower().replace(" ", "-")
        assert f"(#{anchor})" in GUIDE
    assert "docs/machines.md" in (ROOT / "README.md").read_text("utf-8")
