"""Start the training process, pass its messages on, and say what its end means.

The process is in a session of its own, so the terminal's Ctrl-C reaches only this one, which then
asks for an orderly stop with SIGTERM. A second Ctrl-C kills it. Its input stays open while this
process lives: the end of it is how the other notices that this one is gone.
"""

import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import msgspec

from verse_trainer.events import (
    Failed,
    Finished,
    Saved,
    Started,
    TrainMessage,
    TrainRequest,
    decode_message,
)

_COMMAND = (sys.executable, "-m", "verse_trainer.child")
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How the training process ended."""

    exit_code: int
    """Negative: the signal that ended it."""
    stopped_by: signal.Signals | None = None
    """What asked us to stop, if anything did."""
    killed: bool = False
    """Whether it was killed, because a second Ctrl-C came."""


class Stopper:
    """Asks for an orderly stop at the first stop signal; a Ctrl-C after that kills."""

    def __init__(self, ask: Callable[[], None], kill: Callable[[], None]) -> None:
        self._ask, self._kill = ask, kill
        self.stopped_by: signal.Signals | None = None
        self.killed = False

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal."""
        if self.stopped_by is None:
            self.stopped_by = signal.Signals(number)
            self._ask()
        elif number == signal.SIGINT:
            self.killed = True
            self._kill()


def supervise(
    request: TrainRequest,
    on_message: Callable[[TrainMessage], None],
    command: Sequence[str] = _COMMAND,
) -> Ending:
    """Run one request to its end.

    Must be called from the main thread, which is the one that gets signals.

    Args:
        request: What to do.
        on_message: Called with every message, in order, from this thread.
        command: The program to start.
    """
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        stopper = Stopper(process.terminate, process.kill)
        with signals_to(stopper):
            if request.is_rank:
                _stop_with_launcher()
            try:
                for message in _messages(process, request):
                    on_message(message)
                exit_code = process.wait()
            except BaseException:
                process.terminate()  # and leaving the block waits until it has saved
                raise
    return Ending(exit_code=exit_code, stopped_by=stopper.stopped_by, killed=stopper.killed)


def _messages(process: "subprocess.Popen[bytes]", request: TrainRequest) -> Iterator[TrainMessage]:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(msgspec.json.encode(request) + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        return  # it died at once; its exit code tells
    for line in process.stdout:
        yield decode_message(line)


def _stop_with_launcher() -> None:
    """Whoever launched this rank holds a pipe to it, the end of which asks for a stop."""
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        threading.Thread(target=_wait_for_end, daemon=True).start()


def _wait_for_end() -> None:
    while os.read(0, 1 << 10):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def signals_to(handler: Stopper) -> Generator[None]:
    """Let stop signals go there meanwhile."""
    before = {number: signal.signal(number, handler) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


MISTAKE = 2
_SIGNAL_BASE = 128
_BUG = 1


class Seen(msgspec.Struct):
    """What of the messages matters at the end."""

    saved_step: int | None = None
    """From which the run could be resumed."""
    finished: Finished | None = None
    failure: str | None = None

    def note(self, message: TrainMessage) -> None:
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


def exit_status(ending: Ending, seen: Seen) -> tuple[int, str | None]:
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
        return "Stopped immediately; no checkpoint had been saved."
    if ending.killed:
        return f"Stopped immediately; {_go_on(seen.saved_step)}"
    if seen.finished is None:
        return "Stopped before the first step; there was nothing to save."
    step = seen.finished.step
    return f"Stopped and saved at step {step}; continue with the same command and --resume."


def _died(number: int, seen: Seen) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = str(number)
    return (
        f"The training process was killed by {name}, most likely because memory ran out: use a "
        f"smaller --batch-size, --grad-checkpoint or a 4-bit base model; {_go_on(seen.saved_step)}"
    )


def _go_on(saved_step: int | None) -> str:
    if saved_step is None:
        return "no checkpoint had been saved."
    return f"--resume continues from step {saved_step}."
