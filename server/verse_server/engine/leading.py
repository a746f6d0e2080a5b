"""Rank 0 of a sharded model: whatever makes the model compute is first told to the others.

The parts of the engine that do such things have their twins here, which differ in nothing else;
what is said, and why so, is in `followers`.
"""

from collections import abc
from collections.abc import Callable, Collection, Iterable
from typing import Any, cast
from weakref import WeakKeyDictionary

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from verse.base_model import BaseModel, load_base_model
from verse.machines.joining import join_group
from verse.machines.ranks import Ranks
from verse_server.config import EngineConfig
from verse_server.engine.adapters.lora import LoraBank, SlotWeights
from verse_server.engine.adapters.shards import ShardedBank, ShardedLayers
from verse_server.engine.adapters.weights import Factors
from verse_server.engine.batch import Batch, never_excluded
from verse_server.engine.decoding import Drawn
from verse_server.engine.followers import (
    Add,
    BatchStep,
    Begin,
    Clear,
    Close,
    DrawnTokens,
    Keep,
    Load,
    Pick,
    PlanMessage,
    ProbePrompt,
    Remove,
    Score,
    Tensor,
    encode_plan,
)
from verse_server.engine.kv_cache import PrefixCache, Version
from verse_server.engine.pacing import Pacing
from verse_server.engine.sampling.sampler import Sampler, StepLogits
from verse_server.engine.scoring import PromptScorer, ScoringCache
from verse_server.engine.sequence import Sequence
from verse_server.engine.sharding import load_part

Send = Callable[[PlanMessage], None]


class LeadingSampler(Sampler):
    """Draws as any other, and tells what it drew.

    The tokens handed out are written late on a GPU, too: the next forward must not begin here
    before the other ranks can begin theirs.
    """

    def __init__(self, excluded: Collection[int], send: Send) -> None:
        super().__init__(excluded)
        self._send = send
        self._drawn: mx.array | None = None
        self._handed = mx.array([], dtype=mx.uint32)

    @property
    def is_late(self) -> bool:
        """See `Sampler`."""
        return self._drawn is not None

    def sample(self, logits: StepLogits, inputs: mx.array, rows: list[Sequence]) -> mx.array:
        """See `Sampler`."""
        self.settle()
        self._drawn = super().sample(logits, inputs, rows)
        mx.async_eval(logits)  # pyright: ignore[reportUnknownMemberType]
        self._handed = mx.array([0] * len(rows), dtype=mx.uint32)
        return self._handed

    def settle(self) -> None:
        """See `Sampler`."""
        super().settle()
        drawn, self._drawn = self._drawn, None
        if drawn is not None:
            tokens = cast(list[int], drawn.tolist())
            np.array(self._handed, copy=False)[:] = tokens
            self._send(DrawnTokens(tuple(tokens)))


class LeadingBatch(Batch):
    """The batch that the other ranks have, too."""

    def __init__(
        self,
        base: BaseModel,
        bank: LoraBank,
        max_rows: int,
        prefixes: PrefixCache,
        on_wait: Callable[[], None],
        pacing: Pacing,
        *,
        send: Send,
    ) -> None:
        sampler = LeadingSampler(never_excluded(base), send)
        super().__init__(base, bank, max_rows, prefixes, on_wait, pacing, sampler)
        self._ends = base.end_tokens
        self._send = send
        self._numbers: WeakKeyDictionary[Sequence, int] = WeakKeyDictionary()
        self._num_added = 0

    def add(
        self,
        rows: Collection[Sequence],
        max_tokens: int,
        stop_tokens: Iterable[int] = (),
        *,
        ignore_eos: bool = False,
    ) -> None:
        """See `Batch`."""
        ends = tuple(stop_tokens) if ignore_eos else (*self._ends, *stop_tokens)
        for row in rows:
            self._numbers[row] = self._num_added
            self._num_added += 1
        first = next(iter(rows))
        numbers = tuple(self._numbers[row] for row in rows)
        self._send(Add(numbers, first.prompt, first.adapter_slots, first.version, max_tokens, ends))
        super().add(rows, max_tokens, ends, ignore_eos=True)

    def advance(self, prefill_tokens: int) -> list[Drawn]:
        """See `Batch`."""
        if not self.is_empty:
            self._send(BatchStep(prefill_tokens))
        return super().advance(prefill_tokens)

    def remove(self, rows: Collection[Sequence]) -> None:
        """See `Batch`."""
        numbers = [self._numbers.pop(row) for row in rows if row in self._numbers]
        if numbers:
            self._send(Remove(tuple(numbers)))
        super().remove(rows)


