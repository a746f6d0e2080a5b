"""Start the training process, pass its messages on, and see that it ends well.

The process is in a session of its own, so the terminal's Ctrl-C reaches only this one, which then
asks for an orderly stop with SIGTERM. A second Ctrl-C kills it. Its input stays open while this
process lives: the end of it is how the other notices that this one is gone.
"""

import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import msgspec

from verse_trainer.messages import Message, Order, decode_message

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


class _Stopper:
    """Passes the first stop signal on as SIGTERM; a Ctrl-C after that kills."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process
        self.stopped_by: signal.Signals | None = None
        self.killed = False

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if self.stopped_by is None:
            self.stopped_by = signal.Signals(number)
            self._process.terminate()
        elif number == signal.SIGINT:
            self.killed = True
            self._process.kill()


def supervise(
    order: Order, on_message: Callable[[Message], None], command: Sequence[str] = _COMMAND
) -> Ending:
    """Run one order to its end.

    Must be called from the main thread, which is the one that gets signals.

    Args:
        order: What to do.
        on_message: Called with every message, in order, from this thread.
        command: The program to start.
    """
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        stopper = _Stopper(process)
        with _signals_to(stopper):
            try:
                for message in _messages(process, order):
                    on_message(message)
                exit_code = process.wait()
            except BaseException:
                process.terminate()  # and leaving the block waits until it has saved
                raise
    return Ending(exit_code=exit_code, stopped_by=stopper.stopped_by, killed=stopper.killed)


def _messages(process: "subprocess.Popen[bytes]", order: Order) -> Iterator[Message]:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(msgspec.json.encode(order) + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        return  # it died at once; its exit code tells
    for line in process.stdout:
        yield decode_message(line)


@contextmanager
def _signals_to(handler: _Stopper) -> Generator[None]:
    before = {number: signal.signal(number, handler) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
