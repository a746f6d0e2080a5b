"""A live line on a terminal; nothing but what must be known where there is none."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from verse_clients.generate.tally import Tally

_REFRESHES_PER_SECOND = 4
_BAR_WIDTH = 24


class LiveLine:
    """Shows a tally until the block ends; what is told stands above it."""

    def __init__(self, tally: Tally, console: Console, now: Callable[[], float]) -> None:
        """Show nothing yet; `now` is the tally's clock."""
        self._tally = tally
        self._now = now
        self._live = Live(
            get_renderable=self._line,
            console=console,
            refresh_per_second=_REFRESHES_PER_SECOND,
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
        tally = self._tally
        line = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=max(tally.total, 1), completed=tally.done, width=_BAR_WIDTH)
        line.add_row(f"{tally.done}/{tally.total}", bar, figures_of(tally, self._now()))
        return line


def figures_of(tally: Tally, now: float) -> str:
    """Speed, oddities and the time left."""
    left = tally.seconds_left(now)
    parts = [
        f"{tally.poems_per_hour(now):.0f} poems/h",
        f"{tally.tokens_per_second(now):.0f} tokens/s",
        f"{tally.duplicates} duplicates",
        f"{tally.copies} copies",
        f"{tally.failed} failed" if tally.failed else "",
        "" if left is None else f"{duration(left)} left",
    ]
    return ", ".join(part for part in parts if part)


def duration(seconds: float) -> str:
    """`0:42`, `12:05` or `3:20:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
