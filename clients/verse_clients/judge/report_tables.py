"""A report in words and tables."""

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table

from verse_clients.judge.report import Report


def tables(report: Report) -> Iterator[RenderableType]:
    """The verdict first, then what it rests on."""
    yield report.verdict
    yield _counted(report)
    if report.scorers:
        yield _agreement(report)
        yield report.taste
    yield _judges(report)
    for judge in report.judges:
        if judge.consistency.prefers_first:
            picks = judge.consistency
            yield (
                f"{judge.name} puts the poem shown first in the first place in "
                f"{picks.first_picks.share:.0%} of its calls, by chance it would be "
                f"{picks.chance:.0%}: its comparisons mean little."
            )
    if report.between:
        yield _between(report)
    if report.length is not None:
        yield f"Longer poems rank higher with a correlation of {report.length:+.2f}."
    if report.pairs.total:
        yield f"Side by side, the ranking agrees with the poet in {report.pairs}."


def _counted(report: Report) -> str:
    parts = [f"{report.num_decisions} decisions count, {report.num_taken} of them took the poem."]
    left_out = {
        "not made blind, or before the order shown was recorded": report.num_not_blind,
        "on poems the judging itself used": report.num_used,
        "on poems without a score here": report.num_elsewhere,
    }
    told = ", ".join(f"{number} {why}" for why, number in left_out.items() if number)
    if told:
        parts.append(f"Left out: {told}.")
    if report.filtered_taken.total:
        filtered = report.filtered_taken
        parts.append(f"Of {filtered.total} filtered poems the poet took {filtered.hits}.")
    return " ".join(parts)


def _agreement(report: Report) -> Table:
    table = Table("agreement with the poet", "", "AUC", "kappa")
    for scorer in report.scorers:
        table.add_row(scorer.name, scorer.kind, str(scorer.auc), str(scorer.kappa))
    return table


def _judges(report: Report) -> Table:
    table = Table("judge", "picks the first", "by chance", "flips", "with length")
    for judge in report.judges:
        own = judge.consistency
        table.add_row(
            judge.name,
            str(own.first_picks),
            f"{own.chance:.0%}" if own.first_picks.total else "-",
            str(own.flips),
            _signed(judge.length),
        )
    return table


def _between(report: Report) -> Table:
    table = Table("judges", "poems", "Spearman", "kappa")
    for pair in report.between:
        names = f"{pair.one}, {pair.other}"
        table.add_row(names, str(pair.num_poems), _signed(pair.spearman), f"{pair.kappa:.2f}")
    return table


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"
