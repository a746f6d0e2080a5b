"""The rows that are being written: one forward for all of them gives each its next token."""

import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal, cast

import mlx.core as mx
import msgspec

from verse_server.engine.forward import RoutedModel
from verse_server.engine.kv_cache import PreallocatedKVCache
from verse_server.engine.sequence import Sequence

Finish = Literal["stop", "length"] | None

_CLEAR_STEPS = 512
"""After so many, memory of shapes that are gone is not kept for reuse any longer."""


class Drawn(msgspec.Struct, frozen=True):
    """One sequence's token of one step."""

    sequence: Sequence
    token: int
    finish_reason: Finish


@dataclass(eq=False)
class DecodeRow:
    """What the batch has to know of a row."""

    sequence: Sequence
    ends: frozenset[int]
    num_left: int
    """Tokens it may still have, the one in flight included."""
    is_reported: bool = False
    """Whether the token in flight has been reported already."""


class DecodeBatch:
    """Rows that each have a token in flight: drawn, or about to be, and not in the KV cache yet.

    A step builds the forward on the tokens in flight, which draws the next ones, and reports those
    in flight while it is computed.
    """

    def __init__(self, model: RoutedModel) -> None:
        self._model = model
        self._rows: list[DecodeRow] = []
        self._cache: list[Any] = []
        self._tokens: mx.array | None = None
        self._num_steps = 0

    def __len__(self) -> int:
        return len(self._rows)

    def join(self, rows: list[DecodeRow], cache: list[Any], tokens: mx.array) -> None:
        """Rows come behind the others.

        Args:
            rows: In their batch's order.
            cache: One entry a layer and their `BatchRows`; not to be used any more.
            tokens: (rows,) in flight.
        """
        if self._tokens is None:
            self._cache, self._tokens = cache, tokens
        else:
            for ours, theirs in zip(self._cache, cache, strict=True):
                ours.extend(theirs)
            self._tokens = mx.concatenate([self._tokens, tokens])
        self._rows += rows

    @property
    def num_slots(self) -> int:
        """How many rows there is room for without a copy of all keys and values."""
        slots = [e.num_slots for e in self._cache if isinstance(e, PreallocatedKVCache)]
        return min(slots, default=sys.maxsize)

    def reserve(self, num_rows: int, seconds: float) -> bool:
        """Make room for so many rows, half a layer after the other; whether all layers have it.

        Args:
            num_rows: Those here and those about to join.
            seconds: As long as it may take; half a layer is done in any case.
        """
        end = time.monotonic() + seconds
        for entry in self._cache:
            while isinstance(entry, PreallocatedKVCache) and entry.num_slots < num_rows:
                begun = time.monotonic()
                entry.reserve(num_rows)
                mx.eval(entry.keys, entry.values)  # pyright: ignore[reportUnknownMemberType]
                now = time.monotonic()
                if now + (now - begun) > end:  # the next half takes as long
                    return self.num_slots >= num_rows
        return True

    def wait(self) -> None:
        """Until the tokens in flight are drawn."""
        self._model.sampler.settle()
        if self._tokens is not None:
            mx.eval(self._tokens)  # pyright: ignore[reportUnknownMemberType]

    def report(self) -> list[Drawn]:
        """What is in flight, without a step: nobody else would wait for it."""
        if self._tokens is None:
            return []
        self.wait()
        drawn = self._reported(cast(list[int], self._tokens.tolist()))
        for row in self._rows:
            row.is_reported = True
        return drawn

    def step(self, on_built: Callable[[], None] = lambda: None) -> list[Drawn]:
        """Send the tokens in flight through the model, and report them.

        Args:
            on_built: Called when the forward has been built, before it begins.
        """
        inputs = self._tokens
        if inputs is None:
            return []
        logits = self._model.forward(inputs[:, None], self._cache)
        on_built()
        sequences = [row.sequence for row in self._rows]
        self._tokens = self._model.draw(logits, inputs, sequences)
        mx.async_eval(self._tokens)  # pyright: ignore[reportUnknownMemberType]
        tokens = cast(list[int], inputs.tolist())
        for row, token in zip(self._rows, tokens, strict=True):
            row.sequence.tokens.append(token)
        self._num_steps += 1
        if self._num_steps % _CLEAR_STEPS == 0:
            mx.clear_cache()
        return self._reported(tokens)

    def remove(self, sequences: Collection[Sequence]) -> None:
        """Take rows out; others are ignored."""
        self._keep([i for i, row in enumerate(self._rows) if row.sequence not in sequences])

    def _reported(self, tokens: list[int]) -> list[Drawn]:
        drawn: list[Drawn] = []
        keep: list[int] = []
        for index, (row, token) in enumerate(zip(self._rows, tokens, strict=True)):
            if row.is_reported:
                row.is_reported = False
                keep.append(index)
                continue
            row.num_left -= 1
            reason: Finish = (
                "stop" if token in row.ends else "length" if row.num_left == 0 else None
            )
            drawn.append(Drawn(row.sequence, token, reason))
            if reason is None:
                keep.append(index)
        self._keep(keep)
        return drawn

    def _keep(self, indices: list[int]) -> None:
        if len(indices) == len(self._rows):
            return
        self._rows = [self._rows[index] for index in indices]
        if not indices or self._tokens is None:
            self._cache, self._tokens = [], None
            return
        for entry in self._cache:
            entry.filter(indices)
        self._tokens = self._tokens[mx.array(indices)]
