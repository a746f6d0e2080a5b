"""A live line on a terminal, and the table at the end."""

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from verse.records import Judgment
from verse_clients.judge.budget import Budget
from verse_clients.judge.consistency import consistency
from verse_clients.judge.ranked import JudgeSummary, Ranked, RankedPoem

_SHOWN = 10
_LINE_CHARACTERS = 24


class LiveLine:
    """Counts answers until the block ends; what is told stands above it."""

    def __init__(self, console: Console, budget: Budget) -> None:
        """Show nothing yet."""
        self._budget = budget
        self._tokens = 0
        self._troubles = 0
        self._begun = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task("asking", total=0, figures="")
        self._total = 0

    def expect(self, number: int) -> None:
        """So many more answers will come."""
        self._total += number
        self._progress.update(self._task, total=self._total)

    def heard(self, judgment: Judgment) -> None:
        """Count a new answer."""
        self._tokens += judgment.prompt_tokens + judgment.completion_tokens
        self._troubles += judgment.outcome != "judged"
        self._progress.update(self._task, advance=1, figures=self._figures())

    def _figures(self) -> str:
        seconds = time.monotonic() - self._begun
        parts = [
            f"{self._tokens / max(seconds, 0.001):.0f} tokens/s",
            f"${self._budget.cost:.4f}" if self._budget.cost else "",
            f"{self._troubles} not usable" if self._troubles else "",
        ]
        return ", ".join(part for part in parts if part)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()


def tables(ranked: Ranked) -> Iterator[RenderableType]:
    """What a run came to. Where poems come from is not told: the poet decides blind."""
    if ranked.filtered:
        reasons = ", ".join(f"{count} {name}" for name, count in ranked.filtered.items())
        yield f"Left out before judging: {reasons}."
    yield _judges(ranked)
    yield _best(ranked.poems)
    yield from ranked.notes


def outcomes_of(summary: JudgeSummary) -> str:
    """`60 judged, 2 unparsed`."""
    return ", ".join(f"{count} {name}" for name, count in summary.outcomes.items()) or "not asked"


def rank_of(poem: RankedPoem) -> str:
    """`3 (1-7)`, or `3` if it was not compared."""
    if poem.rank is None:
        return "-"
    if poem.rank_low is None or poem.rank_high is None:
        return str(poem.rank)
    return f"{poem.rank} ({poem.rank_low}-{poem.rank_high})"


def _judges(ranked: Ranked) -> Table:
    table = Table("judge", "answers", "tokens", "cost", "picks the first", "by chance", "flips")
    for judge in ranked.judges:
        own = consistency(ranked.comparisons, judge.name)
        tokens = judge.prompt_tokens + judge.completion_tokens
        cost = "unpriced" if judge.cost is None else f"${judge.cost:.4f}"
        table.add_row(
            judge.name,
            outcomes_of(judge),
            str(tokens),
            cost,
            str(own.first_picks),
            f"{own.chance:.0%}" if own.first_picks.total else "-",
            str(own.flips),
        )
    return table


def _best(poems: tuple[RankedPoem, ...]) -> Table:
    table = Table("rank", "score", "theme", "first line")
    for poem in poems[:_SHOWN]:
        first = poem.candidate.text.strip().split("\n")[0][:_LINE_CHARACTERS]
        score = "-" if poem.score is None else f"{poem.score:.2f}"
        table.add_row(rank_of(poem), score, poem.candidate.theme, first)
    return table
