"""The file's content from the court's: one row a poem, in the order of their ranks. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence

from verse.records import Candidate
from verse_clients.judge.court import Court
from verse_clients.judge.ranked import Ranked, RankedPoem, Use, exclusion, mean_scores
from verse_clients.judge.ranking import Place, Rubric, num_comparisons, num_groups, places
from verse_clients.screening import Finding


def assemble(
    poems: Sequence[Candidate],
    filtered: Mapping[str, Finding | None],
    court: Court,
    uses: Mapping[str, Use],
) -> Ranked:
    """Make the ranking of what was said.

    Args:
        poems: All of them, in the order of the files.
        filtered: Why each was left out; None if it was not.
        court: What was said about the others.
        uses: What poems were used for beside being judged.
    """
    standing = places(court.rubric.totals(), court.fitted())
    orders = [each.ranking for each in court.comparisons]
    compared = num_comparisons(orders)
    rows = [
        RankedPoem(candidate=poem, filtered=exclusion(filtered[poem.id]), seen=uses.get(poem.id))
        if poem.id not in standing
        else _row(poem, court.rubric, standing[poem.id], compared[poem.id], uses.get(poem.id))
        for poem in poems
    ]
    reasons = Counter(found.reason for found in filtered.values() if found)
    return Ranked(
        prompts=court.prompts(),
        weights=court.rubric.weights,
        judges=court.summaries(),
        filtered=dict(sorted(reasons.items())),
        notes=tuple(_notes(court, orders)),
        comparisons=tuple(court.comparisons),
        poems=tuple(sorted(rows, key=_by_rank)),
    )


def _row(
    poem: Candidate, rubric: Rubric, place: Place, compared: int, use: Use | None
) -> RankedPoem:
    by_judge = rubric.by_judge(poem.id)
    low, high = place.interval or (None, None)
    return RankedPoem(
        candidate=poem,
        score=round(place.score, 4),
        rank=place.rank,
        rank_low=low,
        rank_high=high,
        disagreement=rubric.disagreement(poem.id),
        total=rubric.total(poem.id),
        rubric=mean_scores(by_judge.values()),
        by_judge=by_judge,
        strength=place.strength,
        num_comparisons=compared,
        seen=use,
    )


def _notes(court: Court, orders: Sequence[Sequence[str]]) -> list[str]:
    notes: list[str] = []
    if court.not_asked:
        notes.append(
            f"A limit was reached: {court.not_asked} questions were not asked; "
            "run again with a higher one to go on."
        )
    if troubles := court.troubles():
        found = ", ".join(f"{count} {name}" for name, count in sorted(troubles.items()))
        notes.append(f"Answers that count for nothing: {found}.")
    if orders and (groups := num_groups(court.contested, orders)) > 1:
        notes.append(
            f"The comparisons fall into {groups} groups that were never compared with each "
            "other; ranks across them rest on the rubric alone."
        )
    return notes


def _by_rank(poem: RankedPoem) -> tuple[bool, bool, int]:
    """Ranked poems first, then those without an answer, then those left out."""
    return (poem.filtered is not None, poem.rank is None, poem.rank or 0)
