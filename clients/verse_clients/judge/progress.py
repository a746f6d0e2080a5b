"""The count of answers while a run goes on, and the tables at the end."""

from collections.abc import Callable, Iterator

import msgspec
from rich.console import RenderableType
from rich.table import Table

from verse.records import Judgment
from verse_clients.judge.costs import Budget
from verse_clients.judge.metrics import consistency
from verse_clients.judge.ranked import JudgeSummary, Ranked, RankedPoem
from verse_clients.progress import RunProgress, duration

_SHOWN = 10
_LINE_CHARACTERS = 24


class AnswerTally(msgspec.Struct, kw_only=True):
    """Counts the answers of one run."""

    budget: Budget
    now: Callable[[], float]
    """A clock, in seconds."""
    begun: float
    total: int = 0
    """Answers that are to come, those that came among them."""
    done: int = 0
    tokens: int = 0
    troubles: int = 0
    """Answers that could not be used."""

    def expect(self, number: int) -> None:
        """So many more answers will come."""
        self.total += number

    def heard(self, judgment: Judgment) -> None:
        """Count a new answer."""
        self.done += 1
        self.tokens += judgment.prompt_tokens + judgment.completion_tokens
        self.troubles += judgment.outcome != "judged"

    def progress(self) -> RunProgress:
        """For the live line."""
        seconds = self.now() - self.begun
        parts = [
            f"{self.tokens / max(seconds, 0.001):.0f} tokens/s",
            f"${self.budget.cost:.4f}" if self.budget.cost else "",
            f"{self.troubles} not usable" if self.troubles else "",
            f"{duration(seconds * (self.total / self.done - 1))} left" if self.done else "",
        ]
        return RunProgress(self.done, self.total, ", ".join(part for part in parts if part))


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
