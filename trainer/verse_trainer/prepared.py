"""All that is settled before the first step of a run."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from verse.base_model import BaseModel
from verse_trainer import lora
from verse_trainer.config import TrainConfig
from verse_trainer.material import Material
from verse_trainer.objective import Example, Objective
from verse_trainer.publication import Publication
from verse_trainer.run_record import RunRecord
from verse_trainer.step import Stepper, make_optimizer
from verse_trainer.steps import BatchPlan, Cadence
from verse_trainer.training_state import TrainingState


@dataclass(frozen=True, kw_only=True)
class MeasuredStep:
    """What one real step took."""

    seconds: float
    tokens: int
    """Of the rows of the timed batch, without padding."""
    peak_bytes: int
    """The most memory in use, over the longest batch; the base included."""


@dataclass(frozen=True, kw_only=True)
class LongestRow:
    """The row with the most tokens."""

    num_tokens: int
    place: str
    """File and line."""


@dataclass(frozen=True, kw_only=True)
class PreparedRun:
    """A run that could begin now. The model of `base` is adapted already."""

    config: TrainConfig
    base: BaseModel
    material: Material
    objective: Objective
    batches: BatchPlan
    cadence: Cadence
    publication: Publication
    record: RunRecord
    """As it will be written at the start."""
    state: TrainingState | None
    """Of the run that goes on; None at its beginning."""
    is_resumed: bool
    trainable_parameters: int
    total_parameters: int
    """Of the model without the adapter."""
    notes: tuple[str, ...] = ()
    """What the poet should know before it starts, a sentence each, such as a missing valid set."""

    @property
    def folder(self) -> Path:
        """Of the adapter."""
        return Path(self.config.adapter_path).expanduser()

    @property
    def num_rows(self) -> int:
        """Training rows, or pairs."""
        return len(self._examples)

    @property
    def num_valid_rows(self) -> int:
        """Rows, or pairs, to measure with."""
        return len(self.objective.examples("valid"))

    @property
    def never_seen(self) -> int:
        """Training rows that none of the run's batches holds; 0 if it is an epoch or longer."""
        steps = range(1, min(self.total_steps, self.steps_per_epoch) + 1)
        return self.num_rows - len({row for step in steps for row in self.batches.batch(step)})

    @property
    def num_tokens(self) -> int:
        """Of the training rows, without padding."""
        return sum(example.num_tokens for example in self._examples)

    @property
    def num_target_tokens(self) -> int:
        """Those of them that are learned."""
        return sum(row.weight for row in self.material.rows["train"])

    @property
    def steps_per_epoch(self) -> int:
        """Batches until every row was seen."""
        return self.batches.steps_per_epoch

    @property
    def total_steps(self) -> int:
        """Batches of the whole run, if nothing ends it early."""
        return self.cadence.total_steps

    @property
    def total_updates(self) -> int:
        """Optimizer updates of the whole run."""
        return self.cadence.total_updates

    @property
    def start_step(self) -> int:
        """Steps done before; 0 unless the run is resumed."""
        return 0 if self.state is None else self.state.standing.step

    @property
    def longest(self) -> LongestRow:
        """The training row with the most tokens."""
        row = max(self.material.rows["train"], key=lambda row: row.num_tokens)
        return LongestRow(num_tokens=row.num_tokens, place=row.place)

    def one_step(self, clock: Callable[[], float] = time.perf_counter) -> MeasuredStep:
        """Take one real step and put everything back.

        The memory is that of the longest batch, the time that of a middling one.
        """
        model = self.base.model
        weights = lora.trainable(model)
        optimizer = make_optimizer(self.config, self.total_updates)
        stepper = Stepper(model, self.objective, optimizer, self.config.seed)
        mx.reset_peak_memory()
        self._take(stepper, self.batches.longest_batch())
        peak_bytes = mx.get_peak_memory()
        middling = self._middling_batch()
        self._take(stepper, middling)  # brings in what is compiled once for each shape
        start = clock()
        self._take(stepper, middling)
        seconds = clock() - start
        model.load_weights(list(weights.items()), strict=False)
        mx.clear_cache()
        tokens = self.tokens_of(middling)
        return MeasuredStep(seconds=seconds, tokens=tokens, peak_bytes=peak_bytes)

    @property
    def batch_weight(self) -> float:
        """What the gradients of a batch are divided by: the weight of an average one.

        So every token counts the same in an epoch, whatever batch it is in.
        """
        return sum(example.weight for example in self._examples) / self.steps_per_epoch

    def weight_of(self, indices: tuple[int, ...]) -> int:
        """Of some training examples together."""
        return sum(self._examples[index].weight for index in indices)

    def tokens_of(self, indices: tuple[int, ...]) -> int:
        """Of some training examples together, without padding."""
        return sum(self._examples[index].num_tokens for index in indices)

    @property
    def _examples(self) -> Sequence[Example]:
        return self.objective.examples("train")

    def _take(self, stepper: Stepper, indices: tuple[int, ...]) -> None:
        batch = self.objective.batch("train", indices)
        stepper.step(1, batch, self.batch_weight, is_update=True)

    def _middling_batch(self) -> tuple[int, ...]:
        batches = [self.batches.batch(step) for step in range(1, self.steps_per_epoch + 1)]
        return sorted(batches, key=self.tokens_of)[len(batches) // 2]
