"""docs/judge.md names the options that there are, and no others."""

import re
from pathlib import Path

import typer

from verse_clients.judge import cli
from verse_clients.judge.judges import ConnectionOptions
from verse_clients.judge.pipeline import PipelineOptions
from verse_clients.judge.prompts import JudgeSampling
from verse_clients.screening import MIN_CHARACTERS

DOCS = (Path(__file__).parents[3] / "docs" / "judge.md").read_text("utf-8")
GROUP = typer.main.get_command(cli.app)


def flags(command: object) -> set[str]:
    params = getattr(command, "params", [])
    return {flag for param in params for flag in param.opts if flag.startswith("-")} - {"--help"}


def test_the_guide_names_every_option_and_no_other() -> None:
    commands = [GROUP, *getattr(GROUP, "commands", {}).values()]
    known = set[str]().union(*map(flags, commands))
    assert set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", DOCS)) == known


def test_guide_help_and_code_tell_the_same_defaults() -> None:
    defaults = {param.name: param.default for param in GROUP.params}
    how, sampling, connection = PipelineOptions(), JudgeSampling(), ConnectionOptions()
    for name, value in (
        ("min_characters", MIN_CHARACTERS),
        ("batch_size", how.size),
        ("rounds", how.rounds),
        ("keep", how.keep),
        ("margin", how.margin),
        ("seed", how.seed),
        ("temperature", sampling.temperature),
        ("max_tokens", sampling.max_tokens),
        ("wait", connection.wait_seconds),
        ("timeout", connection.timeout_seconds),
    ):
        assert defaults[name] == value, name
        row = next(line for line in DOCS.splitlines() if f"| `--{name.replace('_', '-')}`" in line)
        assert f"{value:g}" in row, name
