"""What a run did and how fast, and what its poems are worth: counts, copies, diversity.

The clock is passed in.
"""

from collections import defaultdict
from collections.abc import Iterable

import msgspec
from rich.box import SIMPLE_HEAD
from rich.table import Table

from verse.records import Candidate
from verse.terminal import are, counted
from verse_clients.measures import Diversity, diversity, equal_samples
from verse_clients.progress import RunProgress, duration
from verse_clients.screening import CopyLimits

_SHOWN_COPIES = 10
_SHOWN_RUN = 24
_SHOWN_LINE = 10
_HOUR_SECONDS = 3600.0


class RunTally(msgspec.Struct, kw_only=True):
    """Counts of one run; poems of earlier runs count in `already` alone."""

    total: int
    """Poems of the plan."""
    already: int = 0
    """Of them, those that were there before."""
    begun: float
    """When the run began, in seconds of the caller's clock."""
    written: int = 0
    tokens: int = 0
    """Of the poems written, as the server counted them."""
    duplicates: int = 0
    copies: int = 0
    """Poems that take over a run worth telling; most of them are not blocked."""
    blocked: int = 0
    cut_off: int = 0
    failed: int = 0
    """Poems the server would not write."""
    on_server: int = 0
    """Poems of a batch that are written and not fetched."""

    def count(self, poem: Candidate) -> None:
        """Take a poem in that is on the disk."""
        self.written += 1
        self.tokens += poem.completion_tokens or 0
        self.duplicates += poem.duplicate_of is not None
        self.copies += poem.copied_from is not None
        self.blocked += poem.blocked is not None
        self.cut_off += poem.finish_reason == "length"

    @property
    def done(self) -> int:
        """Poems of the plan that are on the disk."""
        return self.already + self.written

    def poems_per_hour(self, now: float) -> float:
        """Of this run."""
        return _HOUR_SECONDS * self.written / max(now - self.begun, 1e-9)

    def tokens_per_second(self, now: float) -> float:
        """Of this run."""
        return self.tokens / max(now - self.begun, 1e-9)

    def seconds_left(self, now: float) -> float | None:
        """At the speed so far; None before the first poem."""
        if not self.written:
            return None
        return (self.total - self.done - self.failed) * (now - self.begun) / self.written

    def progress(self, now: float) -> RunProgress:
        """For the live line."""
        left = self.seconds_left(now)
        parts = [
            f"{self.poems_per_hour(now):.0f} poems/h",
            f"{self.tokens_per_second(now):.0f} tokens/s",
            counted(self.duplicates, "duplicate"),
            counted(self.copies, "copy"),
            f"{self.failed} failed" if self.failed else "",
            f"{self.on_server} to be fetched" if self.on_server else "",
            "" if left is None else f"{duration(left)} left",
        ]
        return RunProgress(self.done, self.total, ", ".join(part for part in parts if part))


class GroupFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The poems of one adapter and checkpoint."""

    model: str
    num_poems: int
    duplicates: int
    copies: int
    blocked: int
    """Kept from the judge: copies, duplicates, empty ones."""
    cut_off: int
    mean_characters: float
    diversity: Diversity
    """Of as many poems as the smallest group has, drawn by chance, duplicates among them."""


class CopyLine(msgspec.Struct, frozen=True, kw_only=True):
    """A poem and what it takes from where."""

    id: str
    model: str
    theme: str
    source: str
    run: str
    is_blocked: bool


class RunFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What one run did, and how fast."""

    total: int
    """Poems of the plan."""
    done: int
    """Of them, those on the disk."""
    written: int
    """By this run."""
    failed: int
    seconds: float
    poems_per_hour: float
    tokens_per_second: float
    near: float
    """Edit ratio from which two poems counted as duplicates."""
    limits: CopyLimits
    """From when on a copy was reported, and blocked."""


class GenerationSummary(msgspec.Struct, frozen=True, kw_only=True):
    """All groups, by name, and all copies."""

    run: RunFigures | None
    """None where nothing was written."""
    groups: tuple[GroupFigures, ...]
    copies: tuple[CopyLine, ...]


