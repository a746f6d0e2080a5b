"""From a YAML file's keys and the command line's flags to one TrainConfig with nothing left open.

A flag wins over the file and the file over the default, each key for itself; mlx_lm.lora lets some
of its flags' defaults hide the file. What had to be decided between two values becomes a notice.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

import msgspec
import yaml

from verse.folders import found, own
from verse_trainer import config_checks
from verse_trainer.config import LoraConfig, Positive, ScheduleConfig, TrainConfig
from verse_trainer.config_checks import mistake, unknown_key
from verse_trainer.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """Reads `1e-5` as a number, as mlx-lm does, and takes no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose later keys would hide earlier ones is a mistake."""
        names = [str(key.value) for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{name} is given twice", node.start_mark
                )
        return cast(dict[Any, Any], super().construct_mapping(node, deep))


# YAML 1.1 wants a point in the mantissa and a sign in the exponent; people write 1e-5.
_Loader.add_implicit_resolver(  # pyright: ignore[reportUnknownMemberType]
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read_config_file(path: Path) -> dict[str, Any]:
    """The keys of a file and their values, as they stand there.

    Raises:
        ConfigError: the file is missing, is no YAML or holds no keys; names file and line.
    """
    try:
        content = yaml.load(path.read_text("utf-8-sig"), _Loader)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a text file in UTF-8.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}{_place(error)} is not YAML: {_problem(error)}.") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is not a configuration: it has no `key: value` lines.")
    return {str(key): value for key, value in cast(dict[Any, Any], content).items()}


def _place(error: yaml.YAMLError) -> str:
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    return "" if mark is None else f":{mark.line + 1}"


def _problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem:
        return error.problem
    return str(error).splitlines()[0]


_FIELDS = {field.name: field for field in msgspec.structs.fields(TrainConfig)}
_NULL_IS_NONE = frozenset(
    name for name, field in _FIELDS.items() if type(None) in get_args(field.type)
)
_BYTES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}

Keys = dict[str, Any]


class ResolvedConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration and what its reader should know of how it came about."""

    config: TrainConfig
    notices: tuple[str, ...] = ()
    """One sentence each."""


