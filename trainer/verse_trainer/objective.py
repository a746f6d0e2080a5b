"""What a run makes smaller: the loss of answer tokens, and the examples it is taken over.

The output head is computed only where there are answers. The head of a small model is a quarter of
its work, that of a large one its largest array; the prompt in front of the answers needs neither.
What a row loses is the sum over its targets of -log p(token | tokens before), in nats.

An objective holds its examples in up to three parts and turns some of them into arrays and arrays
into losses. The loop, the evaluation and the checkpoints know nothing else of it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from verse_trainer.encoding import EncodedRow
from verse_trainer.events import PreferenceFigures
from verse_trainer.plan import PAD_MULTIPLE, padded

_PROBE = ((1, 2, 3),)


class TargetBatch(NamedTuple):
    """Some rows as arrays."""

    inputs: mx.array
    """(rows, width) token ids, padded with 0 behind the end."""
    targets: mx.array
    """(rows, last) token ids that follow the last `last` inputs; nothing is learned before."""
    is_target: mx.array
    """(rows, last) float32, 1 where the token is learned; 0 for prompts and padding."""


def collate(rows: Sequence[EncodedRow]) -> TargetBatch:
    """Put rows side by side, as wide as the longest of them needs."""
    width = padded(max(row.length for row in rows))
    first = min(row.targets[0] for row in rows) - 1
    start = first // PAD_MULTIPLE * PAD_MULTIPLE  # few shapes to compile
    token_ids = np.zeros((len(rows), width + 1), np.int32)
    is_target = np.zeros((len(rows), width + 1), np.float32)
    for number, row in enumerate(rows):
        token_ids[number, : row.num_tokens] = row.token_ids
        is_target[number, list(row.targets)] = 1
    return TargetBatch(
        inputs=mx.array(token_ids[:, :-1]),
        targets=mx.array(token_ids[:, 1 + start :]),
        is_target=mx.array(is_target[:, 1 + start :]),
    )


class TokenLoss:
    """Computes what each row of a batch loses."""

    def __init__(self, model: nn.Module) -> None:
        """Find the model's output head; a model that has none apart is run whole."""
        self._head = _find_head(model)

    def __call__(self, model: nn.Module, batch: TargetBatch) -> mx.array:
        """(rows,) float32, the sum over each row's targets."""
        run, last = cast(Any, model), batch.targets.shape[1]
        if self._head is None:
            logits = run(batch.inputs)[:, -last:]
        else:
            logits = self._head(model)(run.model(batch.inputs)[:, -last:])
        # Narrow floats lose digits over a large vocabulary.
        losses = nn.losses.cross_entropy(logits.astype(mx.float32), batch.targets)
        return (losses * batch.is_target).sum(axis=1)


Head = Callable[[nn.Module], Callable[[mx.array], mx.array]]


def _find_head(model: nn.Module) -> Head | None:
    """Hidden states to logits, for models built as `head(model.model(ids))`.

    Some scale or cap their logits on top. So a head counts only if it gives what the model gives.
    """
    run, ids = cast(Any, model), mx.array(_PROBE)
    whole = run(ids)
    for head in (_own_head, _tied_head):
        try:
            apart = head(model)(run.model(ids))
        except (AttributeError, TypeError, ValueError):
            continue
        if apart.shape == whole.shape and mx.array_equal(apart, whole).item():
            return head
    return None


def _own_head(model: nn.Module) -> Callable[[mx.array], mx.array]:
    return cast(Any, model).lm_head


def _tied_head(model: nn.Module) -> Callable[[mx.array], mx.array]:
    return cast(Any, model).model.embed_tokens.as_linear


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
