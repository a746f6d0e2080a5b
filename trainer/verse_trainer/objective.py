"""What a run makes smaller: the loss of answer tokens, and the examples it is taken over.

The output head is computed only where there are answers. The head of a small model is a quarter of
its work, that of a large one its largest array; the prompt in front of the answers needs neither.
What a row loses is the sum over its targets of -log p(token | tokens before), in nats.

An objective holds its examples in up to three parts and turns some of them into arrays and arrays
into losses. The loop, the evaluation and the checkpoints know nothing else of it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from verse.base_model import runs_on_cpu
from verse_trainer.decoder import Decoder
from verse_trainer.encoding import EncodedRow
from verse_trainer.events import PreferenceFigures
from verse_trainer.gate import Gated, gated_at_once
from verse_trainer.host_head import VocabularyScreen, host_losses, screen_of
from verse_trainer.layer_cache import LayerCache
from verse_trainer.packing import EXACT, ROUNDED, PackedBatch, common_prefix, pack
from verse_trainer.plan import PAD_MULTIPLE, padded
from verse_trainer.vocabulary import token_losses

_PROBE = ((1, 2, 3),)
_NUM_ARRAYS = len(PackedBatch._fields)
"""Of a batch; what an objective adds comes behind."""


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


class RowLoss(Protocol):
    """Turns rows into arrays and those into what each row loses."""

    @property
    def is_traceable(self) -> bool:
        """Whether its arithmetic is mlx's alone, so that mlx can compile it."""
        ...

    @property
    def host_bytes(self) -> int:
        """What it keeps that mlx does not count."""
        ...

    def collate(self, rows: Sequence[EncodedRow]) -> tuple[mx.array, ...]:
        """Some rows as arrays."""
        ...

    def __call__(self, model: nn.Module, batch: Sequence[mx.array]) -> mx.array:
        """(rows,) float32, the sum over each row's targets."""
        ...

    def num_targets(self, batch: Sequence[mx.array]) -> mx.array:
        """(rows,) float32, how many targets each row has."""
        ...


class WholeLoss:
    """Of any model: rows padded side by side, the model run as it is."""

    is_traceable = True
    host_bytes = 0

    def __init__(self, model: nn.Module) -> None:
        self._token_loss = TokenLoss(model)

    def collate(self, rows: Sequence[EncodedRow]) -> tuple[mx.array, ...]:
        """As wide as the longest row."""
        return collate(rows)

    def __call__(self, model: nn.Module, batch: Sequence[mx.array]) -> mx.array:
        """(rows,) float32, the sum over each row's targets."""
        return self._token_loss(model, TargetBatch(*batch))

    def num_targets(self, batch: Sequence[mx.array]) -> mx.array:
        """(rows,) float32."""
        return TargetBatch(*batch).is_target.sum(axis=1)


class HiddenLoss(Protocol):
    """A loss whose last part, from hidden states on, is computed at once and not in a graph."""

    def hidden(self, batch: Sequence[mx.array], gates: Gated | None = None) -> mx.array:
        """(targets, hidden) what the head reads; differentiable in the weights.

        Args:
            batch: Of `collate`.
            gates: Computes the gates of the blocks; None for a graph that is complete.
        """
        ...

    def shape_of_hidden(self, batch: Sequence[mx.array]) -> tuple[int, int]:
        """Of what `hidden` gives."""
        ...

    def of_hidden(
        self, hidden: mx.array, batch: Sequence[mx.array], *, with_gradient: bool
    ) -> tuple[mx.array, mx.array | None]:
        """(targets,) losses, and (targets, hidden) their gradients if they are asked for."""
        ...

    def of_rows(self, losses: mx.array, batch: Sequence[mx.array]) -> mx.array:
        """(targets,) losses summed to (rows,)."""
        ...