class _LoraKeys(LoraConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`lora_parameters` as people write it: PEFT's `alpha` for, or beside, `scale`."""

    scale: Positive | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    alpha: Positive | None = None


class _LoraFile(msgspec.Struct):
    """Gives errors the path a reader knows."""

    lora_parameters: _LoraKeys


def resolve_config(
    file_keys: Mapping[str, Any], flags: Mapping[str, Any], file: str = ""
) -> ResolvedConfig:
    """Decide every key.

    Args:
        file_keys: As the file has them; a null stands for the default.
        flags: Those that were given, by their key.
        file: Its name, for errors.

    Raises:
        ConfigError: a key means nothing, or its value is of the wrong kind or impossible.
    """
    place = f" in {file}" if file else ""
    notices: list[str] = []
    from_file = _without_nulls(_known(file_keys, place, notices))
    given = {key: value for key, value in flags.items() if value is not None}
    config_checks.check_trust(from_file, given)
    _settle_length(from_file, given, notices)
    _settle_rate(from_file, given, notices)
    if "lora_parameters" in from_file:
        from_file["lora_parameters"] = _settle_lora(from_file["lora_parameters"], place, notices)
    _decode(from_file, place)  # alone first, so that an error names the right place
    config = _decode({**_usual_folders(), **from_file, **given}, "")
    config_checks.check_config(config)
    return ResolvedConfig(config=config, notices=(*notices, *config_checks.unused(config)))


def _usual_folders() -> Keys:
    """Where rows are read and adapters go if nothing says so."""
    usual = TrainConfig()
    return {"data": str(found(usual.data)), "adapter_path": str(own(usual.adapter_path))}


def _known(file_keys: Mapping[str, Any], place: str, notices: list[str]) -> Keys:
    """The keys without those of mlx-lm that Verse refuses, each checked for its spelling."""
    keys = dict(file_keys)
    if keys.pop("config", None) is not None:
        notices.append(f"`config`{place} names the file it was made from; it is ignored.")
    for key, value in list(keys.items()):
        if key in config_checks.REFUSED:
            if value is not None:
                raise ConfigError(f"{key}{place} cannot be used: {config_checks.REFUSED[key]}")
            del keys[key]
        elif key not in _FIELDS:
            raise unknown_key(key, place, _FIELDS)
    for parent, kind in (("lora_parameters", _LoraKeys), ("lr_schedule", ScheduleConfig)):
        _check_names(keys.get(parent), parent, kind, place)
    return keys


def _check_names(value: Any, parent: str, kind: type[msgspec.Struct], place: str) -> None:
    if isinstance(value, dict):
        known = [field.name for field in msgspec.structs.fields(kind)]
        for key in cast(Keys, value):
            if key not in known:
                raise unknown_key(f"{parent}.{key}", place, known)


def _without_nulls(keys: Keys) -> Keys:
    """A null is the default, or None where None means something of its own."""
    kept = {k: v for k, v in keys.items() if v is not None or k in _NULL_IS_NONE}
    for parent in ("lora_parameters", "lr_schedule"):
        if isinstance(value := kept.get(parent), dict):
            kept[parent] = {k: v for k, v in cast(Keys, value).items() if v is not None}
    if isinstance(kept.get("optimizer_config"), dict):
        options = cast(Keys, kept["optimizer_config"])
        kept["optimizer_config"] = {name: value or {} for name, value in options.items()}
    return kept


def _settle_length(from_file: Keys, given: Keys, notices: list[str]) -> None:
    """`iters` wins over `epochs`, but what was typed wins over what stood in the file."""
    if given.get("epochs") and not given.get("iters") and from_file.pop("iters", None):
        notices.append("--epochs takes precedence over the file's iters.")
    if any(keys.get("iters") and keys.get("epochs") for keys in (given, from_file)):
        notices.append("Both iters and epochs are given; iters takes precedence.")
    if given.get("iters") or from_file.get("iters"):
        given.pop("epochs", None)
        from_file.pop("epochs", None)


def _settle_rate(from_file: Keys, given: Keys, notices: list[str]) -> None:
    """A schedule has its own first rate, which in mlx-lm hides `learning_rate`."""
    schedule = from_file.get("lr_schedule")
    arguments = cast(Keys, schedule).get("arguments") if isinstance(schedule, dict) else None
    if not isinstance(arguments, list) or not arguments:
        return
    first, *rest = cast(list[Any], arguments)
    if (typed := given.get("learning_rate")) is not None:
        from_file["lr_schedule"] = {**cast(Keys, schedule), "arguments": [typed, *rest]}
        notices.append(f"lr_schedule starts from --learning-rate {typed:g}, not from {first}.")
    elif (written := from_file.get("learning_rate")) is not None and written != first:
        notices.append(f"lr_schedule starts from {first}; learning_rate {written} is not used.")


def _settle_lora(value: Any, place: str, notices: list[str]) -> Keys:
    """mlx-lm multiplies by `scale`; PEFT's `alpha` is that times the rank."""
    try:
        keys = msgspec.convert({"lora_parameters": value}, _LoraFile).lora_parameters
    except msgspec.ValidationError as error:
        raise mistake(error, place) from error
    settled = {name: getattr(keys, name) for name in ("rank", "dropout", "keys")}
    if keys.alpha is None:
        return settled if keys.scale is None else {**settled, "scale": keys.scale}
    implied = keys.alpha / keys.rank
    alpha = f"alpha {keys.alpha:g} over rank {keys.rank}"
    if keys.scale is None:
        notices.append(f"lora_parameters has no scale; {alpha} makes it {implied:g}.")
    elif keys.scale != implied:
        notices.append(
            f"lora_parameters: scale {keys.scale:g} is used; {alpha} would be {implied:g}."
        )
    return {**settled, "scale": implied if keys.scale is None else keys.scale}


def _decode(keys: Keys, place: str) -> TrainConfig:
    keys = dict(keys)
    if keys.get("patience") == 0:  # a flag cannot say null
        keys["patience"] = None
    if isinstance(size := keys.get("clear_cache_threshold"), str):
        keys["clear_cache_threshold"] = _num_bytes(size, place)
    try:
        return msgspec.convert(keys, TrainConfig)
    except msgspec.ValidationError as error:
        raise mistake(error, place) from error


def _num_bytes(size: str, place: str) -> int:
    """`2GB`, as mlx-lm takes it."""
    parsed = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([kmg]?)b?", size.strip().lower())
    if parsed is None:
        raise ConfigError(f"clear_cache_threshold{place} is {size!r}; write it as 2GB or 500MB.")
    return round(float(parsed[1]) * _BYTES[parsed[2]])
