"""Work in other threads: they put messages into a queue, the window takes them out.

Tk is touched by the thread that runs the window and by no other.
"""

import queue
import threading
from collections.abc import Callable
from tkinter import Misc
from typing import Any

_POLL_MS = 60


class Background:
    """Runs work beside the window and brings its results back into the window's own thread."""

    def __init__(self, window: Misc) -> None:
        """Begin to listen; ends with the window."""
        self._window = window
        self._messages: queue.SimpleQueue[tuple[Callable[[Any], None], Any]] = queue.SimpleQueue()
        self._listen()

    def start(self, work: Callable[[], None], name: str) -> None:
        """Run something in a thread that does not keep the program alive."""
        threading.Thread(target=work, daemon=True, name=name).start()

    def deliver(self, handle: Callable[[Any], None]) -> Callable[[Any], None]:
        """A callable for other threads: `handle` gets its argument in the window's thread."""
        return lambda message: self._messages.put((handle, message))

    def _listen(self) -> None:
        while not self._messages.empty():
            handle, message = self._messages.get()
            handle(message)
        self._window.after(_POLL_MS, self._listen)
