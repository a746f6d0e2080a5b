"""`verse`, the one command.

Its sub-commands are Typer apps that the parts register as entry points of the group
`verse.commands`; `adapters.compare` is `verse adapters compare`, in another part than the rest of
`verse adapters`. Only the one that is asked for is imported, so `verse serve` never loads the
clients, and a part that is not installed costs one sentence. Help imports the `cli` modules of all
parts; they import what is heavy when they run.
"""

import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from importlib import metadata
from pathlib import Path
from textwrap import fill
from typing import Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from verse import UserError
from verse.folders import RULE
from verse.terminal import show, shown

_DISTRIBUTION = "verse-workshop"
_GROUP = "verse.commands"
_USER_MISTAKE = 2
_INTERRUPTED = 130
_SUMMARY_LENGTH = 80
_HELP_WIDTH = 80
_COMPLETE = "_VERSE_COMPLETE"
"""The variable through which a shell asks."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `verse`; `arguments` stand in for those of the process.

    Returns:
        The exit code: 0, 2 after a mistake of the user's, which is told in one sentence on
        standard error, 130 after Ctrl-C, or 1 if nobody reads the output any more.
    """
    _show_anything()
    if _COMPLETE in os.environ:
        return _complete([])
    first, *rest = (sys.argv[1:] if arguments is None else list(arguments)) or ["--help"]
    try:
        return _run(first, rest)
    except UserError as error:
        return _tell("\n".join(_sentences(error)))
    except BrokenPipeError:
        _forget_output()
        return 1
    except OSError as error:
        # One that names a file is about the user's disk; any other is a bug of ours.
        if error.filename is None:
            raise
        return _tell(f"{error.filename}: {error.strerror}.")
    except KeyboardInterrupt:
        return _INTERRUPTED


def _forget_output() -> None:
    """Whoever read it has gone, as `head` does; Python would complain once more as it ends."""
    with suppress(OSError), Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _sentences(error: BaseException) -> list[str]:
    """What is to be told: first what was under way when an error came while cleaning up."""
    earlier = _under_way(error)
    before = [] if earlier is None else _sentences(earlier)
    own = [str(error)] if isinstance(error, UserError) else []
    return list(dict.fromkeys([*before, *own]))


def _under_way(error: BaseException) -> BaseException | None:
    """The error that was on its way out; not one that `raise ... from` put into other words."""
    if error.__cause__ is not None:
        return _under_way(error.__cause__)
    return None if error.__suppress_context__ else error.__context__


