"""What a configuration may not ask for, and what is said of a key or value that is wrong."""

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, get_args, get_type_hints

import msgspec

from verse_trainer.config import LoraConfig, ScheduleConfig, TrainConfig, check_schedule
from verse_trainer.errors import ConfigError

_NAMED_COLUMNS = (
    "rows hold `messages`; `verse data import` reads other shapes and `verse data split` "
    "writes the rows."
)
REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "hf_dataset": "Verse reads poems from files; save the data set as JSON Lines and run "
        "`verse data import`.",
        "prompt_feature": _NAMED_COLUMNS,
        "completion_feature": _NAMED_COLUMNS,
        "text_feature": _NAMED_COLUMNS,
        "chat_feature": _NAMED_COLUMNS,
    }
)
"""mlx-lm's keys that have no place here, with what to do instead."""

SERVICES = ("wandb", "swanlab")
"""Where `report_to` can send the figures."""

_ADAM = frozenset({"betas", "eps", "bias_correction"})
OPTIMIZER_ARGUMENTS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "adam": _ADAM,
        "adamw": _ADAM | {"weight_decay"},
        "muon": frozenset({"momentum", "weight_decay", "nesterov", "ns_steps"}),
        "sgd": frozenset({"momentum", "weight_decay", "dampening", "nesterov"}),
        "adafactor": frozenset(
            {
                "eps",
                "clip_threshold",
                "decay_rate",
                "beta_1",
                "weight_decay",
                "scale_parameter",
                "relative_step",
                "warmup_init",
            }
        ),
    }
)
"""Besides the learning rate. Source: mlx/optimizers/optimizers.py; a test compares."""


def check_trust(from_file: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Code that comes with a model runs only if the person at the keyboard says so.

    Raises:
        ConfigError: a file asks for it.
    """
    if from_file.get("trust_remote_code") and "trust_remote_code" not in given:
        raise ConfigError(
            "trust_remote_code runs code that came with the model, so a file cannot switch it on; "
            "give --trust-remote-code."
        )


def check_config(config: TrainConfig) -> None:
    """Refuse what contradicts itself or cannot be done.

    Raises:
        ConfigError: with what to change.
    """
    if not config.train and not config.test:
        raise ConfigError("There is nothing to do: give --train or --test.")
    for key in ("val_batches", "test_batches"):
        if getattr(config, key) == 0:
            raise ConfigError(f"{key} 0 measures nothing; -1 takes the whole set.")
    if config.sample_every is not None and not config.sample_themes:
        raise ConfigError("sample_every needs sample_themes to write on.")
    if config.lr_schedule is not None:
        check_schedule(config.lr_schedule)
    _check_optimizer(config)
    _check_services(config)


def services(config: TrainConfig) -> list[str]:
    """The names in `report_to`."""
    return [name.strip().lower() for name in (config.report_to or "").split(",") if name.strip()]


def _check_optimizer(config: TrainConfig) -> None:
    for optimizer, arguments in config.optimizer_config.items():
        if optimizer not in OPTIMIZER_ARGUMENTS:
            raise unknown_key(f"optimizer_config.{optimizer}", "", OPTIMIZER_ARGUMENTS)
        known = OPTIMIZER_ARGUMENTS[optimizer]
        for argument in arguments:
            if argument not in known:
                raise unknown_key(f"optimizer_config.{optimizer}.{argument}", "", sorted(known))


def _check_services(config: TrainConfig) -> None:
    for name in services(config):
        if name not in SERVICES:
            raise ConfigError(f"report_to {name!r} is unknown; there are {', '.join(SERVICES)}.")
        if find_spec(name) is None:
            raise ConfigError(f"report_to {name} needs its package: pip install {name}")


def unused(config: TrainConfig) -> Iterator[str]:
    """What is asked for and will not be used, one sentence each."""
    for optimizer, arguments in config.optimizer_config.items():
        if arguments and optimizer != config.optimizer:
            yield f"optimizer_config.{optimizer} is not used: the optimizer is {config.optimizer}."
    if config.fine_tune_type == "full" and config.lora_parameters.keys is not None:
        yield "lora_parameters is not used: a full fine-tune has none."
    if config.report_to is None and config.project_name is not None:
        yield "project_name is not used: report_to names no service."


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "array": "a list",
    "object": "keys with values",
    "null": "nothing",
}
_RENAMED = {"lora_layers": "num_layers", "alpha": "lora_parameters.alpha"}
"""mlx-lm's former names, and what is easily put on the wrong level."""
_NESTED: dict[str, type[msgspec.Struct]] = {
    "lora_parameters": LoraConfig,
    "lr_schedule": ScheduleConfig,
}


def unknown_key(key: str, place: str, known: Iterable[str]) -> ConfigError:
    """A key that means nothing, with the nearest that does.

    Args:
        key: With its parents, as in `lora_parameters.rnak`.
        place: ` in FILE`, or nothing.
        known: The keys there are beside it.
    """
    leaf = key.rpartition(".")[2]
    nested = [f"{parent}.{name}" for parent, kind in _NESTED.items() for name in _names(kind)]
    exact = [name for name in nested if name.endswith(f".{leaf}")]
    near = get_close_matches(leaf.replace("-", "_"), list(known), n=1, cutoff=0.5)
    parent = key.rpartition(".")[0]
    nearest = [f"{parent}.{name}" if parent else name for name in near]
    guess = [*([_RENAMED[key]] if key in _RENAMED else []), *exact, *nearest]
    hint = f"; did you mean {guess[0]}?" if guess else "."
    return ConfigError(f"{key}{place} is not a key of verse train{hint}")


def mistake(error: msgspec.ValidationError, place: str) -> ConfigError:
    """A value of the wrong kind or out of range.

    Args:
        error: What msgspec said.
        place: ` in FILE`, or nothing.
    """
    message, _, path = str(error).partition(" - at `$")
    key = path.strip("`").lstrip(".")
    subject = f"{key}{place}"
    if missing := re.search(r"missing required field `(\w+)`", message):
        return ConfigError(f"{subject}: {missing[1]} is missing.")
    if enum := re.search(r"Invalid enum value '(.*)'", message):
        return ConfigError(f"{subject} is {enum[1]!r}; choose {_choices(key)}.")
    if wrong := re.search(r"Expected `(.*?)`(.*?)(?:, got `(.*)`)?$", message):
        wanted = f"{_kinds(wrong[1])}{wrong[2]}"
        got = f", not {_kinds(wrong[3])}" if wrong[3] else ""
        return ConfigError(f"{subject} must be {wanted}{got}.")
    return ConfigError(f"{subject}: {message}.")


def _kinds(types: str) -> str:
    return (
        " or ".join(_KINDS.get(kind, kind) for kind in types.split(" | ") if kind != "null")
        or (_KINDS["null"])
    )


def _choices(key: str) -> str:
    hint: Any = get_type_hints(TrainConfig).get(key)
    return ", ".join(str(choice) for choice in get_args(hint))


def _names(kind: type[msgspec.Struct]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(kind)]
