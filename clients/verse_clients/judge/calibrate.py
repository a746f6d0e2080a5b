"""What each criterion should count for this poet: a ridge logistic regression of few numbers.

    P(taken) = sigmoid(b + sum of w_c * z_c),  w_c >= 0

z is a criterion's mean score in standard deviations. Weights below zero are not allowed: with few
decisions they are more often chance than taste. Whether the weights help is measured on decisions
they were not learned from: five folds, each scored by the weights of the other four.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np
import scipy.optimize
from numpy.typing import NDArray

from verse.records import JournalEntry
from verse.replay import Replay
from verse.terminal import counted
from verse_clients.errors import InputError
from verse_clients.judge.metrics import (
    Estimate,
    Flags,
    Floats,
    auc,
    auc_gain,
    blind_verdicts,
    folds,
)
from verse_clients.judge.ranked import CRITERIA, LearnedWeights, Ranked, Weights
from verse_clients.judge.report import ENOUGH

_optimize = cast(Any, scipy.optimize)  # has no types

RIDGE = 1.0
"""Of the squared weights; small against fifty decisions, large against noise in four numbers."""
_FEWEST_OF_A_KIND = 5


class Lesson(NamedTuple):
    """The decisions to learn from."""

    ids: tuple[str, ...]
    scores: Floats
    """(poems, criteria)"""
    taken: Flags


def learn(ranked: Ranked, entries: Iterable[JournalEntry]) -> LearnedWeights:
    """Learn weights from blind decisions, and see by the other folds whether they help.

    Raises:
        InputError: there are not enough decisions, or the criteria do not tell the poet's taste.
    """
    lesson = _lesson(ranked, entries)
    weights = fit_weights(lesson.scores, lesson.taken)
    if not weights.any():
        raise InputError(
            "No criterion predicts this poet's decisions; judge without --weights, or use another "
            "judge."
        )
    before, after = _held_out(lesson)
    return LearnedWeights(
        weights=Weights(**dict(zip(CRITERIA, (round(float(w), 4) for w in weights), strict=True))),
        trained_on=lesson.ids,
        num_decisions=len(lesson.ids),
        auc_before=auc(before, lesson.taken),
        auc_after=auc(after, lesson.taken),
        gain=auc_gain(before, after, lesson.taken),
    )


def fit_weights(scores: Floats, taken: Flags) -> Floats:
    """Weights of the criteria, adding up to 1; all zero if none of them helps.

    Args:
        scores: (poems, criteria), 0 to 5.
        taken: Whether the poet took each poem.
    """
    spread = scores.std(axis=0)
    usable = spread > 0
    z = np.where(usable, (scores - scores.mean(axis=0)) / np.where(usable, spread, 1.0), 0.0)
    signs = np.where(taken, 1.0, -1.0)

    def loss(parameters: Floats) -> float:
        margins = signs * (parameters[0] + z @ parameters[1:])
        ridge = RIDGE * float(parameters[1:] @ parameters[1:]) / 2
        return float(np.logaddexp(0.0, -margins).sum()) + ridge

    bounds = [(None, None), *[(0.0, None)] * len(CRITERIA)]
    found = _optimize.minimize(loss, np.zeros(1 + len(CRITERIA)), method="L-BFGS-B", bounds=bounds)
    parameters = cast("NDArray[np.float64]", found.x)
    weights = np.where(usable, parameters[1:] / np.where(usable, spread, 1.0), 0.0)
    return weights / weights.sum() if weights.sum() > 1e-6 else np.zeros(len(CRITERIA))


def lines(learned: LearnedWeights) -> list[str]:
    """What was learned, and whether it helps."""
    rows = msgspec.structs.asdict(learned.weights).items()
    report_lines = [f"{name:20} {weight:.2f}" for name, weight in rows]
    before, after, gain = (
        Estimate(*row) for row in (learned.auc_before, learned.auc_after, learned.gain) if row
    )
    report_lines.append(
        f"Cross-validated AUC on {counted(learned.num_decisions, 'decision')}: {before} with "
        f"equal weights, {after} with learned ones."
    )
    if gain.low > 0:
        report_lines.append(f"The learned weights help: {gain}.")
    else:
        report_lines.append(f"The gain ({gain}) may be chance; equal weights may do as well.")
    return report_lines


def _lesson(ranked: Ranked, entries: Iterable[JournalEntry]) -> Lesson:
    """Blind decisions on poems with scores; examples were shown to the judge with their verdict."""
    verdicts = blind_verdicts(Replay(entries)).taken
    rows = [
        (poem.candidate.id, msgspec.structs.astuple(poem.rubric))
        for poem in ranked.poems
        if poem.candidate.id in verdicts and poem.rubric is not None and poem.seen != "example"
    ]
    taken = np.array([verdicts[id_] for id_, _ in rows], dtype=np.bool_)
    if len(rows) < ENOUGH or min(taken.sum(), (~taken).sum()) < _FEWEST_OF_A_KIND:
        raise InputError(
            f"Not enough decisions to learn from: {len(rows)} blind decisions on judged poems, "
            f"{int(taken.sum())} of them accepting; {ENOUGH} are needed, "
            f"with at least {_FEWEST_OF_A_KIND} accepting and {_FEWEST_OF_A_KIND} rejecting."
        )
    scores = np.array([row for _, row in rows], dtype=np.float64)
    return Lesson(tuple(id_ for id_, _ in rows), scores, taken)


def _held_out(lesson: Lesson) -> tuple[Floats, Floats]:
    """Totals with equal weights, and with weights that did not see the poem's own verdict."""
    equal = lesson.scores.mean(axis=1)
    learned = np.zeros(len(equal))
    for fold in folds(lesson.taken):
        weights = fit_weights(lesson.scores[~fold], lesson.taken[~fold])
        learned[fold] = lesson.scores[fold] @ weights
    return equal, learned
