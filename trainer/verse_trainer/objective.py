"""What a run learns from, and what it makes smaller.

An objective holds its examples in up to three parts and turns some of them into arrays and arrays
into losses. The loop, the evaluation and the checkpoints know nothing else of it.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import mlx.core as mx
import mlx.nn as nn

from verse_trainer.encoding import EncodedRow
from verse_trainer.events import PreferenceFigures
from verse_trainer.loss import TargetBatch, TokenLoss, collate

Part = Literal["train", "valid", "test"]
Batch = tuple[mx.array, ...]


class Example(Protocol):
    """One row or pair, as far as the loop must know it."""

    @property
    def length(self) -> int:
        """Tokens the model reads, for batches of like length."""
        ...

    @property
    def num_tokens(self) -> int:
        """Tokens without padding."""
        ...

    @property
    def weight(self) -> int:
        """Its share in the mean loss."""
        ...


class Objective(Protocol):
    """Examples and their loss."""

    @property
    def has_dropout(self) -> bool:
        """Whether the adapter's dropout is on while it trains."""
        ...

    def examples(self, part: Part) -> Sequence[Example]:
        """Of one part, in the order of its file; empty if there is none."""
        ...

    def batch(self, part: Part, indices: Sequence[int]) -> Batch:
        """Some examples as arrays."""
        ...

    def losses(self, model: nn.Module, batch: Batch) -> tuple[mx.array, mx.array]:
        """(rows,) what each example loses, over its whole weight; (rows, n) figures beside it."""
        ...

    def preference(self, means: Sequence[float]) -> PreferenceFigures | None:
        """What the figures mean, averaged over examples; None if there are none."""
        ...


class SftObjective:
    """Supervised fine-tuning: make the answers likelier, token by token."""

    has_dropout = True

    def __init__(self, model: nn.Module, parts: Mapping[Part, Sequence[EncodedRow]]) -> None:
        self._parts = parts
        self._token_loss = TokenLoss(model)

    def examples(self, part: Part) -> Sequence[EncodedRow]:
        """The rows of one part."""
        return self._parts.get(part, ())

    def batch(self, part: Part, indices: Sequence[int]) -> Batch:
        """Some rows as arrays."""
        rows = self.examples(part)
        return collate([rows[index] for index in indices])

    def losses(self, model: nn.Module, batch: Batch) -> tuple[mx.array, mx.array]:
        """Sums over the targets of each row; no figures."""
        losses = self._token_loss(model, TargetBatch(*batch))
        return losses, mx.zeros((losses.shape[0], 0))

    def preference(self, means: Sequence[float]) -> None:  # noqa: ARG002  nothing is preferred
        """None."""
        return
