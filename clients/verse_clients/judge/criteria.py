"""The four criteria and what each of them counts in a total."""

from collections.abc import Iterable
from typing import Annotated

import msgspec

from verse.records import RubricScores

CRITERIA = tuple(RubricScores.__struct_fields__)
"""Names, in the order of the record."""
HIGHEST = 5.0

Weight = Annotated[float, msgspec.Meta(ge=0)]


class Weights(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What each criterion counts; only their proportions matter."""

    theme_adherence: Weight = 1.0
    poetic_quality: Weight = 1.0
    fluency: Weight = 1.0
    emotional_resonance: Weight = 1.0


class MeanScores(msgspec.Struct, frozen=True, kw_only=True):
    """The judges' mean for one poem, 0 to 5 each."""

    theme_adherence: float
    poetic_quality: float
    fluency: float
    emotional_resonance: float


def mean_scores(scores: Iterable[RubricScores]) -> MeanScores:
    """The mean of at least one judge's scores."""
    rows = [msgspec.structs.astuple(score) for score in scores]
    means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return MeanScores(**dict(zip(CRITERIA, means, strict=True)))


def total(scores: RubricScores | MeanScores, weights: Weights) -> float:
    """The weighted mean of the criteria, 0 to 5."""
    factors = msgspec.structs.astuple(weights)
    parts = zip(msgspec.structs.astuple(scores), factors, strict=True)
    return sum(score * factor for score, factor in parts) / sum(factors)


Interval = tuple[float, float, float]
"""A figure, and where it lies with 95 % confidence."""


class LearnedWeights(msgspec.Struct, frozen=True, kw_only=True):
    """A file of `verse judge calibrate`."""

    weights: Weights
    trained_on: tuple[str, ...] = ()
    """Ids of the candidates whose decisions were used: they tell nothing about agreement."""
    num_decisions: int = 0
    auc_before: Interval | None = None
    """With equal weights."""
    auc_after: Interval | None = None
    """With the weights that the other folds taught."""
    gain: Interval | None = None
