"""What log-probabilities say of poems: four measures, standardised over a run. Pure.

    theme_adherence  by how much likelier a poem is under its own theme than under others of the run
    fluency          its log-probability under the base
    voice            by how much likelier the adapter that wrote it finds it than the base does
    surprise         how far its lines are from the commonest: one less the mean likeness of a line
                     to the lines of other poems that are most like it

The first three are means over tokens, in nats. A line's tokens depend on each other, so what a mean
is worth is drawn from whole lines; where there are few, from tokens. Standardised means in standard
deviations of the run's poems. The mean of the measures a poem has, standardised once more and read
from the normal distribution, is its total from 0 to 5.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, cast

import numpy as np
import scipy.stats
from numpy.typing import NDArray
from rapidfuzz import fuzz, process

from verse.records import Candidate, LikelihoodMeasure, LikelihoodScores
from verse.similarity import comparison_key
from verse_clients.judge.ranked import HIGHEST, MEASURES, Interval, StandardScores

_stats = cast(Any, scipy.stats)  # has no types

DRAWS = 200
_FEW_LINES = 3
_COMMONEST = 3
"""Lines of other poems that a line is held against: those most like it."""
_MOST_LINES = 2000
"""Of a run's, that others are held against; more are drawn by lot."""
_BOUNDS = (2.5, 97.5)
_Z = 1.96
_DIGITS = 4
"""Beyond them a sum depends on how a machine adds up."""

Floats = NDArray[np.float64]
Measures = Mapping[str, LikelihoodMeasure | None]


class LineScores(NamedTuple):
    """What one model said of a poem's tokens under one prompt."""

    logprobs: tuple[float, ...]
    lines: tuple[int, ...]
    """The line that each token is in, from 0."""


def scores_of(
    own: LineScores, others: Sequence[LineScores], adapter: LineScores | None, seed: int
) -> LikelihoodScores:
    """The measures of a poem that no other poem is needed for.

    Args:
        own: The base's, under the poem's theme.
        others: The base's, under other themes; none if the run has only one.
        adapter: The writer's own, under the poem's theme; None if it was the base, or is gone.
        seed: Of the bootstrap.
    """
    base = np.array(own.logprobs)
    contrast = np.mean([other.logprobs for other in others], axis=0) if others else None
    return LikelihoodScores(
        theme_adherence=None if contrast is None else _mean(base - contrast, own.lines, seed),
        fluency=_mean(base, own.lines, seed),
        voice=None
        if adapter is None
        else _mean(np.array(adapter.logprobs) - base, own.lines, seed),
    )


def surprises(poems: Sequence[Candidate], seed: int) -> dict[str, LikelihoodMeasure]:
    """How far each poem's lines are from the commonest of the others, 0 to 1, by id."""
    lines = [_lines(poem.text) for poem in poems]
    all_lines = [(line, number) for number, own in enumerate(lines) for line in own]
    rng = np.random.default_rng(seed)
    if len(all_lines) > _MOST_LINES:
        chosen: list[int] = rng.choice(len(all_lines), _MOST_LINES, replace=False).tolist()
        all_lines = [all_lines[number] for number in sorted(chosen)]
    owners = np.array([number for _, number in all_lines])
    texts = [line for line, _ in all_lines]
    return {
        poem.id: _distance(own, texts, owners != number, rng)
        for number, (poem, own) in enumerate(zip(poems, lines, strict=True))
    }


def standardised(
    scores: Mapping[str, LikelihoodScores], surprise: Mapping[str, LikelihoodMeasure]
) -> dict[str, StandardScores]:
    """All measures of all poems in standard deviations of the run, and the totals, by id."""
    ids = list(scores)
    rows: list[Measures] = [{**_fields(scores[id_]), "surprise": surprise[id_]} for id_ in ids]
    z, errors = np.empty((len(ids), len(MEASURES))), np.empty((len(ids), len(MEASURES)))
    for column, name in enumerate(MEASURES):
        z[:, column], errors[:, column] = _column([row[name] for row in rows])
    totals = _totals(z)
    return {
        id_: StandardScores(
            **{name: _interval(z[row, n], errors[row, n]) for n, name in enumerate(MEASURES)},
            total=round(float(totals[row]), _DIGITS),
        )
        for row, id_ in enumerate(ids)
    }


