"""One round as a folder: where it is, how far it is, and doing what comes next."""

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import lock_descriptor

from verse.decision_journal import read_journal
from verse.replay import Replay
from verse_clients.decisions.sources import read_items
from verse_clients.refine import runner
from verse_clients.refine.plan import PLAN_FILE, Plan, RoundError, check, read_plan, write_plan
from verse_clients.refine.record import (
    Decided,
    StepState,
    hashes,
    next_step,
    read_record,
    step_states,
)
from verse_clients.refine.runner import Notify, Program
from verse_clients.refine.steps import Step, compared_file, journal_file, queue_file, shown, steps

ROUNDS = Path("rounds")


def newest_round(rounds: Path = ROUNDS) -> Path:
    """The round with the highest number.

    Raises:
        RoundError: there is none.
    """
    found = _numbered(rounds)
    if not found:
        raise RoundError(f"There is no round in {rounds} yet; start one with `verse refine start`.")
    return found[max(found)]


def start_round(plan: Plan, rounds: Path = ROUNDS) -> Path:
    """Begin a round behind those that are there.

    Raises:
        RoundError: the plan says something impossible, or the folder cannot be written.
    """
    check(plan, "The plan")
    folder = rounds / f"{next_number(rounds):02}"
    try:
        folder.mkdir(parents=True)
        write_plan(folder, plan)
    except OSError as error:
        raise RoundError(f"{folder} cannot be written: {error.strerror}.") from error
    return folder


def work_from(root: Path, notify: Notify) -> bool:
    """Work from there, as the paths of a plan want it; returns whether that is another folder."""
    if root.resolve() == Path.cwd():
        return False
    os.chdir(root)
    notify(f"In {root}:")
    return True


def not_begun(rounds: Path = ROUNDS) -> Path | None:
    """The newest round if no step of it ever ran and nothing was decided in it.

    Raises:
        RoundError: its record cannot be read.
    """
    found = _numbered(rounds)
    if not found:
        return None
    folder = found[max(found)]
    return None if read_record(folder).runs or journal_file(folder).exists() else folder


def plan_anew(folder: Path, plan: Plan) -> Path:
    """Give a round that was not begun another plan; returns where the one it had is kept.

    Raises:
        RoundError: the plan says something impossible, or the folder cannot be written.
    """
    check(plan, "The plan")
    aside = runner.free_name(folder / PLAN_FILE)
    try:
        (folder / PLAN_FILE).rename(aside)
        write_plan(folder, plan)
    except OSError as error:
        raise RoundError(f"{folder} cannot be written: {error.strerror}.") from error
    return aside


def next_number(rounds: Path = ROUNDS) -> int:
    """The number of the round that begins next, from 1."""
    return max(_numbered(rounds), default=0) + 1


def earlier_decisions(rounds: Path = ROUNDS) -> tuple[str, ...]:
    """The journals of the rounds that are there, oldest first."""
    journals = [journal_file(folder) for folder in rounds_in(rounds)]
    return tuple(str(path) for path in journals if path.exists())


def rounds_in(rounds: Path) -> list[Path]:
    """All rounds of a folder, the oldest first."""
    found = _numbered(rounds)
    return [found[number] for number in sorted(found)]


def look_at(folder: Path) -> list[StepState]:
    """Where each step of a round stands.

    Raises:
        RoundError: the folder is no round.
    """
    plan = read_plan(folder)
    record = read_record(folder)
    return step_states(steps(plan, folder), record, hashes, _decided(plan, folder))


def advance(folder: Path, program: Program, notify: Notify) -> StepState | None:
    """Do what comes next, step by step, until the poet is needed or the round is over.

    Returns:
        The step that waits for the poet; None at the end of the round.

    Raises:
        RoundError: the folder is no round, or another process works on it.
        StepFailedError: a step failed.
    """
    with _alone(folder, program) as program_here:
        while True:
            state = next_step(look_at(folder))
            if state is None or state.step.by_hand:
                return state
            _announce(state, notify)
            runner.run_step(folder, state.step, program_here, notify)


def run_one(folder: Path, name: str, program: Program, notify: Notify) -> None:
    """Do one step, whatever stands before it; nothing if it is done and nothing changed.

    Raises:
        RoundError: the folder is no round, or another process works on it.
        StepFailedError: the step failed.
    """
    with _alone(folder, program) as program_here:
        state = next(state for state in look_at(folder) if state.step.name == name)
        if state.is_settled:
            notify(f"{name} is already done; nothing has changed since.")
            return
        _announce(state, notify)
        runner.run_step(folder, state.step, program_here, notify)


def invitation(step: Step) -> str:
    """What the poet is asked to do."""
    return f"Now it is your turn: run\n    {shown(step.commands[0])}\nthen `verse refine` again."


def listing(found: Sequence[StepState]) -> str:
    """Where a round stands, for the terminal."""
    lines: list[str] = []
    for state in found:
        why = f"  ({state.why})" if state.why else ""
        lines.append(f"{state.step.name:9} {state.state:8} {state.step.does}{why}")
        lines += [f"            $ {line}" for line in state.step.lines]
    return "\n".join(lines)


def farewell(folder: Path) -> str:
    """What is left to do at the end of a round."""
    return (
        f"{folder} is complete. Compare both adapters blind with\n"
        f"    verse curate {compared_file(folder)}\n"
        "and all rounds with `verse report`; `verse refine start` starts the next one."
    )


def _announce(state: StepState, notify: Notify) -> None:
    because = f" ({state.why})" if state.why else ""
    notify(f"{state.step.name}: {state.step.does}{because}")


@contextmanager
def _alone(folder: Path, program: Program) -> Generator[Program]:
    """Hold the round, also while a command outlives us: it inherits the lock.

    That is why the handle is our own: the lock of a `Journal` dies with the process that took it.
    """
    read_plan(folder)
    handle = os.open(folder / PLAN_FILE, os.O_RDONLY)
    try:
        if not lock_descriptor(handle, blocking=False):
            raise RoundError(f"Another process is working on {folder}; wait for it, or end it.")
        yield program._replace(keep_open=(handle,))
    finally:
        os.close(handle)  # what the command holds stays locked


def _decided(plan: Plan, folder: Path) -> Decided:
    queue, journal = queue_file(plan, folder), journal_file(folder)
    if not queue.exists():
        return Decided(0, 0)
    poems = {item.id for item in read_items([queue])}
    if not journal.exists():
        return Decided(0, len(poems))
    verdicts = Replay(read_journal(journal)).verdicts()
    return Decided(
        len({v.candidate.id for v in verdicts if v.action != "skip"} & poems), len(poems)
    )


def _numbered(rounds: Path) -> dict[int, Path]:
    if not rounds.is_dir():
        return {}
    return {int(path.name): path for path in rounds.iterdir() if _is_round(path)}


def _is_round(path: Path) -> bool:
    return path.name.isdecimal() and (path / PLAN_FILE).is_file()
