"""Threads that share out small pieces of work, and sleep in between.

Pieces are taken one by one, so a thread whose core is taken by somebody else holds up one piece and
not its share of all. Nobody spins: beside other load, spinning threads wait for each other in turns
of the scheduler. The caller works too, so with one thread nothing is handed over at all.
"""

import os
import queue
import threading
from collections.abc import Callable, Sequence

Piece = Callable[[], None]
"""Releases the interpreter for most of its time."""


def num_cores() -> int:
    """That this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Run:
    """One list of pieces, and who waits for the last of them."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._left = list(reversed(pieces))
        self._num_pieces = len(pieces)
        self._done: list[None] = []
        self._finished = threading.Lock()
        self._finished.acquire()
        self.errors: list[BaseException] = []

    def work(self) -> bool:
        """Take pieces until none is left; whether all had been done when the last one here was."""
        is_last = False
        while self._left:
            try:
                piece = self._left.pop()
            except IndexError:  # another thread was faster
                break
            try:
                piece()
            except BaseException as error:  # noqa: BLE001  (raised where `run` was called)
                self.errors.append(error)
            self._done.append(None)
            is_last = len(self._done) == self._num_pieces
        return is_last

    def help(self) -> None:
        """Work beside the caller, and wake it when it waits for this."""
        if self.work():
            self._finished.release()

    def finish(self) -> None:
        """Work, and wait for the pieces that others have taken."""
        if not self.work() and len(self._done) < self._num_pieces:
            self._finished.acquire()


class Threads:
    """A caller and its helpers; one caller at a time."""

    def __init__(self, num_threads: int) -> None:
        self.num_threads = num_threads
        self._inbox: queue.SimpleQueue[_Run] = queue.SimpleQueue()
        for _ in range(num_threads - 1):
            threading.Thread(target=self._help, name="cpu-weights", daemon=True).start()

    def run(self, pieces: Sequence[Piece]) -> None:
        """Do all pieces, in any order; raises the first error of any."""
        if self.num_threads == 1 or len(pieces) < 2:
            for piece in pieces:
                piece()
            return
        run = _Run(pieces)
        for _ in range(min(self.num_threads, len(pieces)) - 1):
            self._inbox.put(run)
        run.finish()
        if run.errors:
            raise run.errors[0]

    def _help(self) -> None:
        while True:
            self._inbox.get().help()