def rank_intervals(scores: Mapping[str, StandardScores], seed: int) -> dict[str, tuple[int, int]]:
    """Where each poem's rank lies with 95 % confidence, its rank included, by id."""
    ids = list(scores)
    if not ids:
        return {}
    values = [[getattr(scores[id_], name) for name in MEASURES] for id_ in ids]
    z = np.array([[np.nan if v is None else v[0] for v in row] for row in values])
    errors = np.array([[0.0 if v is None else (v[2] - v[0]) / _Z for v in row] for row in values])
    rng = np.random.default_rng(seed)
    drawn = np.stack([_ranks(_totals(z + errors * rng.normal(size=z.shape))) for _ in range(DRAWS)])
    low, high = np.percentile(drawn, _BOUNDS, axis=0)
    own = _ranks(np.array([scores[id_].total for id_ in ids]))
    lows, highs = np.minimum(np.floor(low), own), np.maximum(np.ceil(high), own)
    return {id_: (int(lows[n]), int(highs[n])) for n, id_ in enumerate(ids)}


def lines_of_tokens(text: str, offsets: Sequence[int]) -> tuple[int, ...]:
    """The line that each token is in, from 0.

    Args:
        text: What the tokens spell, and perhaps something before.
        offsets: Where each token begins in it.
    """
    breaks = list(accumulate(int(char == "\n") for char in text))
    first = breaks[offsets[0]] if offsets and text else 0
    return tuple(breaks[min(place, len(breaks) - 1)] - first for place in offsets)


def _fields(scores: LikelihoodScores) -> dict[str, LikelihoodMeasure | None]:
    return {
        "theme_adherence": scores.theme_adherence,
        "fluency": scores.fluency,
        "voice": scores.voice,
    }


def _mean(values: Floats, lines: Sequence[int], seed: int) -> LikelihoodMeasure:
    """The mean over tokens, with what it would be in poems of the same lines, drawn anew."""
    groups = np.array(lines) if len(set(lines)) >= _FEW_LINES else np.arange(len(values))
    sizes = np.bincount(groups).astype(np.float64)
    sums = np.bincount(groups, weights=values).astype(np.float64)
    return _bootstrap(sums[sizes > 0], sizes[sizes > 0], np.random.default_rng(seed))


def _bootstrap(sums: Floats, sizes: Floats, rng: np.random.Generator) -> LikelihoodMeasure:
    chosen = rng.integers(len(sums), size=(DRAWS, len(sums)))
    drawn = sums[chosen].sum(axis=1) / sizes[chosen].sum(axis=1)
    return LikelihoodMeasure(
        value=round(float(sums.sum() / sizes.sum()), _DIGITS),
        error=round(float(drawn.std()), _DIGITS),
    )


def _lines(text: str) -> list[str]:
    return [key for line in text.splitlines() if (key := comparison_key(line))]


def _distance(
    own: Sequence[str], texts: Sequence[str], of_others: NDArray[np.bool_], rng: np.random.Generator
) -> LikelihoodMeasure:
    """Mean over a poem's characters; 1 where there is nothing to be like."""
    if not own or not of_others.any():
        return LikelihoodMeasure(value=1.0, error=0.0)
    table = process.cdist(own, texts, scorer=fuzz.ratio, dtype=np.float32)[:, of_others] / 100
    nearest = np.sort(table, axis=1)[:, -_COMMONEST:].mean(axis=1).astype(np.float64)
    sizes = np.array([len(line) for line in own], dtype=np.float64)
    return _bootstrap((1 - nearest) * sizes, sizes, rng)


def _column(values: Sequence[LikelihoodMeasure | None]) -> tuple[Floats, Floats]:
    """Values and errors in standard deviations; nan where there is none, 0 where all are equal."""
    found = np.array([np.nan if value is None else value.value for value in values])
    errors = np.array([0.0 if value is None else value.error for value in values])
    known = found[~np.isnan(found)]
    spread = float(known.std()) if len(known) else 0.0
    if not spread:
        return np.where(np.isnan(found), np.nan, 0.0), np.zeros_like(errors)
    return (found - known.mean()) / spread, errors / spread


def _interval(z: float, error: float) -> Interval | None:
    if np.isnan(z):
        return None
    low, high = z - _Z * error, z + _Z * error
    return (
        round(float(z), _DIGITS),
        round(float(low), _DIGITS),
        round(float(high), _DIGITS),
    )


def _totals(z: Floats) -> Floats:
    """0 to 5 from (poems, measures) in standard deviations; what a poem lacks counts nothing."""
    means = np.where(np.isnan(z), 0.0, z).sum(axis=1) / np.maximum(1, (~np.isnan(z)).sum(axis=1))
    spread = means.std()
    return HIGHEST * _stats.norm.cdf((means - means.mean()) / spread if spread else means * 0)


def _ranks(totals: Floats) -> NDArray[np.int64]:
    ranks = np.empty(len(totals), dtype=np.int64)
    ranks[np.argsort(-totals, kind="stable")] = np.arange(1, len(totals) + 1)
    return ranks
