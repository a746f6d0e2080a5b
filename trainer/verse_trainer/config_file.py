"""Reading a configuration file: YAML, or JSON, which is YAML too."""

import re
from pathlib import Path
from typing import Any, cast

import yaml

from verse_trainer.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """Reads `1e-5` as a number, as mlx-lm does, and takes no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose later keys would hide earlier ones is a mistake."""
        names = [str(key.value) for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{name} stands there twice", node.start_mark
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
        raise ConfigError(f"{path} is no configuration: it holds no `key: value` lines.")
    return {str(key): value for key, value in cast(dict[Any, Any], content).items()}


def _place(error: yaml.YAMLError) -> str:
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    return "" if mark is None else f":{mark.line + 1}"


def _problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem:
        return error.problem
    return str(error).splitlines()[0]
