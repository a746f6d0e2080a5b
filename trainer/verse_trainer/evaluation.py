"""The loss over a whole set: every example counts, whatever it shares a batch with."""

import math
from collections.abc import Sequence
from typing import cast

import mlx.core as mx
import mlx.nn as nn
import msgspec
import numpy as np

from verse_trainer.events import PreferenceFigures
from verse_trainer.objective import Objective, Part


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A loss and how far to trust it."""

    loss: float
    standard_error: float | None
    """Over examples; None for a single one."""
    preference: PreferenceFigures | None = None


def evaluate(
    model: nn.Module, objective: Objective, part: Part, *, batch_size: int, limit: int | None = None
) -> Measured | None:
    """Measure with dropout off; no random number is drawn.

    Args:
        model: Left in evaluation mode.
        objective: Whose loss.
        part: Of its examples.
        batch_size: Examples at a time; changes the result by rounding only.
        limit: Examples to measure, from the beginning of the file; None for all.

    Returns:
        None if there are no examples.
    """
    examples = objective.examples(part)
    count = len(examples) if limit is None else min(len(examples), limit)
    if count == 0:
        return None
    model.eval()
    losses = np.zeros(count)
    figures: list[list[float]] = [[]] * count
    order = sorted(range(count), key=lambda index: examples[index].length)
    for start in range(0, count, batch_size):
        indices = order[start : start + batch_size]
        batch_losses, batch_figures = objective.losses(model, objective.batch(part, indices))
        for index, loss, row in zip(
            indices,
            cast(list[float], batch_losses.tolist()),
            cast(list[list[float]], batch_figures.tolist()),
            strict=True,
        ):
            losses[index], figures[index] = loss, row
    means = np.array(figures).mean(axis=0).tolist()
    weights = [examples[index].weight for index in range(count)]
    loss, standard_error = ratio_mean(losses.tolist(), weights)
    return Measured(
        loss=loss, standard_error=standard_error, preference=objective.preference(means)
    )


def ratio_mean(losses: Sequence[float], weights: Sequence[int]) -> tuple[float, float | None]:
    """Mean loss per unit of weight, and its standard error over examples.

    Poems are drawn, not tokens, so the error is that of a ratio of two sums: with n poems and mean
    R, sqrt(n/(n-1) * sum (loss - R * weight)^2) / sum weight (Cochran, Sampling Techniques, 1977,
    section 6.4).
    """
    total = sum(weights)
    mean = math.fsum(losses) / total
    count = len(losses)
    if count < 2:
        return mean, None
    squares = math.fsum((loss - mean * w) ** 2 for loss, w in zip(losses, weights, strict=True))
    return mean, math.sqrt(count / (count - 1) * squares) / total


def clear_cache(threshold_bytes: int) -> None:
    """Give mlx's cached memory back where it has grown too large."""
    if mx.get_cache_memory() > threshold_bytes:
        mx.clear_cache()
