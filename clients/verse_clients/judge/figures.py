"""The figures of a report: how well a number tells what the poet takes, and how sure that is.

A bootstrap draws poems, the taken and the rejected apart, so that no sample lacks either.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import scipy.stats
from numpy.typing import NDArray

_stats = cast(Any, scipy.stats)  # has no types

DRAWS = 1000
NUM_FOLDS = 5
_BOUNDS = (2.5, 97.5)
_SEED = 0

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Estimate(NamedTuple):
    """A figure, and where it lies with 95 % confidence."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def auc(scores: Floats, taken: Flags) -> Estimate:
    """ROC-AUC: the chance that a poem the poet took has the higher score; ties count half.

    Args:
        scores: One a poem.
        taken: Whether the poet took it; some of each.
    """
    positive, negative = scores[taken], scores[~taken]
    rng = np.random.default_rng(_SEED)
    drawn = _auc(_samples(positive, rng), _samples(negative, rng))
    return _estimate(float(_auc(positive, negative)), drawn)


def kappa(scores: Floats, taken: Flags) -> Estimate:
    """Cohen's kappa of "the score is above the line" with the poet's verdicts.

    The line of each fold is the best of the other folds, so no poem helps to draw its own.
    """
    said = np.zeros(len(scores), dtype=np.bool_)
    for fold in folds(taken):
        line = _best_line(scores[~fold], taken[~fold])
        said[fold] = scores[fold] >= line
    rng = np.random.default_rng(_SEED)
    yes, no = np.flatnonzero(taken), np.flatnonzero(~taken)
    drawn = np.array(
        [
            _kappa(said[chosen], taken[chosen])
            for chosen in np.concatenate([_samples(yes, rng), _samples(no, rng)], axis=1)
        ]
    )
    return _estimate(_kappa(said, taken), drawn)


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Rank correlation; None for fewer than three, or where one never changes."""
    if len(one) < 3 or len(set(one)) < 2 or len(set(other)) < 2:
        return None
    return float(_stats.spearmanr(one, other).statistic)


def plain_kappa(one: Sequence[bool], other: Sequence[bool]) -> float:
    """Cohen's kappa of two judges' verdicts."""
    return _kappa(np.array(one, dtype=np.bool_), np.array(other, dtype=np.bool_))


def folds(taken: Flags, seed: int = _SEED) -> list[Flags]:
    """Five parts, with the poet's verdicts spread evenly; each as a mask."""
    rng = np.random.default_rng(seed)
    number = np.empty(len(taken), dtype=np.int64)
    for members in (np.flatnonzero(taken), np.flatnonzero(~taken)):
        number[rng.permutation(members)] = np.arange(len(members)) % NUM_FOLDS
    return [number == fold for fold in range(NUM_FOLDS) if (number == fold).any()]


def auc_gain(before: Floats, after: Floats, taken: Flags) -> Estimate:
    """How much larger the AUC of one score is than another's, over the same samples."""
    rng = np.random.default_rng(_SEED)
    yes, no = _samples(np.flatnonzero(taken), rng), _samples(np.flatnonzero(~taken), rng)
    drawn = _auc(after[yes], after[no]) - _auc(before[yes], before[no])
    value = _auc(after[taken], after[~taken]) - _auc(before[taken], before[~taken])
    return _estimate(float(value), drawn)


def _auc(positive: Floats, negative: Floats) -> Any:
    """By Mann and Whitney's U; the last axis holds the poems."""
    with np.errstate(all="ignore"):  # the p-value, not used here, fails where all scores are equal
        u = _stats.mannwhitneyu(positive, negative, axis=-1, method="asymptotic").statistic
    return u / (positive.shape[-1] * negative.shape[-1])


def _kappa(one: Flags, other: Flags) -> float:
    """0 where chance explains everything (Cohen 1960)."""
    agreed = float((one == other).mean())
    p, q = float(one.mean()), float(other.mean())
    by_chance = p * q + (1 - p) * (1 - q)
    return 0.0 if by_chance == 1 else (agreed - by_chance) / (1 - by_chance)


def _best_line(scores: Floats, taken: Flags) -> float:
    lines = np.unique(scores)
    return float(max(lines, key=lambda line: _kappa(scores >= line, taken)))


def _samples(values: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    return values[rng.integers(len(values), size=(DRAWS, len(values)))]


def _estimate(value: float, drawn: Floats) -> Estimate:
    low, high = np.percentile(drawn, _BOUNDS)
    return Estimate(value, float(low), float(high))