class PackedLoss:
    """Of a model whose blocks are known: rows packed, the common prefix once, the head in pieces.

    With a cache of what the frozen layers make of the rows, only the layers above are run.
    """

    def __init__(
        self,
        model: nn.Module,
        rows: Iterable[EncodedRow],
        dtype: mx.Dtype,
        *,
        num_frozen: int = 0,
        checkpoint: bool = False,
    ) -> None:
        """Prepare for these rows.

        Args:
            model: Whose head is not trained.
            rows: All that will ever be asked for.
            dtype: Of the hidden states.
            num_frozen: Layers whose output is taken from the cache; 0 for none.
            checkpoint: Compute the activations of a block again for its gradients.
        """
        rows = list(rows)
        self._decoder, self._dtype, self._checkpoint = Decoder(model), dtype, checkpoint
        self._prefix, self._num_frozen = common_prefix(rows), num_frozen
        self._hidden_size = cast(Any, model).model.norm.weight.shape[0]
        self.cache = (
            LayerCache(
                rows,
                prefix=self._prefix,
                num_layers=num_frozen,
                hidden_size=self._hidden_size,
                dtype=dtype,
            )
            if num_frozen
            else None
        )

    @property
    def is_traceable(self) -> bool:
        """Not where numpy computes the exponentials."""
        return not runs_on_cpu()

    @property
    def host_bytes(self) -> int:
        """Of the screen of a large head."""
        return 0 if not runs_on_cpu() or self._screen is None else self._screen.num_bytes

    def collate(self, rows: Sequence[EncodedRow]) -> tuple[mx.array, ...]:
        """One behind the other."""
        multiples = EXACT if runs_on_cpu() else ROUNDED
        states = None if self.cache is None else self.cache.states
        return pack(rows, self._prefix, multiples, states)

    def __call__(
        self,
        model: nn.Module,  # noqa: ARG002  its parts are looked up at each call
        batch: Sequence[mx.array],
    ) -> mx.array:
        """(rows,) float32, the sum over each row's targets; without gradient on a CPU."""
        if runs_on_cpu():
            hidden = self.hidden(batch, gated_at_once)
            losses, _ = self.of_hidden(hidden, batch, with_gradient=False)
        else:
            hidden, targets = self.hidden(batch), PackedBatch(*batch[:_NUM_ARRAYS]).targets
            losses = token_losses(self._decoder.head, hidden, targets)
        return self.of_rows(losses, batch)

    def hidden(self, batch: Sequence[mx.array], gates: Gated | None = None) -> mx.array:
        """(targets, hidden) what the head reads; see `HiddenLoss`."""
        packed = PackedBatch(*batch[:_NUM_ARRAYS])
        states = packed.inputs
        if self.cache is None:
            states = self._decoder.embed(states, self._dtype)
        states = self._decoder.run(
            states,
            packed.layout,
            self._prefix,
            self._decoder.blocks[self._num_frozen :],
            checkpoint=self._checkpoint,
            gates=gates,
            places=packed.places,
        )
        return self._decoder.norm(states)

    def shape_of_hidden(self, batch: Sequence[mx.array]) -> tuple[int, int]:
        """Of what `hidden` gives."""
        return batch[3].shape[0], self._hidden_size

    def of_hidden(
        self, hidden: mx.array, batch: Sequence[mx.array], *, with_gradient: bool
    ) -> tuple[mx.array, mx.array | None]:
        """(targets,) losses, and (targets, hidden) their gradients if they are asked for."""
        targets = PackedBatch(*batch[:_NUM_ARRAYS]).targets
        return host_losses(
            self._decoder.head, hidden, targets, with_gradient=with_gradient, screen=self._screen
        )

    @cached_property
    def _screen(self) -> VocabularyScreen | None:
        """Packed when the first losses are asked for: then the head is in memory."""
        return screen_of(self._decoder.head)

    def of_rows(self, losses: mx.array, batch: Sequence[mx.array]) -> mx.array:
        """(targets,) losses summed to (rows,)."""
        return (losses[:, None] * _is_owner(PackedBatch(*batch[:_NUM_ARRAYS]))).sum(axis=0)

    def num_targets(self, batch: Sequence[mx.array]) -> mx.array:
        """(rows,) float32."""
        return _is_owner(PackedBatch(*batch[:_NUM_ARRAYS])).sum(axis=0)


def _is_owner(packed: PackedBatch) -> mx.array:
    """(targets, rows) float32, 1 where the target is the row's."""
    rows = mx.arange(packed.gather.shape[0])
    return (packed.owners[:, None] == rows).astype(mx.float32)


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

    @property
    def num_figures(self) -> int:
        """How many figures there are of each example."""
        ...

    def examples(self, part: Part) -> Sequence[Example]:
        """Of one part, in the order of its file; empty if there is none."""
        ...

    def batch(self, part: Part, indices: Sequence[int]) -> Batch:
        """Some examples as arrays."""
        ...

    @property
    def row_loss(self) -> RowLoss:
        """What the rows lose."""
        ...

    def losses(self, model: nn.Module, batch: Batch) -> tuple[mx.array, mx.array]:
        """(rows,) what each example loses, over its whole weight; (rows, n) figures beside it."""
        ...

    def of_rows(self, losses: mx.array, batch: Batch) -> tuple[mx.array, mx.array]:
        """The same from what the rows lose."""
        ...

    def preference(self, means: Sequence[float]) -> PreferenceFigures | None:
        """What the figures mean, averaged over examples; None if there are none."""
        ...


class SftObjective:
    """Supervised fine-tuning: make the answers likelier, token by token."""

    has_dropout = True
    num_figures = 0

    def __init__(self, row_loss: RowLoss, parts: Mapping[Part, Sequence[EncodedRow]]) -> None:
        self._parts = parts
        self.row_loss: RowLoss = row_loss

    def examples(self, part: Part) -> Sequence[EncodedRow]:
        """The rows of one part."""
        return self._parts.get(part, ())

    def batch(self, part: Part, indices: Sequence[int]) -> Batch:
        """Some rows as arrays."""
        rows = self.examples(part)
        return self.row_loss.collate([rows[index] for index in indices])

    def losses(self, model: nn.Module, batch: Batch) -> tuple[mx.array, mx.array]:
        """Sums over the targets of each row; no figures."""
        return self.of_rows(self.row_loss(model, batch), batch)

    def of_rows(self, losses: mx.array, batch: Batch) -> tuple[mx.array, mx.array]:  # noqa: ARG002
        """The same from what the rows lose."""
        return losses, mx.zeros((losses.shape[0], 0))

    def preference(self, means: Sequence[float]) -> None:  # noqa: ARG002  nothing is preferred
        """None."""
        return
