"""`verse`, the one command.

Its sub-commands are Typer apps that the parts register as entry points of the group
`verse.commands`. Only the one that is asked for is imported, so `verse serve` never loads the
clients, and a part that is not installed costs one sentence. Help imports the `cli` modules of all
parts; they import what is heavy when they run.
"""

import io
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import metadata

import typer

from verse.errors import UserError

_DISTRIBUTION = "verse-workshop"
_GROUP = "verse.commands"
_USER_MISTAKE = 2
_INTERRUPTED = 130
_SUMMARY_LENGTH = 80


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `verse`; `arguments` stand in for those of the process.

    Returns:
        The exit code: 0, 2 after a mistake of the user's, which is told in one sentence on
        standard error, or 130 after Ctrl-C.
    """
    _show_anything()
    first, *rest = (sys.argv[1:] if arguments is None else list(arguments)) or ["--help"]
    try:
        return _run(first, rest)
    except UserError as error:
        return _tell("\n".join(_sentences(error)))
    except OSError as error:
        # One that names a file is about the user's disk; any other is a bug of ours.
        if error.filename is None:
            raise
        return _tell(f"{error.filename}: {error.strerror}.")
    except KeyboardInterrupt:
        return _INTERRUPTED


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
        print(_help())
        return 0
    if first == "--version":
        print(f"verse {metadata.version(_DISTRIBUTION)}")
        return 0
    entry_point = _commands().get(first)
    if entry_point is None:
        return _tell(_unknown(first))
    return _run_command(entry_point, rest)


def _run_command(entry_point: metadata.EntryPoint, arguments: list[str]) -> int:
    program = f"verse {entry_point.name}"
    try:
        command = typer.main.get_command(entry_point.load())
        command.main(args=arguments, prog_name=program)
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
    return 0


def _commands() -> dict[str, metadata.EntryPoint]:
    return {entry_point.name: entry_point for entry_point in metadata.entry_points(group=_GROUP)}


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
            "`verse COMMAND --help` tells more; `verse --version` prints the version.",
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
    print(sentence, file=sys.stderr)
    return _USER_MISTAKE
