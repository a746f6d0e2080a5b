"""How far judges agree with this poet, with each other and with themselves, in figures and tables.

The tables at the end of a run are here too. They do not say where poems come from: the poet decides
blind.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from statistics import median

import msgspec
from rich.console import RenderableType
from rich.table import Table

from verse.records import JournalEntry
from verse.replay import Replay, is_blind, last_comparisons
from verse.terminal import counted
from verse_clients.judge.metrics import (
    FINAL,
    Consistency,
    Number,
    Rate,
    Scorer,
    blind_verdicts,
    consistency,
    fit_for_agreement,
    length_of,
    plain_kappa,
    scorers,
    spearman,
    total_of,
    totals,
)
from verse_clients.judge.ranked import JudgeSummary, Ranked, RankedPoem

ENOUGH = 50
"""Decisions; with fewer, an AUC of 0.75 has a standard error of more than 0.07."""


_SHOWN = 10
_LINE_CHARACTERS = 24


class JudgeFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What one judge is like, whatever the poet thinks."""

    name: str
    consistency: Consistency
    length: float | None
    """Spearman's correlation of its totals with the poems' lengths."""


class JudgeAgreement(msgspec.Struct, frozen=True, kw_only=True):
    """How far two judges agree."""

    one: str
    other: str
    num_poems: int
    spearman: float | None
    """Of their totals."""
    kappa: float
    """Of "above the judge's own median"."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole report; no scorers if the poet did not both take and reject."""

    num_decisions: int
    """That count."""
    num_taken: int
    num_not_blind: int
    """Poems decided with their source or score in view only."""
    num_used: int
    """Poems decided blind that the judging itself used."""
    num_elsewhere: int
    """Poems decided blind that the ranking does not know or has no score for."""
    filtered_taken: Rate
    """Of the poems the filters left out and the poet decided: those the poet took."""
    scorers: tuple[Scorer, ...] = ()
    judges: tuple[JudgeFigures, ...] = ()
    between: tuple[JudgeAgreement, ...] = ()
    pairs: Rate
    """Of the poems the poet compared side by side: where the ranking says the same."""
    length: float | None
    """Spearman's correlation of the ranking with the poems' lengths."""
    verdict: str
    taste: str

    def scorer(self, name: str) -> Scorer | None:
        """A scorer by its name."""
        return next((scorer for scorer in self.scorers if scorer.name == name), None)


def make_report(ranked: Ranked, entries: Iterable[JournalEntry]) -> Report:
    """Hold a ranking against the poet's decisions."""
    replay = Replay(entries)
    verdicts = blind_verdicts(replay)
    poems = fit_for_agreement(ranked, verdicts)
    taken = [verdicts.taken[poem.candidate.id] for poem in poems]
    filtered = [
        verdicts.taken[poem.candidate.id]
        for poem in ranked.poems
        if poem.filtered and poem.candidate.id in verdicts.taken
    ]
    used = [p for p in ranked.poems if p.seen is not None and p.candidate.id in verdicts.taken]
    found = scorers(ranked, poems, taken)
    return Report(
        num_decisions=len(poems),
        num_taken=sum(taken),
        num_not_blind=len(verdicts.not_blind),
        num_used=len(used),
        num_elsewhere=len(verdicts.taken) - len(poems) - len(filtered) - len(used),
        filtered_taken=Rate(sum(filtered), len(filtered)),
        scorers=found,
        judges=tuple(_figures(ranked, judge.name) for judge in ranked.judges),
        between=tuple(_between(ranked)),
        pairs=_pairs(ranked, replay),
        length=_length_correlation(ranked.poems, lambda poem: poem.score),
        verdict=_verdict(found, len(poems)),
        taste=_taste(found, len(poems)),
    )


def _figures(ranked: Ranked, judge: str) -> JudgeFigures:
    return JudgeFigures(
        name=judge,
        consistency=consistency(ranked.comparisons, judge),
        length=_length_correlation(ranked.poems, total_of(ranked, judge)),
    )


def _length_correlation(poems: Iterable[RankedPoem], number: Number) -> float | None:
    rows = [(value, length_of(p)) for p in poems if (value := number(p)) is not None]
    return spearman([value for value, _ in rows], [length for _, length in rows])


def _between(ranked: Ranked) -> Iterable[JudgeAgreement]:
    for one, other in combinations(totals(ranked).items(), 2):
        both = ((one[1](poem), other[1](poem)) for poem in ranked.poems)
        rows = [(a, b) for a, b in both if a is not None and b is not None]
        if rows:
            firsts, seconds = [a for a, _ in rows], [b for _, b in rows]
            yield JudgeAgreement(
                one=one[0],
                other=other[0],
                num_poems=len(rows),
                spearman=spearman(firsts, seconds),
                kappa=plain_kappa(_above_median(firsts), _above_median(seconds)),
            )


def _above_median(values: Sequence[float]) -> list[bool]:
    middle = median(values)
    return [value > middle for value in values]


