"""What a round has done, and so how far it has come.

`round.json` is written before and after every step, so a kill is seen.

A step is done when its last run ended well, with the commands the plan has now and the inputs as
they are now, and what it made is still there. What the poet changes by hand in an output counts as
an input of the steps behind it.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from verse.atomic_file import replace_file
from verse.records import Moment
from verse_clients.refine.plan import RoundError
from verse_clients.refine.steps import Step, StepName

RECORD_FILE = "round.json"
_BLOCK_BYTES = 1 << 20

Hashes = dict[str, str | None]
"""Path to sha256 of its content; None for a file that is not there."""


class StepRun(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one step."""

    step: StepName
    commands: tuple[str, ...]
    """As one would type them."""
    inputs: Hashes
    """Before it began."""
    outputs: Hashes = {}
    """When it had ended."""
    started: Moment
    finished: Moment | None = None
    """None while it runs, and for ever if it was killed."""
    exit: int | None = None
    """Exit code of the last command that ran."""
    tail: tuple[str, ...] = ()
    """The last lines it wrote to standard error, if it failed."""


class RoundRecord(msgspec.Struct, frozen=True, kw_only=True):
    """All runs, the oldest first."""

    runs: tuple[StepRun, ...] = ()

    def last(self, step: StepName) -> StepRun | None:
        """The latest run of a step; None if it never ran."""
        return next((ran for ran in reversed(self.runs) if ran.step == step), None)

    def with_begun(self, ran: StepRun) -> "RoundRecord":
        """The record with one more run."""
        return RoundRecord(runs=(*self.runs, ran))

    def with_ended(self, ran: StepRun) -> "RoundRecord":
        """The record with the end of its latest run."""
        return RoundRecord(runs=(*self.runs[:-1], ran))


def read_record(folder: Path) -> RoundRecord:
    """Read what a round has done; nothing if it has not begun.

    Raises:
        RoundError: the file holds something else.
    """
    path = folder / RECORD_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=RoundRecord)
    except FileNotFoundError:
        return RoundRecord()
    except OSError as error:
        raise RoundError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise RoundError(
            f"{path} is not the record of a round: {error}; restore it, or move it away to run "
            "the steps again."
        ) from error


def write_record(folder: Path, record: RoundRecord) -> None:
    """Replace the record at once.

    Raises:
        RoundError: the disk refuses.
    """
    path = folder / RECORD_FILE
    try:
        replace_file(path, [msgspec.json.format(msgspec.json.encode(record), indent=1), b"\n"])
    except OSError as error:
        raise RoundError(f"{path} cannot be written: {error.strerror}.") from error


def hashes(paths: Iterable[Path]) -> Hashes:
    """What the files hold now.

    Raises:
        OSError: a file is there and cannot be read.
    """
    return {str(path): _hash(path) for path in paths}


def _hash(path: Path) -> str | None:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
    except FileNotFoundError:
        return None
    return digest.hexdigest()


State = Literal["done", "nothing", "changed", "failed", "stopped", "by hand", "open"]
"""Done; nothing to do in this round; to be done again since something changed; ended with an exit
code; was killed; waits for the poet; not begun."""

Look = Callable[[Iterable[Path]], Hashes]


class Decided(NamedTuple):
    """How far the poet has come with the poems of a round."""

    decided: int
    total: int
    """0 before the poems are there."""


class StepState(NamedTuple):
    """A step and where it stands."""

    step: Step
    state: State
    why: str = ""

    @property
    def is_settled(self) -> bool:
        """Whether the step behind it may begin."""
        return self.state in ("done", "nothing")


def step_states(
    steps: Sequence[Step], record: RoundRecord, look: Look, decided: Decided
) -> list[StepState]:
    """Where each step stands.

    Args:
        steps: As the plan has them now.
        record: What was run.
        look: Gives the hashes of files as they are now.
        decided: How far the poet has come.
    """
    return [
        _by_hand(step, record, decided)
        if step.by_hand
        else _state(step, record.last(step.name), look)
        for step in steps
    ]


def next_step(found: Sequence[StepState]) -> StepState | None:
    """The first step that is not settled; None at the end of the round."""
    return next((state for state in found if not state.is_settled), None)


def _state(step: Step, ran: StepRun | None, look: Look) -> StepState:
    if not step.commands:
        return StepState(step, "nothing")
    if ran is None:
        return StepState(step, "open")
    if ran.finished is None:
        return StepState(step, "stopped", "it was interrupted")
    if ran.exit != 0:
        return StepState(step, "failed", f"exit code {ran.exit}")
    change = _change(step, ran, look)
    return StepState(step, "changed", change) if change else StepState(step, "done")


def _change(step: Step, ran: StepRun, look: Look) -> str:
    if ran.commands != tuple(step.lines):
        return "the plan has another command for it now"
    now = look(step.inputs)
    for path, content in now.items():
        if ran.inputs.get(path) != content:
            return f"{path} has changed"
    gone = [path for path, content in look(step.outputs).items() if content is None]
    return f"{gone[0]} is gone" if gone else ""


def _by_hand(step: Step, record: RoundRecord, decided: Decided) -> StepState:
    progress = f"{decided.decided} of {decided.total} decided"
    if decided.total and decided.decided >= decided.total:
        return StepState(step, "done", progress)
    # Who converts has decided enough; reading on makes `convert` run again.
    if record.last("convert") is not None:
        return StepState(step, "done", f"{progress}, and converted")
    return StepState(step, "by hand", progress)
