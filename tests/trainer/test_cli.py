"""The flags of `verse train`."""

import argparse
from typing import Any, cast

import msgspec
import pytest
import typer
from mlx_lm.lora import CONFIG_DEFAULTS, build_parser
from typer.testing import CliRunner

from verse_trainer import cli, command
from verse_trainer.cli import HELP
from verse_trainer.config import TrainConfig
from verse_trainer.config_checks import REFUSED
from verse_trainer.config_load import resolve_config
from verse_trainer.plan import DEFAULT_EPOCHS

FILE_ONLY = {"lora_parameters", "lr_schedule", "optimizer_config"}


def our_flags() -> set[str]:
    parameters = typer.main.get_command(cli.app).params
    return {flag for parameter in parameters for flag in parameter.opts + parameter.secondary_opts}


def their_flags() -> list[argparse.Action]:
    return [action for action in build_parser()._actions if action.dest != "help"]


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command was called with."""
    calls: dict[str, Any] = {}

    def run_command(config: str | None, flags: dict[str, Any], **rest: Any) -> int:
        calls.update({k: v for k, v in flags.items() if v is not None}, config=config, **rest)
        return 0

    monkeypatch.setattr(command, "run_command", run_command)
    return calls


def test_every_flag_of_mlx_lm_is_there_by_its_name() -> None:
    theirs = {flag for action in their_flags() for flag in action.option_strings}
    assert theirs <= our_flags()


def test_every_key_of_mlx_lm_is_read_or_refused_by_name() -> None:
    known = {field.name for field in msgspec.structs.fields(TrainConfig)} | {"config"}
    assert set(CONFIG_DEFAULTS) <= known
    assert not set(REFUSED) & known


def test_mlx_lms_own_defaults_are_a_configuration() -> None:
    config = resolve_config({**CONFIG_DEFAULTS, "train": True}, {}).config
    assert config.iters == 1000
    assert config.lora_parameters.scale == 20.0


def test_every_key_has_a_flag_unless_it_holds_more_than_one_value() -> None:
    for field in msgspec.structs.fields(TrainConfig):
        flag = f"--{field.name.replace('_', '-')}"
        assert (flag in our_flags()) == (field.name not in FILE_ONLY)
    assert set(HELP) == {f.name for f in msgspec.structs.fields(TrainConfig)} - FILE_ONLY


def test_a_command_line_of_mlx_lm_is_taken_with_the_same_values(received: dict[str, Any]) -> None:
    line: list[str] = []
    for action in their_flags():
        flag = action.option_strings[-1]
        if action.nargs == 0:
            line.append(flag)
        else:
            choices = cast(list[str] | None, action.choices)
            examples: dict[Any, str] = {int: "7", float: "2e-5"}
            value = choices[-1] if choices else examples.get(action.type, "2")
            line += [flag, value]
    theirs = vars(build_parser().parse_args(line))
    result = CliRunner().invoke(cli.app, line)
    assert result.exit_code == 0, result.output
    theirs["clear_cache_threshold"] = str(theirs["clear_cache_threshold"])  # read with its unit
    assert {key: received[key] for key in theirs} == theirs


def test_a_flag_that_is_not_given_hides_nothing(received: dict[str, Any]) -> None:
    assert CliRunner().invoke(cli.app, ["-c", "a.yaml"]).exit_code == 0
    assert received == {
        "config": "a.yaml",
        "as_json": False,
        "dry_run": False,
        "machines": None,
    }


def test_switches_can_be_turned_off_and_lists_given_piece_by_piece(
    received: dict[str, Any],
) -> None:
    line = ["--no-mask-prompt", "--no-train", "--sample-themes", "河", "--sample-themes", "灯"]
    assert CliRunner().invoke(cli.app, line).exit_code == 0
    assert received["mask_prompt"] is False
    assert received["train"] is False
    assert received["sample_themes"] == ["河", "灯"]
    flags = {"sample_themes": received["sample_themes"]}
    assert resolve_config({}, flags).config.sample_themes == ("河", "灯")


@pytest.mark.parametrize(
    "line", [["--batch-size", "two"], ["--fine-tune-type", "lore"], ["--batchsize", "2"]]
)
def test_what_a_flag_cannot_be_ends_with_code_2(line: list[str], received: dict[str, Any]) -> None:
    result = CliRunner().invoke(cli.app, line)
    assert result.exit_code == 2
    assert not received


def test_help_shows_the_defaults() -> None:
    text = " ".join(CliRunner().invoke(cli.app, ["--help"]).output.split())
    assert "Rows per step. [2]" in text
    assert "[河 母亲 灯]" in text
    assert "verse-tiny" in text
    assert f"Passes over the rows; {DEFAULT_EPOCHS} if neither this nor iters is given." in text