def _pairs(ranked: Ranked, replay: Replay) -> Rate:
    ranks: Mapping[str, int] = {
        poem.candidate.id: poem.rank for poem in ranked.poems if poem.rank and poem.seen is None
    }
    same = [
        (ranks[pair.left.id] < ranks[pair.right.id]) == (pair.verdict == "left")
        for pair in last_comparisons(pair for pair in replay.pairs() if is_blind(pair))
        if pair.verdict in ("left", "right")
        if pair.left.id in ranks and pair.right.id in ranks
    ]
    return Rate(sum(same), len(same))


def _verdict(all_: Sequence[Scorer], number: int) -> str:
    found = {scorer.name: scorer.auc for scorer in all_}
    final = found.get(FINAL)
    if final is None:
        return "No result: the decisions must accept some poems of this ranking and reject others."
    if number < ENOUGH:
        return f"Not enough decisions: {number} of {ENOUGH}; these figures may be chance."
    if final.low <= 0.5 <= final.high:
        return (
            f"Ignore this judge: its agreement with the poet (AUC {final}) may be chance; 0.5 is "
            "chance."
        )
    if final.high < 0.5:
        return f"The poet prefers what this judge ranks last: AUC {final}."
    longest = max(found["longest"].value, found["shortest"].value)
    if final.value <= longest:
        return (
            f"Poem length alone predicts the poet's decisions as well (AUC {longest:.2f}) as this "
            f"judge: {final}."
        )
    return f"This judge agrees with the poet: AUC {final}; 0.5 is chance, 1 is perfect."


def _taste(all_: Sequence[Scorer], number: int) -> str:
    criteria = [scorer for scorer in all_ if scorer.kind == "criterion"]
    if not criteria or number < ENOUGH:
        return "It is not known yet which criterion best predicts this poet's decisions."
    best = max(criteria, key=lambda scorer: scorer.auc.value)
    if best.auc.low <= 0.5:
        return "No single criterion predicts this poet's decisions."
    return f"The criterion that best predicts this poet's decisions is {best.name}: AUC {best.auc}."


def report_tables(report: Report) -> Iterator[RenderableType]:
    """The verdict first, then what it rests on."""
    yield report.verdict
    yield _decision_counts(report)
    if report.scorers:
        yield _agreement_table(report)
        yield report.taste
    yield _consistency_table(report)
    for judge in report.judges:
        if judge.consistency.prefers_first:
            picks = judge.consistency
            yield (
                f"{judge.name} ranks the poem shown first as the best in "
                f"{picks.first_picks.share:.0%} of its calls, against "
                f"{picks.chance:.0%} by chance: its comparisons are unreliable."
            )
    if report.between:
        yield _agreement_of_judges(report)
    if report.length is not None:
        yield f"Correlation of rank with poem length: {report.length:+.2f}."
    if report.pairs.total:
        yield f"In side-by-side comparisons the ranking agrees with the poet in {report.pairs}."


def _decision_counts(report: Report) -> str:
    parts = [
        f"{counted(report.num_decisions, 'decision')} counted, "
        f"{report.num_taken} of them accepted the poem."
    ]
    left_out = {
        "not made blind, or before the order shown was recorded": report.num_not_blind,
        "on poems that were used for judging": report.num_used,
        "on poems without a score in this ranking": report.num_elsewhere,
    }
    parts_left_out = ", ".join(f"{number} {why}" for why, number in left_out.items() if number)
    if parts_left_out:
        parts.append(f"Left out: {parts_left_out}.")
    if report.filtered_taken.total:
        filtered = report.filtered_taken
        parts.append(f"The poet accepted {filtered.hits} of {filtered.total} filtered poems.")
    return " ".join(parts)


def _agreement_table(report: Report) -> Table:
    table = Table("agreement with the poet", "", "AUC", "kappa")
    for scorer in report.scorers:
        table.add_row(scorer.name, scorer.kind, str(scorer.auc), str(scorer.kappa))
    return table


def _consistency_table(report: Report) -> Table:
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


def _agreement_of_judges(report: Report) -> Table:
    table = Table("judges", "poems", "Spearman", "kappa")
    for pair in report.between:
        names = f"{pair.one}, {pair.other}"
        table.add_row(names, str(pair.num_poems), _signed(pair.spearman), f"{pair.kappa:.2f}")
    return table


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def ranking_tables(ranked: Ranked) -> Iterator[RenderableType]:
    """What a run came to. Where poems come from is not shown: the poet decides blind."""
    if ranked.filtered:
        reasons = ", ".join(f"{count} {name}" for name, count in ranked.filtered.items())
        yield f"Left out before judging: {reasons}."
    yield _outcome_table(ranked)
    yield _best_table(ranked.poems)
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


def _outcome_table(ranked: Ranked) -> Table:
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


def _best_table(poems: tuple[RankedPoem, ...]) -> Table:
    table = Table("rank", "score", "theme", "first line")
    for poem in poems[:_SHOWN]:
        first = poem.candidate.text.strip().split("\n")[0][:_LINE_CHARACTERS]
        score = "-" if poem.score is None else f"{poem.score:.2f}"
        table.add_row(rank_of(poem), score, poem.candidate.theme, first)
    return table