class LeadingScorer(PromptScorer):
    """Scores prompts with the other ranks."""

    def __init__(
        self, base: BaseModel, bank: LoraBank, prefixes: PrefixCache, *, send: Send
    ) -> None:
        super().__init__(base, bank, prefixes)
        self._send = send

    def new_cache(self) -> ScoringCache:
        """See `PromptScorer`."""
        return LeadingCache(self._model, self._bank, self._send)

    def store(
        self, version: Version, tokens: list[int], cache: ScoringCache, row: int | None
    ) -> None:
        """See `PromptScorer`."""
        self._send(Keep(version, tuple(tokens), row))
        super().store(version, tokens, cache, row)


class LeadingCache(ScoringCache):
    """Keys and values that the other ranks have, too."""

    def __init__(self, model: Any, bank: LoraBank, send: Send) -> None:
        super().__init__(model, bank)
        self._send = send
        self._is_new = True

    def forward(self, rows: abc.Sequence[abc.Sequence[int]], slots: SlotWeights) -> mx.array:
        """See `ScoringCache`."""
        self._send(Score(tuple(map(tuple, rows)), slots, self._is_new))
        self._is_new = False
        return super().forward(rows, slots)

    def pick(self, rows: abc.Sequence[int], num_tokens: int) -> None:
        """See `ScoringCache`."""
        self._send(Pick(tuple(rows), num_tokens))
        super().pick(rows, num_tokens)


class LeadingBank(ShardedBank):
    """Adapters that come to all ranks: their files need to be here alone."""

    def __init__(
        self,
        model: nn.Module,
        dtype: mx.Dtype,
        layers: ShardedLayers,
        group: mx.distributed.Group,
        send: Send,
    ) -> None:
        super().__init__(model, dtype, layers, group)
        self._send = send

    def take_in(self, slot: int, path: str, whole: Factors) -> tuple[float, bool]:
        """See `ShardedBank`."""
        m = None if whole.m is None else Tensor.of(whole.m)
        self._send(Load(slot, path, Tensor.of(whole.a), Tensor.of(whole.b), m))
        return super().take_in(slot, path, whole)

    def clear(self, slot: int) -> None:
        """See `LoraBank`."""
        self._send(Clear(slot))
        super().clear(slot)


class Leader:
    """Makes the parts of an engine whose model is shared with other ranks. Engine thread only."""

    def __init__(self, config: EngineConfig, ranks: Ranks) -> None:
        self._config = config
        self._ranks = ranks

    def send(self, message: PlanMessage) -> None:
        """Tell the other ranks."""
        self._ranks.broadcast(encode_plan(message))

    def load(self, on_progress: Callable[[float], None]) -> tuple[BaseModel, LeadingBank]:
        """Load this rank's part of the model, and make room for adapters; raises as `load_part`."""
        group = join_group(self._ranks)
        assert group is not None  # there are others
        part = load_part(self._config, self._ranks, group, on_progress)
        base = part.base
        return base, LeadingBank(base.model, base.dtype, part.layers, group, self.send)

    def begin(self, prefix_bytes: int, bytes_per_token: int) -> None:
        """Tell how large all is."""
        self.send(Begin(self._config.max_batch, prefix_bytes, bytes_per_token))

    def probe(self, rows: Collection[SlotWeights], prompt: Collection[int]) -> None:
        """All ranks are about to call `forward.next_logits`."""
        self.send(ProbePrompt(tuple(rows), tuple(prompt)))

    def close(self) -> None:
        """It is over."""
        self.send(Close())


def load_base(
    config: EngineConfig, leader: Leader | None, on_progress: Callable[[float], None]
) -> tuple[BaseModel, LoraBank]:
    """The base and the room for adapters on it; a leader's part, where there is one.

    Raises:
        UserError: it cannot be loaded.
    """
    if leader is not None:
        return leader.load(on_progress)
    base = load_base_model(config.model, on_progress, cpu_weights=config.cpu_weights)
    return base, LoraBank(base.model, base.dtype)
