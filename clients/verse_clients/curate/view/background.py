"""What goes on beside the keys: work in other threads, and what the window does now and then.

Tk is touched by the thread that runs the window and by no other: other threads put messages into a
queue, the window takes them out. A fault in one message or one turn is reported as any fault of the
window is, and the next one comes all the same.
"""

import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from tkinter import Misc, TclError
from typing import Any

_POLL_MS = 60


class Background:
    """Runs work beside the window and brings its results back into the window's own thread."""

    def __init__(self, window: Misc) -> None:
        """Begin to listen; ends with the window."""
        self._messages: queue.SimpleQueue[tuple[Callable[[Any], None], Any]] = queue.SimpleQueue()
        repeat(window, _POLL_MS, self._handle_messages)

    def start(self, work: Callable[[], None], name: str) -> None:
        """Run something in a thread that does not keep the program alive."""
        threading.Thread(target=work, daemon=True, name=name).start()

    def deliver(self, handle: Callable[[Any], None]) -> Callable[[Any], None]:
        """A callable for other threads: `handle` gets its argument in the window's thread."""
        return lambda message: self._messages.put((handle, message))

    def _handle_messages(self) -> None:
        # One that raises leaves the others for the next turn.
        while not self._messages.empty():
            handle, message = self._messages.get()
            handle(message)


def repeat(window: Misc, milliseconds: int, work: Callable[[], object]) -> None:
    """Do something at an interval for as long as the window exists, whether or not it raises."""

    def turn() -> None:
        try:
            work()
        finally:
            with suppress(TclError):  # the work closed the program
                if window.winfo_exists():
                    window.after(milliseconds, turn)

    window.after(milliseconds, turn)
