"""The one place that writes to the terminal, so that nothing foreign can take it over.

Themes, poems, names of adapters and what servers say come from elsewhere. A terminal obeys some of
their characters: escapes recolour, erase or retype what stands there, and bidi controls let a line
read otherwise than it is. Here they are shown as codes, in tables and sentences alike. The codes
are those of JSON and TOML, so that what is printed for a program stays what it was.
"""

import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

_LINE_CHARACTERS = "\n\t"
_HARMFUL = (
    *(char for char in range(0x20) if chr(char) not in _LINE_CHARACTERS),
    *range(0x7F, 0xA0),  # delete, and the C1 controls: 0x9b begins an escape all alone
    0x061C,
    *range(0x200E, 0x2010),
    *range(0x2028, 0x202F),  # separators of lines and paragraphs, and bidi embeddings
    *range(0x2066, 0x2070),  # bidi isolates, and what came before them
)
_FILE_WIDTH = 160
"""Columns of a table in a file."""
_MAX_WAITING_LINES = 4096
_GATHER_SECONDS = 0.01
_FLUSH_SECONDS = 1.0
"""How long a warning, and the end of the process, wait for the log to take them."""
_CODES = {char: f"\\u{char:04x}" for char in _HARMFUL}


def shown(text: str) -> str:
    """The text with controls, escapes and bidi controls as codes; line ends and tabs stay."""
    return text.replace("\r\n", "\n").translate(_CODES)


def counted(number: float, thing: str) -> str:
    """`1 poem`, `2 poems`, `2 copies`, for a thing in the singular."""
    if number == 1:
        return f"1 {thing}"
    shown_number = f"{number:g}" if isinstance(number, float) else f"{number}"
    is_ies = thing.endswith("y") and thing[-2:-1] not in "aeiou"
    return f"{shown_number} {thing[:-1]}ies" if is_ies else f"{shown_number} {thing}s"


def are(number: int) -> str:
    """`is` for one and `are` for more, behind what is counted."""
    return "is" if number == 1 else "are"


def show(text: object, *, stderr: bool = False) -> None:
    """Print a line, or several; at once, since a command may write to the same terminal next."""
    print(shown(str(text)), file=sys.stderr if stderr else sys.stdout, flush=True)


def show_piece(text: str) -> None:
    """Print a part of a line, at once."""
    print(shown(text), end="", flush=True)


def show_json(value: Any, *, indent: int = 2) -> None:
    """Print a result for a program."""
    show(msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=indent).decode())


def show_parts(parts: "Iterable[RenderableType]") -> None:
    """Print tables, and lines that are never broken: a path or a poem's line stays whole."""
    out = console()
    for part in parts:
        out.print(part, soft_wrap=isinstance(part, str))


def show_line(out: "Console", line: str, style: str | None = None) -> None:
    """Print a line on a console that may also have a live line; it is never broken."""
    out.print(line, style=style, soft_wrap=True)


def console(*, stderr: bool = False, **how: Any) -> "Console":
    """A console for tables and live lines: brackets, colons and numbers are plain text to it.

    Args:
        stderr: Where to write.
        how: What else `rich.console.Console` takes.
    """
    plain = {"markup": False, "highlight": False, "emoji": False}
    return _safe_console()(stderr=stderr, **plain, **how)


class ShownFormatter(logging.Formatter):
    """Lines of a log that goes to the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, with codes for what a terminal would obey."""
        return shown(super().format(record))


class PatientHandler(logging.Handler):
    """Writes a log in a thread: who logs never waits for a stopped terminal, a full pipe or a disk.

    Only a warning waits until it is written, for a second at most: the process may be about to end.
    When nothing is taken for long, lines are left out.
    """

    def __init__(self, descriptor: int = 2) -> None:
        """Begin to wait for lines.

        Args:
            descriptor: Of the file; 2 is standard error.
        """
        super().__init__()
        self._descriptor = descriptor
        self._lines = queue.SimpleQueue[tuple[str, threading.Event | None]]()
        self._num_left_out = 0
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging."""
        if self._lines.qsize() >= _MAX_WAITING_LINES:
            self._num_left_out += 1
            return
        if self._num_left_out:
            self._lines.put((f"{counted(self._num_left_out, 'line')} left out here\n", None))
            self._num_left_out = 0
        self._lines.put((f"{self.format(record)}\n", None))
        if record.levelno >= logging.WARNING:
            self.flush()

    def flush(self) -> None:
        """Wait until all is written, but not for ever."""
        written = threading.Event()
        self._lines.put(("", written))
        written.wait(_FLUSH_SECONDS)

    def _write(self) -> None:
        while True:
            waiting = [self._lines.get()]
            time.sleep(_GATHER_SECONDS)  # in a flood, one call for many lines
            while not self._lines.empty():
                waiting.append(self._lines.get())
            left = "".join(line for line, _ in waiting).encode(errors="backslashreplace")
            with suppress(OSError):  # nobody reads it any more
                while left:
                    left = left[os.write(self._descriptor, left) :]
            for _, written in waiting:
                if written is not None:
                    written.set()


def wide_console() -> "Console":
    """A console for wide tables: as wide as the terminal, or enough where there is none to ask."""
    return console(width=None if sys.stdout.isatty() else _FILE_WIDTH)


@cache
def _safe_console() -> "type[Console]":
    """The class of `console`; rich is imported when a table or a live line is to be drawn."""
    from rich.console import Console
    from rich.segment import Segment
    from rich.text import Text

    class SafeConsole(Console):
        """Shows codes in place of what a terminal would obey, wherever in a renderable it is."""

        def render_str(self, text: str, **how: Any) -> Text:
            """Before it is measured, so that columns are wide enough."""
            return super().render_str(shown(text), **how)

        def render(
            self, renderable: "RenderableType", options: "ConsoleOptions | None" = None
        ) -> "Iterable[Segment]":
            """What is left: texts that a table, a bar or another library made itself."""
            if isinstance(renderable, Text):
                renderable = renderable.copy()
                renderable.plain = shown(renderable.plain)
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else shown(text), style, control)

    return SafeConsole
