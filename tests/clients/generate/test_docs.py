"""docs/generate.md names the options that there are, and no others."""

import re
from pathlib import Path

import pytest
import typer

from verse.similarity import NEAR
from verse_clients.generate import cli
from verse_clients.generate.run import GenerationOptions
from verse_clients.screening import CopyLimits

DOCS = (Path(__file__).parents[3] / "docs" / "generate.md").read_text("utf-8")
GROUP = typer.main.get_command(cli.app)


def flags(command: object) -> set[str]:
    params = getattr(command, "params", [])
    return {flag for param in params for flag in param.opts if flag.startswith("-")} - {"--help"}


def test_the_guide_names_every_option_and_no_other() -> None:
    commands = [GROUP, *getattr(GROUP, "commands", {}).values()]
    known = set[str]().union(*map(flags, commands))
    named = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", DOCS)) - {"-4"}
    assert named == known


def test_the_guide_tells_the_real_defaults() -> None:
    defaults = {param.name: param.default for param in GROUP.params}
    limits = CopyLimits()
    for name, value in (
        ("near", NEAR),
        ("copy_warn", limits.warn),
        ("copy_block", limits.block),
        ("copy_share", limits.share),
        ("wait", GenerationOptions(poems=Path("x")).wait_seconds),
        ("timeout", GenerationOptions(poems=Path("x")).timeout_seconds),
        ("max_tokens", 400),
    ):
        assert defaults[name] == pytest.approx(value), name
        row = next(line for line in DOCS.splitlines() if f"`--{name.replace('_', '-')}`" in line)
        assert f"{value:g}" in row, name