def summarise(poems: Iterable[Candidate], run: RunFigures | None = None) -> GenerationSummary:
    """Count and measure."""
    by_model: dict[str, list[Candidate]] = defaultdict(list)
    for poem in poems:
        by_model[poem.model].append(poem)
    texts = {model: [p.text for p in group if p.text] for model, group in by_model.items()}
    samples = equal_samples({model: found for model, found in texts.items() if found})
    return GenerationSummary(
        run=run,
        groups=tuple(
            _group(model, by_model[model], samples.get(model, [])) for model in sorted(by_model)
        ),
        copies=tuple(
            _copy_line(p) for model in sorted(by_model) for p in by_model[model] if p.copied_from
        ),
    )


def tables(summary: GenerationSummary) -> list[Table | str]:
    """For a terminal or a file."""
    size = max((group.diversity.num_poems for group in summary.groups), default=0)
    title = (
        f"Diversity of {counted(size, 'poem')} each: distinct runs of 1 to 4 characters, and more"
    )
    return [*_run(summary.run), _counts(summary), _measures(summary, title), *_copies(summary)]


def _group(model: str, poems: list[Candidate], sample: list[str]) -> GroupFigures:
    return GroupFigures(
        model=model,
        num_poems=len(poems),
        duplicates=sum(poem.duplicate_of is not None for poem in poems),
        copies=sum(poem.copied_from is not None for poem in poems),
        blocked=sum(poem.blocked is not None for poem in poems),
        cut_off=sum(poem.finish_reason == "length" for poem in poems),
        mean_characters=sum(len("".join(poem.text.split())) for poem in poems) / len(poems),
        diversity=diversity(sample),
    )


def _copy_line(poem: Candidate) -> CopyLine:
    return CopyLine(
        id=poem.id,
        model=poem.model,
        theme=poem.theme,
        source=poem.copied_from or "",
        run=poem.copied_run,
        is_blocked=poem.blocked == "copy",
    )


def _run(run: RunFigures | None) -> list[str]:
    if run is None:
        return []
    there = f"{run.done} of {counted(run.total, 'poem')} {are(run.done)} done"
    if not run.written:
        return [f"{there}, none of them by this run."]
    return [
        f"{there}, {run.written} of them written in {run.seconds:.1f} s: "
        f"{run.poems_per_hour:.0f} poems/h, {run.tokens_per_second:.0f} tokens/s.",
        thresholds(run.near, run.limits),
    ]


def thresholds(near: float, limits: CopyLimits) -> str:
    """What counts as a duplicate or a copy, in words."""
    return (
        f"Poems that are {near:.0%} similar count as duplicates, {limits.warn} characters in a row "
        f"from a training poem as a copy; a copy of {limits.block} characters, or of "
        f"{limits.share:.0%} of the poem, is blocked."
    )


def _table(title: str | None = None) -> Table:
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    table.add_column("adapter", no_wrap=True)
    return table


def _counts(summary: GenerationSummary) -> Table:
    table = _table()
    for name in ("poems", "duplicates", "copies", "blocked", "cut off", "characters"):
        table.add_column(name, justify="right", no_wrap=True)
    for group in summary.groups:
        counts = (group.num_poems, group.duplicates, group.copies, group.blocked, group.cut_off)
        table.add_row(group.model, *map(str, counts), f"{group.mean_characters:.0f}")
    return table


def _measures(summary: GenerationSummary, title: str) -> Table:
    table = _table(title)
    for name in ("dist-1", "-2", "-3", "-4", "repeated", "packed"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("commonest first line", overflow="ellipsis")
    for group in summary.groups:
        found = group.diversity
        distinct = (found.distinct_1, found.distinct_2, found.distinct_3, found.distinct_4)
        table.add_row(
            group.model,
            *(f"{share:.2f}" for share in distinct),
            f"{found.self_repetition:.1%}",
            f"{found.compression_ratio:.2f}",
            f"{found.commonest_first_line_share:.0%} {found.commonest_first_line[:_SHOWN_LINE]}",
        )
    return table


def _copies(summary: GenerationSummary) -> list[str]:
    lines = [
        f"{copy.model} on {copy.theme} copies {copy.source}: {copy.run[:_SHOWN_RUN] or 'in pieces'}"
        f"{' (blocked)' if copy.is_blocked else ''}"
        for copy in sorted(summary.copies, key=lambda copy: -len(copy.run))[:_SHOWN_COPIES]
    ]
    more = len(summary.copies) - len(lines)
    return lines + ([f"and {counted(more, 'more copy')}"] if more > 0 else [])
