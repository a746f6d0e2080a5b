"""Options in groups: a command takes a few Structs, its command line has all their fields.

Typer makes one option of each parameter, so a command with thirty options would be a function with
thirty parameters. Here they stand with those they belong to, and travel together. Those that every
command has that asks a server are here too.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, get_type_hints

import msgspec
import typer

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


class OptionGroup(msgspec.Struct, kw_only=True):
    """A group of options: each field is one, annotated with `typer.Option` and with a default."""


class WaitOptions(OptionGroup):
    """How long a server is waited for."""

    wait: Annotated[
        float,
        typer.Option("--wait", min=0, help="Seconds to wait for a server that is away or busy."),
    ] = 3600
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="Seconds for one answer.")] = (
        600
    )


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Let the command line have, in place of each group that a command takes, the group's fields.

    Args:
        command: Takes groups, and whatever else Typer knows.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: kind for name, kind in hints.items() if _is_group(kind)}

    @wraps(command)
    def spread(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field: given.pop(field) for field in group.__struct_fields__})
        command(**given)

    parameters = [
        option
        for name, parameter in inspect.signature(command).parameters.items()
        for option in (_options(groups[name]) if name in groups else [_typed(parameter, hints)])
    ]
    setattr(spread, "__signature__", inspect.Signature(parameters))  # noqa: B010
    spread.__annotations__ = {option.name: option.annotation for option in parameters}
    return spread


def requests_at_once(local: int, remote: int) -> Any:
    """The option for requests at once, whose default depends on where the server is."""
    return typer.Option(
        "--concurrency",
        min=1,
        show_default=f"{local} on this machine, else {remote}",
        help="Requests at once.",
    )


def _is_group(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, OptionGroup)


def _options(group: type[OptionGroup]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [_typed(parameter, hints) for parameter in inspect.signature(group).parameters.values()]


def _typed(parameter: inspect.Parameter, hints: dict[str, Any]) -> inspect.Parameter:
    return parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
