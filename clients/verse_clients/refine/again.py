"""What becomes of what a step made when it runs once more.

`verse train` never writes over an adapter. So a run that was stopped is resumed; one that learned
from other rows, or by other words, is set aside under another name; and a folder that this round
did not make is left to the poet.

`verse generate` asks only for what is missing. So poems for the comparison are set aside when the
adapter that wrote them was trained again, or the plan has other words for them.
"""

import shlex
from pathlib import Path
from typing import Literal

from verse_clients.refine.errors import RoundError
from verse_clients.refine.record import Hashes, Ran, RoundRecord
from verse_clients.refine.steps import Command, Step

_RUN_FILE = "run.json"
"""The trainer's; without it there is nothing to resume."""

Way = Literal["new", "resume", "aside", "foreign"]


def way(step: Step, record: RoundRecord, inputs: Hashes, *, is_there: bool, is_run: bool) -> Way:
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
    words = shlex.join(("--adapter-path", str(step.adapter)))
    ours = [ran for ran in record.runs if ran.step == step.name and words in ran.commands[-1]]
    if not ours:
        return "foreign"
    last = ours[-1]
    same = last.exit != 0 and last.inputs == inputs and last.commands == tuple(step.lines)
    return "resume" if same and is_run else "aside"


def commands(step: Step, record: RoundRecord, inputs: Hashes) -> tuple[tuple[Command, ...], str]:
    """The commands to run now, and what the poet should know; moves what is outdated aside.

    Raises:
        RoundError: the folder is there and not from this round.
        OSError: something cannot be moved.
    """
    folder = step.adapter
    if folder is None:
        return step.commands, _set_drafts_aside(step, record.last(step.name), inputs)
    is_run = (folder / _RUN_FILE).exists()
    how = way(step, record, inputs, is_there=folder.exists(), is_run=is_run)
    if how == "foreign":
        raise RoundError(
            f"{folder} is there already and not from this round; give the plan another new_adapter."
        )
    if how == "aside":
        aside = _free_name(folder)
        folder.rename(aside)
        return step.commands, f"What {folder} was before is kept as {aside}."
    if how == "resume":
        return (*step.commands[:-1], (*step.commands[-1], "--resume")), ""
    return step.commands, ""


def _set_drafts_aside(step: Step, last: Ran | None, inputs: Hashes) -> str:
    if last is None or (last.inputs == inputs and last.commands == tuple(step.lines)):
        return ""
    told: list[str] = []
    for draft in filter(Path.exists, step.drafts):
        aside = _free_name(draft)
        draft.rename(aside)
        told.append(f"What {draft} was before is kept as {aside}.")
    return "\n".join(told)


def _free_name(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return aside
