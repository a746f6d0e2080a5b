"""Forwards of the base for rows that use different adapters, and a token drawn for each row."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import make_prompt_cache

from verse.cpu_weights.decoder import forward_of
from verse.cpu_weights.model_ends import HostLogits
from verse.cpu_weights.partial_forward import PartialForward
from verse_server.engine.adapters.lora import LoraBank, SlotWeights
from verse_server.engine.kv_cache import BatchSlots, PreallocatedKVCache, preallocated
from verse_server.engine.sampling.sampler import Sampler, StepLogits
from verse_server.engine.sequence import BatchRows
from verse_server.engine.sequence import Sequence as Row


class RoutedModel:
    """The base, with the adapters routed by the rows of the batch it is given."""

    def __init__(
        self,
        model: nn.Module,
        bank: LoraBank,
        sampler: Sampler,
        on_wait: Callable[[], None],
        *,
        at_once: bool = False,
    ) -> None:
        """Make one.

        Args:
            model: The base.
            bank: The adapters on it.
            sampler: Draws for all rows.
            on_wait: Called when a forward is ready to be computed.
            at_once: The model computes while it is called, and not when its output is needed.
        """
        self._model = model
        self._bank = bank
        self._on_wait = on_wait
        self._shared = forward_of(model) if at_once else None
        self.sampler = sampler

    def lowest_adapted_layer(self, slots: SlotWeights) -> int:
        """Of the model; 0 also where no part of a forward can be left out."""
        return self._bank.lowest_layer({slot for slot, _ in slots}) if self._shared else 0

    def forward(
        self, tokens: mx.array, cache: list[Any], partial: PartialForward | None = None
    ) -> StepLogits:
        """The logits of each row's last token; on a GPU nothing is computed yet.

        Args:
            tokens: (rows, seq), in the batch's order.
            cache: One entry a layer, and at last the `BatchRows`.
            partial: What may be left out, of rows whose slots are in their order.

        Returns:
            (rows, vocab), in the batch's order; on the host until the next forward.
        """
        if self._shared:
            self._on_wait()
            self._shared.partial = partial or PartialForward()
        states: BatchRows = cache[-1]
        self._bank.route.set(states.adapter_slots, self._bank)
        model = cast(Any, self._model)
        logits = model(states.by_slot(tokens), cache=cache[:-1])
        if isinstance(logits, HostLogits):
            return logits.on_host((states.slots, -1))
        return states.by_row(logits[:, -1])

    def draw(self, logits: StepLogits, inputs: mx.array, rows: list[Row]) -> mx.array:
        """A token for each row; what `forward` built begins to be computed.

        What was handed out before is drawn first, if it is not yet.
        """
        if not self._shared:
            self._on_wait()
        return self.sampler.sample(logits, inputs, rows)


def next_logits(
    model: nn.Module, bank: LoraBank, rows: Sequence[SlotWeights], prompt: Sequence[int]
) -> mx.array:
    """(rows, vocab) in float32: one prompt, and different adapters."""
    bank.route.set(rows, bank)
    tokens, cache = mx.array([list(prompt)] * len(rows)), make_prompt_cache(model)
    if len(prompt) > 1:
        # Nobody looks at these logits, so they are never computed.
        model(tokens[:, :-1], cache=cache)
        mx.eval([entry.state for entry in cache])  # pyright: ignore[reportUnknownMemberType]
    return cast(mx.array, model(tokens[:, -1:], cache=cache)[:, -1]).astype(mx.float32)


def merged(cache_lists: Sequence[list[Any]], rows: list[Row], max_rows: int) -> list[Any]:
    """One cache list of a batch from those of its rows, in place where it can be.

    Args:
        cache_lists: Of each row, one entry a layer.
        rows: Theirs, in the same order.
        max_rows: There are never more in the batch that they will join.
    """
    in_place = [preallocated(entries, max_rows) for entries in cache_lists]
    is_in_place = all(entries is not None for entries in in_place)
    lists = cast(Sequence[list[Any]], in_place) if is_in_place else cache_lists
    entries = [column[0].merge(column) for column in zip(*lists, strict=True)]
    for layer, entry in enumerate(entries):
        if isinstance(entry, PreallocatedKVCache):
            entry.early = layer
    return [*entries, BatchRows(rows, BatchSlots(len(rows)) if is_in_place else None)]
