"""At which steps something happens: updates, reports, checkpoints. Pure.

A step is a batch, mlx-lm's iteration. An update of the weights follows every
`grad_accumulation_steps` batches, and what is left over at the end of an epoch or of the run makes
an update of its own. The last step is always reported, measured and saved.

What happens only because a run ends must leave no trace in a run that is made longer later;
`endless` tells it from what would have happened anyway.
"""

import math
import sys

import msgspec

from verse_trainer.config import TrainConfig

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
        return sum(map(self.is_checkpoint, range(step + 1, self.total_steps + 1)))

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
    """Settle the steps: `iters` over `epochs`, checkpoints once an epoch unless told otherwise."""
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
