"""Options in groups: a command takes a few Structs, its command line has all their fields.

Typer makes one option of each parameter, so a command with thirty options would be a function with
thirty parameters. Here they stand with those they belong to, and travel together. Those that every
command has that asks a server are here too.
"""

import inspect
from collections.abc import Callable, Collection, Iterable
from functools import wraps
from typing import Annotated, Any, NamedTuple, get_type_hints

import msgspec
import typer
from typer.models import OptionInfo


class UsualConcurrency(NamedTuple):
    """Requests at once where the command line does not say; it depends on where the server is."""

    local: int
    remote: int

    def for_server(self, *, is_local: bool) -> int:
        """On this machine, or elsewhere."""
        return self.local if is_local else self.remote


GENERATE_CONCURRENCY = UsualConcurrency(local=32, remote=8)
"""As many rows as `verse serve` has in a batch, on this machine."""
JUDGE_CONCURRENCY = UsualConcurrency(local=4, remote=8)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def flag(help_: str, *names: str, shown: str | bool = True, **how: Any) -> Any:
    """The option of a group's field; it is called like the field unless `names` has a long one.

    Args:
        help_: What the help says.
        names: A short name, and a long one if that is not the field's.
        shown: The default as the help shows it.
        how: What else `typer.Option` takes.
    """
    return typer.Option(*names, help=help_, show_default=shown, **how)


class OptionGroup(msgspec.Struct, kw_only=True):
    """A group of options: each field is one, annotated with a `flag` and with a default."""


class WaitOptions(OptionGroup):
    """How long a server is waited for."""

    wait: Annotated[float, flag("Seconds to wait for a server that is away or busy.", min=0)] = 3600
    timeout: Annotated[float, flag("Seconds for one answer.", min=1)] = 600


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


def repeated(arguments: Iterable[str], names: Collection[str]) -> list[str]:
    """`-p 河 雨` as `-p 河 -p 雨`.

    Args:
        arguments: Of the command line.
        names: Of options that take all words up to the next option.
    """
    spread: list[str] = []
    option, is_value = None, False
    for word in arguments:
        if is_value:
            is_value = False
        elif word.startswith("-"):
            option = word if word in names else None
            is_value = option is not None
        elif option is not None:
            spread.append(option)
        spread.append(word)
    return spread


def requests_at_once(usual: UsualConcurrency) -> Any:
    """The option for requests at once, whose default depends on where the server is."""
    shown = f"{usual.local} on this machine, else {usual.remote}"
    return flag("Requests at once.", min=1, shown=shown)


def _is_group(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, OptionGroup)


def _options(group: type[OptionGroup]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    for field, hint in hints.items():
        option: OptionInfo = hint.__metadata__[0]
        # Typer takes the first name for a default, until it sees that it is in an annotation.
        names = [n for n in (option.default, *(option.param_decls or ())) if isinstance(n, str)]
        if not any(name.startswith("--") for name in names):
            names.append(f"--{field.replace('_', '-')}")
        option.default, option.param_decls = names[0], tuple(names[1:])
    return [_typed(parameter, hints) for parameter in inspect.signature(group).parameters.values()]


def _typed(parameter: inspect.Parameter, hints: dict[str, Any]) -> inspect.Parameter:
    return parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
