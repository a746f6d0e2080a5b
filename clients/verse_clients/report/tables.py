"""The figures as tables of text, the same for Markdown and HTML."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from verse_clients.decisions.journal import AcceptanceTally, wilson
from verse_clients.report.figures import Figures, RoundFigures
from verse_clients.report.verdict import Duel, percent_interval

_SHARES = ("decided", "accepted unedited", "accepted after edits", "rejected")


class Table(NamedTuple):
    """A title, a head and rows of as many cells; the first column names, the rest are figures."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]


def tables(figures: Figures) -> list[Table]:
    """All tables of a report, in their order."""
    found = [Table("All decisions", ("", *_SHARES), [_row(figures.overall)])]
    found += [
        Table(f"By {group}", (group, *_SHARES), [_row(tally) for tally in tallies])
        for group, tallies in figures.by.items()
    ]
    found.append(Table("Blind decisions", ("checkpoint", *_SHARES), _rows(figures.verdict.tallies)))
    if figures.verdict.duels:
        found.append(_duels(figures.verdict.duels))
    found.append(_rounds(figures))
    return found


def _rows(tallies: Iterable[AcceptanceTally]) -> list[tuple[str, ...]]:
    return [_row(tally) for tally in tallies]


def _row(tally: AcceptanceTally) -> tuple[str, ...]:
    counts = (tally.accepted, tally.edited, tally.rejected)
    return (tally.name, str(tally.decided), *(_share(count, tally.decided) for count in counts))


def _share(count: int, of: int) -> str:
    """`40 % (34-47 %)`, the interval after Wilson."""
    return f"{count / of:.0%} ({percent_interval(wilson(count, of))})" if of else "-"


def _duels(duels: Sequence[Duel]) -> Table:
    rows = [
        (duel.name, str(duel.won), str(duel.lost), str(duel.tied), percent_interval(duel.interval))
        for duel in duels
    ]
    return Table("Side by side, blind", ("checkpoint", "won", "lost", "tied", "share won"), rows)


def _rounds(figures: Figures) -> Table:
    title = f"By round (the last five columns of {figures.sample_size} poems of each)"
    head = (
        *("round", "written", *_SHARES, "distinct-3", "self-repetition", "same first line"),
        *("copies", "like the poet"),
    )
    return Table(title, head, [_round(one) for one in figures.rounds])


def _round(one: RoundFigures) -> tuple[str, ...]:
    row = (one.name, str(one.num_written), *_row(one.tally)[1:])
    if one.measures is None:
        return (*row, *["-"] * 5)
    of = one.measures
    return (
        *row,
        f"{of.diversity.distinct_3:.3f}",
        f"{of.diversity.self_repetition:.1%}",
        f"{of.diversity.commonest_first_line_share:.1%}",
        f"{of.copy_rate:.1%}",
        f"{of.similarity:.1%}",
    )
