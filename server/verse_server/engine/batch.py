"""The running batch: mlx-lm's BatchGenerator, and the only module that knows it.

Its API changes often, so `tests/server/engine/test_batch.py` holds it to what is used here. Two
habits of it are used on purpose. It moves the entries of a row's cache list together, so
`RowStates` rides along (see `rows`). And it samples from a log-softmax over the whole vocabulary
that it computes itself; that costs more than it is worth, so the model hands it a single zero per
row and `sample` draws from the logits kept aside.
"""

from collections.abc import Sequence
from typing import Any, Literal, cast

import mlx.core as mx
import mlx.nn as nn
import msgspec
from mlx_lm.generate import BatchGenerator, StopSequences
from mlx_lm.models.cache import make_prompt_cache

from verse.base_model import BaseModel
from verse_server.engine.lora import LoraBank
from verse_server.engine.rows import Row, RowStates
from verse_server.engine.sampling import sample

_Finish = Literal["stop", "length"] | None


class Drawn(msgspec.Struct, frozen=True):
    """One row's token of one step."""

    uid: int
    token: int
    finish_reason: _Finish


class _RoutedModel(nn.Module):
    """The base as BatchGenerator calls it: routes adapters by the rows, keeps the logits aside."""

    def __init__(self, model: nn.Module, bank: LoraBank) -> None:
        super().__init__()
        self._model = model
        self._bank = bank
        self._pending: tuple[mx.array, mx.array, RowStates] | None = None

    def __call__(self, tokens: mx.array, cache: list[Any]) -> mx.array:
        """(batch, seq) -> (batch, 1, 1) zeros; see the module's docstring."""
        states: RowStates = cache[-1]
        self._bank.route.set(states.slots, self._bank)
        logits = cast(mx.array, self._model(tokens, cache=cache[:-1]))
        self._pending = (logits, tokens, states)
        return mx.zeros((tokens.shape[0], 1, 1))

    def draw(self, _: mx.array) -> mx.array:
        """The sampler of all rows: draws from the logits of the forward just built."""
        assert self._pending is not None
        logits, tokens, states = self._pending
        self._pending = None
        return sample(logits[:, -1], tokens[:, -1], states.rows)


class RowBatch:
    """Rows that run together. Engine thread only."""

    def __init__(self, base: BaseModel, bank: LoraBank, max_rows: int) -> None:
        self._base = base
        self._routed = _RoutedModel(base.model, bank)
        self._stop = StopSequences([(token,) for token in sorted(base.end_tokens)])
        self._generator = BatchGenerator(
            self._routed,
            sampler=self._routed.draw,
            completion_batch_size=max_rows,
            prefill_batch_size=max_rows,
            stream=mx.default_stream(mx.default_device()),
        )

    def add(self, row: Row, max_tokens: int, stop_tokens: Sequence[int] = ()) -> int:
        """Queue a row for prefill; it joins at the next step.

        Args:
            row: Its prompt has at least one token.
            max_tokens: At least 1.
            stop_tokens: Token ids that end the row besides the tokenizer's end tokens.

        Returns:
            The row's uid.
        """
        cache = [*make_prompt_cache(self._base.model), RowStates([row])]
        stop = self._stop
        if stop_tokens:
            ends = {*self._base.end_tokens, *stop_tokens}
            stop = StopSequences([(token,) for token in sorted(ends)])
        (uid,) = self._generator.insert(
            [list(row.prompt)],
            [max_tokens],
            caches=[cache],
            all_tokens=[row.tokens],
            stop_sequences=[stop],
        )
        return uid

    def step(self) -> list[Drawn]:
        """Prefill what is queued, or decode one token of every row; finished rows leave."""
        _, responses = self._generator.next()
        return [Drawn(r.uid, r.token, cast(_Finish, r.finish_reason)) for r in responses]

    def remove(self, uids: Sequence[int]) -> None:
        """Take rows out at once, wherever they are; unknown uids are ignored."""
        self._generator.remove(list(uids))  # pyright: ignore[reportUnknownMemberType]

    def close(self) -> None:
        """Give back what BatchGenerator set for the whole process."""
        self._generator.close()
