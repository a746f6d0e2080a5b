"""One live line on a terminal; nothing where there is none, so that a log stays short."""

from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

_REFRESHES_PER_SECOND = 4
_BAR_WIDTH = 24


class RunProgress(NamedTuple):
    """How far a run has come."""

    done: int
    total: int
    figures: str
    """Speed, oddities, the time left."""


class LiveLine:
    """Shows how far a run has come until the block ends; what is printed stands above it."""

    def __init__(self, console: Console, progress: Callable[[], RunProgress]) -> None:
        """Show nothing yet; `progress` is asked a few times a second."""
        self._progress = progress
        self._live = Live(
            get_renderable=self._line,
            console=console,
            refresh_per_second=_REFRESHES_PER_SECOND,
            transient=True,
        )
        self._is_shown = console.is_terminal

    def __enter__(self) -> Self:
        if self._is_shown:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._is_shown:
            self._live.stop()

    def _line(self) -> Table:
        done, total, figures = self._progress()
        line = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=max(total, 1), completed=done, width=_BAR_WIDTH)
        line.add_row(f"{done}/{total}", bar, figures)
        return line


def duration(seconds: float) -> str:
    """`0:42`, `12:05` or `3:20:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