def _show_anything() -> None:
    """A terminal that cannot show a character gets its code; that is no reason to stop."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _run(first: str, rest: list[str]) -> int:
    if first in ("--help", "-h"):
        show(_help())
        return 0
    if first in ("--install-completion", "--show-completion"):
        return _complete([first, *rest])
    if first == "--version":
        show(f"verse {metadata.version(_DISTRIBUTION)}")
        return 0
    entry_point = _commands().get(first)
    if entry_point is None:
        return _tell(_unknown(first))
    if rest and (nested := _nested(first).get(rest[0])):
        return _run_command(nested, rest[1:])
    return _run_command(entry_point, rest)


def _run_command(entry_point: metadata.EntryPoint, arguments: list[str]) -> int:
    program = f"verse {entry_point.name.replace('.', ' ')}"
    try:
        command = _loaded(entry_point, arguments)
        try:
            ended = command.main(
                args=arguments,
                prog_name=program,
                standalone_mode=False,
                help_option_names=["-h", "--help"],
            )
        except TyperException as mistake:
            return _show_mistake(mistake, command)
    except typer.Abort:
        show("Aborted!", stderr=True)
        return 1
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except ModuleNotFoundError as error:
        if _is_ours(error):
            raise
        part = _part(entry_point)
        return _tell(
            f"{program} needs the {part} part; "
            f"in the folder of Verse run: pip install -e '.[{part}]'"
        )
    return ended if isinstance(ended, int) else 0


def _loaded(entry_point: metadata.EntryPoint, arguments: Sequence[str]) -> Any:
    """The command, and beside its own sub-commands those that other parts put under it."""
    command = typer.main.get_command(entry_point.load())
    if isinstance(command, TyperGroup):
        _list_nested(command, entry_point.name, arguments)
    return command


class _EveryCommand(TyperGroup):
    """What a shell completes: each command is imported when it is its turn."""

    # The signatures are the parser's.
    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return list(_commands())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        entry_point = _commands().get(cmd_name)
        try:
            return None if entry_point is None else _loaded(entry_point, ())
        except ModuleNotFoundError:  # a part that is not installed completes nothing
            return None


def _complete(arguments: list[str]) -> int:
    """Install or show what lets a shell complete, or answer it with what could come next."""
    root = typer.Typer(cls=_EveryCommand, name="verse", rich_markup_mode=None)
    root.callback()(lambda: None)
    try:
        typer.main.get_command(root).main(
            args=arguments, prog_name="verse", complete_var=_COMPLETE, standalone_mode=False
        )
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _show_mistake(mistake: Any, command: Any) -> int:
    """As Typer does where it is the whole program; what was typed may have come from elsewhere."""
    mistake.message = shown(mistake.message)
    if command.rich_markup_mode is None:
        mistake.show()
    else:
        from typer.rich_utils import rich_format_error

        rich_format_error(mistake)
    return mistake.exit_code


def _commands() -> dict[str, metadata.EntryPoint]:
    points = metadata.entry_points(group=_GROUP)
    return {entry_point.name: entry_point for entry_point in points if "." not in entry_point.name}


def _nested(group: str) -> dict[str, metadata.EntryPoint]:
    """What other parts put under a command, by its last word: `compare` for `adapters.compare`."""
    points = metadata.entry_points(group=_GROUP)
    return {
        point.name.split(".")[1]: point for point in points if point.name.startswith(f"{group}.")
    }


def _list_nested(command: TyperGroup, name: str, arguments: Sequence[str]) -> None:
    """Let a group's help list what other parts put under it; a call of one never comes here."""
    if arguments and arguments[0] in command.commands:
        return  # neither help nor a mistyped name: nothing else has to be imported
    for last, entry_point in _nested(name).items():
        app = typer.Typer(add_completion=False)
        app.command(help=_summary(entry_point))(lambda: None)
        command.add_command(typer.main.get_command(app), last)


def _part(entry_point: metadata.EntryPoint) -> str:
    """`server` for `verse_server.cli:app`: the extra that installs what the command needs."""
    return entry_point.module.split(".")[0].removeprefix("verse_")


def _is_ours(error: ModuleNotFoundError) -> bool:
    """Whether a module of Verse itself is missing, which no extra can mend."""
    return (error.name or "").split(".")[0].split("_")[0] == "verse"


def _help() -> str:
    commands = _commands()
    width = max((len(name) for name in commands), default=0)
    return "\n".join(
        [
            "Usage: verse COMMAND [OPTIONS]",
            "",
            "A workshop for one poet's own language model.",
            "",
            "Commands:",
            *(f"  {name:{width}}  {_summary(command)}" for name, command in commands.items()),
            "",
            "`verse COMMAND --help` tells more; `verse --version` prints the version;",
            "`verse --install-completion` lets the shell complete commands and options.",
            "",
            fill(RULE, _HELP_WIDTH),
        ]
    )


def _summary(entry_point: metadata.EntryPoint) -> str:
    try:
        command = typer.main.get_command(entry_point.load())
    except ModuleNotFoundError as error:
        if _is_ours(error):
            raise
        return f"(needs the {_part(entry_point)} part)"
    return command.get_short_help_str(_SUMMARY_LENGTH)


def _unknown(name: str) -> str:
    nearest = get_close_matches(name, _commands(), n=1, cutoff=0.4)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return f"There is no command {name!r}.{hint} `verse --help` lists all."


def _tell(sentence: str) -> int:
    show(sentence, stderr=True)
    return _USER_MISTAKE
