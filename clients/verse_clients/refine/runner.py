"""Runs the commands of a step as processes of their own, and keeps the end of what they complain.

Standard output goes straight to the terminal, so progress bars live; standard error passes through
here on its way.

`verse train` never writes over an adapter. So a run that was stopped is resumed; one that learned
from other rows, or by other commands, is set aside under another name; and a folder that this round
did not make is left to the poet. `verse generate` asks only for what is missing. So poems for the
comparison are set aside when the adapter that wrote them was trained again, or the plan has other
commands for them.
"""

import shlex
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from verse import UserError
from verse.poem_split import SPLIT_FILE
from verse_clients.refine.plan import RoundError
from verse_clients.refine.record import (
    Hashes,
    RoundRecord,
    StepRun,
    hashes,
    read_record,
    write_record,
)
from verse_clients.refine.steps import Command, Step, shown

_TAIL_LINES = 20
_MAIN = "import sys; from verse.cli import main; sys.exit(main())"

Notify = Callable[[str], None]


class StepFailedError(UserError):
    """A command of a step ended with another exit code than 0."""


class Program(NamedTuple):
    """How `verse` is started."""

    argv: tuple[str, ...] = (sys.executable, "-c", _MAIN)
    keep_open: tuple[int, ...] = ()
    """File handles that a command holds with us, so that it keeps the round locked if we die."""


def run_step(folder: Path, step: Step, program: Program, notify: Notify) -> None:
    """Run a step from its first command to its last, and record it.

    Raises:
        RoundError: a file that it reads is missing, or the record cannot be written.
        StepFailedError: a command ended with another exit code than 0.
    """
    inputs = hashes(step.inputs)
    _check_inputs(step, inputs)
    before = read_record(folder)
    commands, notice = commands_to_run(step, before, inputs)
    if notice:
        notify(notice)
    _make_folders(step, folder)
    begun = StepRun(step=step.name, commands=tuple(step.lines), inputs=inputs, started=_now())
    record = before.with_begun(begun)
    write_record(folder, record)
    exit_code, tail = _run_all(commands, program, notify)
    ended = msgspec.structs.replace(
        begun, finished=_now(), exit=exit_code, tail=tail, outputs=hashes(step.outputs)
    )
    write_record(folder, record.with_ended(ended))
    if exit_code:
        raise StepFailedError(_failure(step, folder, exit_code, tail))


def _check_inputs(step: Step, inputs: Hashes) -> None:
    missing = [path for path, content in inputs.items() if content is None]
    if missing:
        hint = "; `verse data split` makes it" if Path(missing[0]).name == SPLIT_FILE else ""
        raise RoundError(f"The step {step.name} needs {missing[0]}, which does not exist{hint}.")


def _make_folders(step: Step, folder: Path) -> None:
    """Those inside the round; an adapter's folder is the trainer's to make."""
    for path in step.outputs:
        if path.is_relative_to(folder):
            path.parent.mkdir(parents=True, exist_ok=True)


def _run_all(
    commands: Sequence[Command], program: Program, notify: Notify
) -> tuple[int, tuple[str, ...]]:
    for command in commands:
        notify(f"$ {shown(command)}")
        exit_code, tail = _run(command, program)
        if exit_code:
            return exit_code, tail
    return 0, ()


def _run(command: Command, program: Program) -> tuple[int, tuple[str, ...]]:
    with subprocess.Popen(
        [*program.argv, *command], stderr=subprocess.PIPE, pass_fds=program.keep_open
    ) as process:
        try:
            tail = _pass_on(process)
        except KeyboardInterrupt:
            process.wait()  # Ctrl-C reached it too: let it save and end
            raise
    return process.returncode, tail


def _pass_on(process: "subprocess.Popen[bytes]") -> tuple[str, ...]:
    assert process.stderr is not None
    lines: deque[str] = deque(maxlen=_TAIL_LINES)
    for line in process.stderr:
        sys.stderr.buffer.write(line)
        sys.stderr.flush()
        lines.append(line.decode("utf-8", "replace").rstrip())
    return tuple(lines)


def _failure(step: Step, folder: Path, exit_code: int, tail: tuple[str, ...]) -> str:
    said = next((line for line in reversed(tail) if line.strip()), "")
    because = f": {said}" if said else "."
    return (
        f"The step {step.name} of {folder} ended with exit code {exit_code}{because}\n"
        f"What was made stays; `verse refine --round {folder}` goes on from there."
    )


def _now() -> datetime:
    return datetime.now(UTC)


_RUN_FILE = "run.json"
"""The trainer's; without it there is nothing to resume."""

StartMode = Literal["new", "resume", "aside", "foreign"]


def start_mode(
    step: Step, record: RoundRecord, inputs: Hashes, *, is_there: bool, is_run: bool
) -> StartMode:
    """How to run a step that makes an adapter. Pure.

    Args:
        step: As the plan has it now.
        record: What this round has run.
        inputs: What the step reads, as it is now.
        is_there: Whether the folder exists.
        is_run: Whether a training run in it can be resumed.
    """
    if step.adapter is None or not is_there:
        return "new"
    flag = shlex.join(("--adapter-path", str(step.adapter)))
    ours = [ran for ran in record.runs if ran.step == step.name and flag in ran.commands[-1]]
    if not ours:
        return "foreign"
    last = ours[-1]
    same = last.exit != 0 and last.inputs == inputs and last.commands == tuple(step.lines)
    return "resume" if same and is_run else "aside"


def commands_to_run(
    step: Step, record: RoundRecord, inputs: Hashes
) -> tuple[tuple[Command, ...], str]:
    """The commands to run now, and what the poet should know; moves what is outdated aside.

    Raises:
        RoundError: the folder is there and not from this round.
        OSError: something cannot be moved.
    """
    folder = step.adapter
    if folder is None:
        return step.commands, _set_drafts_aside(step, record.last(step.name), inputs)
    is_run = (folder / _RUN_FILE).exists()
    mode = start_mode(step, record, inputs, is_there=folder.exists(), is_run=is_run)
    if mode == "foreign":
        raise RoundError(
            f"{folder} exists already and is not from this round; change new_adapter in the plan."
        )
    if mode == "aside":
        aside = free_name(folder)
        folder.rename(aside)
        return step.commands, f"The earlier {folder} is kept as {aside}."
    if mode == "resume":
        return (*step.commands[:-1], (*step.commands[-1], "--resume")), ""
    return step.commands, ""


def _set_drafts_aside(step: Step, last: StepRun | None, inputs: Hashes) -> str:
    if last is None or (last.inputs == inputs and last.commands == tuple(step.lines)):
        return ""
    notices: list[str] = []
    for draft in filter(Path.exists, step.drafts):
        aside = free_name(draft)
        draft.rename(aside)
        notices.append(f"The earlier {draft} is kept as {aside}.")
    return "\n".join(notices)


def free_name(path: Path) -> Path:
    """Where a file or folder can be set aside, beside it."""
    number = 1
    while (aside := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return aside
