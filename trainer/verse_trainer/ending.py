"""What the end of the training process means: an exit code and, where there is one, a sentence."""

import signal

import msgspec

from verse_trainer.events import Saved, Started
from verse_trainer.messages import Failed, Finished, Message
from verse_trainer.supervision import Ending

MISTAKE = 2
_SIGNAL_BASE = 128
_BUG = 1


class Seen(msgspec.Struct):
    """What of the messages matters at the end."""

    saved_step: int | None = None
    """From which the run could be resumed."""
    finished: Finished | None = None
    failure: str | None = None

    def note(self, message: Message) -> None:
        """Take in one more."""
        match message:
            case Started():
                self.saved_step = message.start_step or None
            case Saved():
                self.saved_step = message.step
            case Finished():
                self.finished = message
            case Failed():
                self.failure = message.sentence
            case _:
                pass


def verdict(ending: Ending, seen: Seen) -> tuple[int, str | None]:
    """(exit code, sentence for the user)."""
    if seen.failure is not None:
        return MISTAKE, seen.failure
    if seen.finished is not None and seen.finished.reason != "interrupted":
        return 0, None
    if ending.stopped_by is not None:
        return _SIGNAL_BASE + ending.stopped_by, _stopped(ending, seen)
    if ending.exit_code < 0:
        return MISTAKE, _died(-ending.exit_code, seen)
    if seen.finished is not None:  # someone stopped the training process itself
        return _SIGNAL_BASE + signal.SIGTERM, _stopped(ending, seen)
    return (_BUG if ending.exit_code else 0), None


def _stopped(ending: Ending, seen: Seen) -> str:
    if ending.killed and seen.saved_step is None:
        return "Stopped at once; no checkpoint had been saved."
    if ending.killed:
        return f"Stopped at once; {_go_on(seen.saved_step)}"
    if seen.finished is None:
        return "Stopped before the first step; there was nothing to save."
    return (
        f"Stopped and saved at step {seen.finished.step}; go on with the same command and --resume."
    )


def _died(number: int, seen: Seen) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = str(number)
    return (
        f"The training process was ended by signal {name}, most likely for want of memory: take a "
        f"smaller --batch-size, --grad-checkpoint or a base of 4 bits; {_go_on(seen.saved_step)}"
    )


def _go_on(saved_step: int | None) -> str:
    if saved_step is None:
        return "no checkpoint had been saved."
    return f"with --resume it goes on from step {saved_step}."
