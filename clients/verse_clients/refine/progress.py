"""How far a round has come: which steps are done, and which comes next. Pure.

A step is done when its last run ended well, with the words the plan has now and the inputs as they
are now, and what it made is still there. What the poet changes by hand in an output counts as an
input of the steps behind it.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from verse_clients.refine.record import Hashes, Ran, RoundRecord
from verse_clients.refine.steps import Step

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


def states(
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


def _state(step: Step, ran: Ran | None, look: Look) -> StepState:
    if not step.commands:
        return StepState(step, "nothing")
    if ran is None:
        return StepState(step, "open")
    if ran.finished is None:
        return StepState(step, "stopped", "it was stopped before its end")
    if ran.exit != 0:
        return StepState(step, "failed", f"exit code {ran.exit}")
    change = _change(step, ran, look)
    return StepState(step, "changed", change) if change else StepState(step, "done")


def _change(step: Step, ran: Ran, look: Look) -> str:
    if ran.commands != tuple(step.lines):
        return "the plan has other words for it now"
    now = look(step.inputs)
    for path, content in now.items():
        if ran.inputs.get(path) != content:
            return f"{path} is another one than it was"
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
