"""The steps of a run: which rows meet in which batch, and what happens after it. Pure.

A step is a batch, mlx-lm's iteration. Every row is in one batch of every epoch, together with rows
of like length. A batch follows from the lengths, the seed and its step, so a run that goes on after
a kill asks for step 38 and gets the batch it would have got.

An update of the weights follows every `grad_accumulation_steps` batches, and what is left over at
the end of an epoch or of the run makes an update of its own. The last step is always reported,
measured and saved. What happens only because a run ends must leave no trace in a run that is made
longer later; `Cadence.endless` tells it from what would have happened anyway.
"""

import math
import random
import sys
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise

import msgspec

from verse_trainer.config import TrainConfig

PAD_MULTIPLE = 8
"""Widths are rounded up to it, so that few shapes have to be compiled."""


def padded(length: int) -> int:
    """The width of a batch whose longest row has `length` tokens."""
    return -(-length // PAD_MULTIPLE) * PAD_MULTIPLE


class BatchPlan:
    """The batches of a run, by step. Steps count from 1 and go through all epochs."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        """Lay out batches of `batch_size` rows; the last one of an epoch may have fewer."""
        self._lengths = tuple(lengths)
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = lru_cache(maxsize=2)(self._draw)

    @property
    def steps_per_epoch(self) -> int:
        """Batches until every row was seen."""
        return -(-len(self._lengths) // self._batch_size)

    def batch(self, step: int) -> tuple[int, ...]:
        """Indices of the rows of one step."""
        epoch, place = divmod(step - 1, self.steps_per_epoch)
        return self._epoch(epoch)[place]

    def longest_batch(self) -> tuple[int, ...]:
        """The longest rows there are, together: what takes the most memory."""
        return tuple(sorted(range(len(self._lengths)), key=self._width)[-self._batch_size :])

    def _width(self, row: int) -> int:
        return padded(self._lengths[row])

    def _draw(self, epoch: int) -> tuple[tuple[int, ...], ...]:
        """Shuffle the rows, bring those of one width together, cut, shuffle the batches."""
        # A text seeds it on every machine and in every Python alike.
        draw = random.Random(f"{self._seed}/{epoch}")
        rows = list(range(len(self._lengths)))
        draw.shuffle(rows)
        rows.sort(key=self._width)
        ends = [0, *accumulate(self._sizes(draw))]
        batches = [tuple(rows[start:end]) for start, end in pairwise(ends)]
        draw.shuffle(batches)
        return tuple(batches)

    def _sizes(self, draw: random.Random) -> list[int]:
        """The small batch may fall anywhere, or it would always be made of the longest rows."""
        full, rest = divmod(len(self._lengths), self._batch_size)
        sizes = [self._batch_size] * full
        if rest:
            sizes.insert(draw.randint(0, full), rest)
        return sizes


DEFAULT_EPOCHS = 15


class Cadence(msgspec.Struct, frozen=True, kw_only=True):
    """The steps of one run."""

    steps_per_epoch: int
    total_steps: int
    accumulation: int
    save_every: int
    steps_per_eval: int
    steps_per_report: int
    sample_every: int | None

    @property
    def endless(self) -> "Cadence":
        """The same run without a last step."""
        return msgspec.structs.replace(self, total_steps=sys.maxsize)

    @property
    def epochs(self) -> float:
        """Passes over the rows; the last one may be broken off."""
        return self.total_steps / self.steps_per_epoch

    @property
    def total_updates(self) -> int:
        """Optimizer updates of the whole run."""
        return self.updates_until(self.total_steps)

    def num_checkpoints_after(self, step: int) -> int:
        """Checkpoints still to come."""
        last = self.total_steps
        is_only_end = step < last and not self.endless.is_checkpoint(last)
        return self._num_due(last) - self._num_due(step) + is_only_end

    def _num_due(self, step: int) -> int:
        """Checkpoints up to a step that do not come of the end alone."""
        both = math.lcm(self.save_every, self.steps_per_eval)
        return step // self.save_every + step // self.steps_per_eval - step // both

    def updates_until(self, step: int) -> int:
        """Updates done once the batch of `step` was seen."""
        per_epoch = math.ceil(self.steps_per_epoch / self.accumulation)
        epochs, rest = divmod(step, self.steps_per_epoch)
        begun = math.ceil if step == self.total_steps else math.floor
        return epochs * per_epoch + begun(rest / self.accumulation)

    def is_update(self, step: int) -> bool:
        """Whether the weights change after this batch."""
        return self.updates_until(step) > self.updates_until(step - 1)

    def is_checkpoint(self, step: int) -> bool:
        """Whether the weights are measured and saved after this batch."""
        due = step % self.save_every == 0 or step % self.steps_per_eval == 0
        return due or step == self.total_steps

    def is_report(self, step: int) -> bool:
        """Whether the training loss is reported after this batch."""
        return step % self.steps_per_report == 0 or step == self.total_steps

    def is_sample(self, step: int) -> bool:
        """Whether poems are written after this batch."""
        return self.sample_every is not None and step % self.sample_every == 0


def make_cadence(config: TrainConfig, steps_per_epoch: int) -> Cadence:
    """Lay out the steps: `iters` over `epochs`, checkpoints once an epoch unless given."""
    epochs = DEFAULT_EPOCHS if config.epochs is None else config.epochs
    total = config.iters or math.ceil(epochs * steps_per_epoch)
    save_every = config.save_every or steps_per_epoch
    return Cadence(
        steps_per_epoch=steps_per_epoch,
        total_steps=total,
        accumulation=config.grad_accumulation_steps,
        save_every=save_every,
        steps_per_eval=config.steps_per_eval or save_every,
        steps_per_report=config.steps_per_report,
        sample_every=config.sample_every,
    )
