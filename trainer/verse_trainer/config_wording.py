"""What msgspec finds wrong with a configuration, in one sentence a poet can use."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, get_args, get_type_hints

import msgspec

from verse_trainer.config import LoraConfig, ScheduleConfig, TrainConfig
from verse_trainer.errors import ConfigError

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
    return ConfigError(f"{key}{place} is no key of verse train{hint}")


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
        return ConfigError(f"{subject} wants {wanted}{got}.")
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
