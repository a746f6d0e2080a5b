"""docs/train.md does not go stale."""

import re
from pathlib import Path

import typer

from verse_trainer import cli
from verse_trainer.command import read_config
from verse_trainer.config import find_config, preset_names
from verse_trainer.plan import DEFAULT_EPOCHS

PROJECT = Path(__file__).parents[2]
GUIDE = (PROJECT / "docs" / "train.md").read_text("utf-8")


def section(title: str) -> str:
    return GUIDE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(title: str) -> list[list[str]]:
    lines = re.findall(r"^\| (.*) \|$", section(title), flags=re.MULTILINE)
    return [[cell.strip() for cell in line.split(" | ")] for line in lines if "---" not in line]


def test_the_presets_are_those_that_ship_with_their_own_figures() -> None:
    _, *table = rows("Presets")
    assert [row[0] for row in table] == [f"`{name}`" for name in preset_names()]
    for name, base, memory, batch_size, grad_checkpoint in table:
        path = find_config(name.strip("`"))
        config = read_config(str(path), {}).config
        assert base == config.model
        assert f"# Expected memory: {memory} at the peak" in path.read_text("utf-8")
        assert int(batch_size) == config.batch_size
        assert (grad_checkpoint == "yes") == config.grad_checkpoint


def test_the_flags_are_those_of_help_in_its_words() -> None:
    listed = {
        row[0].strip("`"): row
        for row in re.findall(
            r"^\| `(--[\w-]+)` \| (.*?) ?\| (.*) \|$", section("Flags"), flags=re.MULTILINE
        )
    }
    named_below = set(re.findall(r"`(-[\w-]+)`", section("Flags").rpartition("Besides:")[2]))
    flags: set[str] = set()
    for parameter in typer.main.get_command(cli.app).params:
        flags |= set(parameter.opts)
        row = listed.get(parameter.opts[0])
        if row is not None:
            text, _, default = str(getattr(parameter, "help", "")).partition("  [")
            assert row[1:] == (default.rstrip("]"), text)
    assert set(listed) | named_below - {"--no-"} == flags
    assert f"{DEFAULT_EPOCHS} if neither" in GUIDE


def test_every_command_in_the_guide_is_understood() -> None:
    for line in re.findall(r"^    verse train (.*)$", GUIDE, flags=re.MULTILINE):
        arguments = line.split("#")[0].split()
        typer.main.get_command(cli.app).make_context("verse train", arguments)


def test_keys_named_in_the_guide_exist() -> None:
    from verse_trainer.cli import HELP
    from verse_trainer.config_load import resolve_config

    for key in re.findall(r"`([a-z]+_[a-z_]+)`", GUIDE):
        assert key in {*HELP, "lora_parameters", "lr_schedule", "optimizer_config", "hf_dataset"}
    example = {"optimizer_config": {"adamw": {"bias_correction": False}}}
    assert resolve_config(example, {}).notices == ()
