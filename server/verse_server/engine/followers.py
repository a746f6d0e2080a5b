"""What the ranks of a sharded model say to each other, and what all but the first one do.

Rank 0 alone takes requests, decides and draws. Every call that makes the model compute, or changes
what it computes with, goes to the others as a message before rank 0 makes it, so that all ranks
have the same batch, the same adapters in the same slots and the same prefixes:

    Begin        how large all is               Load         a module of an adapter
    Add          rows join the queue            Clear        a slot is emptied
    Remove       rows leave                     Score        a chunk of prompts to be scored
    BatchStep    of all rows, and of how much   Pick         which of those go on
                 of prompts                     Keep         one goes to the prefix cache
    DrawnTokens  what rank 0 drew from it       ProbePrompt  one prompt by several rows
    Close        the end

    rank 0   Add  BatchStep ─ forward ─ draws, DrawnTokens ── BatchStep ─ forward ─ ...
    rank k                 └─ forward ─ waits ────────────┘            └─ forward ─ ...

Messages go over the connections that the ranks have for such (`verse.machines`), one way and in
order; nobody answers. Arrays go through mlx's group, inside the forward. What rank 0 bases its
decisions on, clocks above all, is never asked of another rank: a slow one is waited for, no more.
"""

from collections.abc import Callable
from typing import cast

import mlx.core as mx
import msgspec
import numpy as np

from verse.base_model import BaseModel
from verse.machines.joining import join_group
from verse.machines.ranks import Ranks
from verse_server.config import EngineConfig
from verse_server.engine.adapters.lora import SlotWeights
from verse_server.engine.adapters.shards import ShardedBank
from verse_server.engine.adapters.weights import Factors
from verse_server.engine.batch import Batch
from verse_server.engine.forward import next_logits
from verse_server.engine.kv_cache import PrefixCache, Version
from verse_server.engine.memory import (
    bytes_per_token,
    give_memory_back,
    limit_memory,
    set_up_heap,
)
from verse_server.engine.sampling.sampler import Sampler, StepLogits
from verse_server.engine.scoring import ScoringCache
from verse_server.engine.sequence import Sequence
from verse_server.engine.sharding import load_part


class Tensor(msgspec.Struct, frozen=True):
    """A float32 array on its way."""

    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, array: mx.array) -> "Tensor":
        """Its numbers."""
        return cls(tuple(array.shape), np.array(array).tobytes())

    @property
    def array(self) -> mx.array:
        """The array again."""
        return mx.array(np.frombuffer(self.data, np.float32).reshape(self.shape))


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """How large all is, as rank 0 has it."""

    max_rows: int
    prefix_bytes: int
    bytes_per_token: int
    """Of keys and values, in the layers that rank 0 has."""

    def prefix_bytes_for(self, bytes_per_token: int) -> int:
        """For as many tokens on a rank with other layers: what is evicted must be the same."""
        return self.prefix_bytes * bytes_per_token // max(1, self.bytes_per_token)


class Add(msgspec.Struct, frozen=True, tag="add"):
    """Rows of one prompt are queued for prefill."""

    rows: tuple[int, ...]
    prompt: tuple[int, ...]
    slots: SlotWeights
    version: Version
    max_tokens: int
    ends: tuple[int, ...]


class Remove(msgspec.Struct, frozen=True, tag="remove"):
    """Rows leave before their end."""

    rows: tuple[int, ...]


class BatchStep(msgspec.Struct, frozen=True, tag="step"):
    """See `Batch.advance`."""

    prefill_tokens: int


class DrawnTokens(msgspec.Struct, frozen=True, tag="drawn"):
    """One token for each row of the last forward."""

    tokens: tuple[int, ...]


class Load(msgspec.Struct, frozen=True, tag="load"):
    """One module of an adapter comes into a slot."""

    slot: int
    module: str
    a: Tensor
    b: Tensor
    m: Tensor | None


class Clear(msgspec.Struct, frozen=True, tag="clear"):
    """A slot is emptied."""

    slot: int


class Score(msgspec.Struct, frozen=True, tag="score"):
    """A chunk of prompts that are scored together; the first one begins a new cache."""

    rows: tuple[tuple[int, ...], ...]
    slots: SlotWeights
    is_first: bool


class Pick(msgspec.Struct, frozen=True, tag="pick"):
    """Which rows the cache has from now on, and how many tokens of each."""

    rows: tuple[int, ...]
    num_tokens: int


class Keep(msgspec.Struct, frozen=True, tag="keep"):
    """A row of that cache, or the only one, is left to those who ask with the same beginning."""

    version: Version
    tokens: tuple[int, ...]
    row: int | None


class ProbePrompt(msgspec.Struct, frozen=True, tag="probe"):
    """See `forward.next_logits`."""

    rows: tuple[SlotWeights, ...]
    prompt: tuple[int, ...]


class Close(msgspec.Struct, frozen=True, tag="close"):
    """Rank 0 is through."""


PlanMessage = (
    Begin
    | Add
    | Remove
    | BatchStep
    | DrawnTokens
    | Load
    | Clear
    | Score
    | Pick
    | Keep
    | ProbePrompt
    | Close
)

encode_plan = msgspec.msgpack.Encoder().encode
decode_plan = msgspec.msgpack.Decoder(PlanMessage).decode


class FollowedRow:
    """What a batch has to know of a row whose tokens another rank draws."""

    def __init__(self, message: Add) -> None:
        self.prompt = message.prompt
        self.version = message.version
        self.adapter_slots = message.slots
        self.tokens: list[int] = []
        self.num_cached = 0


class FollowingSampler(Sampler):
    """Hands out tokens that rank 0 draws."""

    def __init__(self, receive: Callable[[], PlanMessage]) -> None:
        super().__init__()
        self._receive = receive
        self._handed: mx.array | None = None

    @property
    def is_late(self) -> bool:
        """See `Sampler`."""
        return self._handed is not None

    def sample(self, logits: StepLogits, inputs: mx.array, rows: list[Sequence]) -> mx.array:
        """Compute this rank's part of the logits; the tokens come with `settle`."""
        del inputs
        self.settle()
        mx.async_eval(logits)  # pyright: ignore[reportUnknownMemberType]
        self._handed = mx.array([0] * len(rows), dtype=mx.uint32)
        return self._handed

    def settle(self) -> None:
        """Wait for them, if they have not come."""
        if self._handed is not None:
            self.fill(cast(DrawnTokens, self._receive()))

    def fill(self, message: DrawnTokens) -> None:
        """They have come."""
        handed, self._handed = self._handed, None
        np.array(handed, copy=False)[:] = message.tokens


class Follower:
    """One rank that does what rank 0 does. On the thread that loaded the model."""

    def __init__(
        self, base: BaseModel, bank: ShardedBank, receive: Callable[[], PlanMessage]
    ) -> None:
        """Wait for the first message.

        Args:
            base: This rank's part.
            bank: The adapters on it.
            receive: Waits for the next message.
        """
        num_bytes = bytes_per_token(base)  # all ranks compute this one
        begin = cast(Begin, receive())
        self._base = base
        self._bank = bank
        self._receive = receive
        self._prefixes = PrefixCache(begin.prefix_bytes_for(num_bytes))
        self._sampler = FollowingSampler(receive)
        self._batch = Batch(base, bank, begin.max_rows, self._prefixes, sampler=self._sampler)
        self._rows: dict[int, Sequence] = {}
        self._numbers: dict[Sequence, int] = {}
        self._scored = ScoringCache(base.model, bank)

    def follow(self) -> None:
        """Until rank 0 says that it is over."""
        while not isinstance(message := self._receive(), Close):
            self._do(message)
            if self._batch.is_empty and isinstance(message, BatchStep):
                give_memory_back()

    def _do(self, message: PlanMessage) -> None:
        match message:
            case BatchStep():
                self._step(message)
            case DrawnTokens():
                self._sampler.fill(message)
            case Add():
                self._add(message)
            case Remove():
                self._batch.remove([row for n in message.rows if (row := self._forget(n))])
            case Load():
                m = None if message.m is None else message.m.array
                factors = Factors(message.a.array, message.b.array, m)
                self._bank.take_in(message.slot, message.module, factors)
            case Clear():
                self._bank.clear(message.slot)
            case Score() | Pick() | Keep():
                self._score(message)
            case ProbePrompt():
                logits = next_logits(self._base.model, self._bank, message.rows, message.prompt)
                mx.eval(logits)  # pyright: ignore[reportUnknownMemberType]
            case _:
                raise AssertionError(message)

    def _add(self, message: Add) -> None:
        # A batch looks at no more of a sequence than a followed row has, unless it draws.
        rows = {number: cast(Sequence, FollowedRow(message)) for number in message.rows}
        self._rows.update(rows)
        self._numbers.update({row: number for number, row in rows.items()})
        self._batch.add([*rows.values()], message.max_tokens, message.ends, ignore_eos=True)

    def _step(self, message: BatchStep) -> None:
        for drawn in self._batch.advance(message.prefill_tokens):
            if drawn.finish_reason is not None:
                self._forget(self._numbers[drawn.sequence])

    def _forget(self, number: int) -> Sequence | None:
        row = self._rows.pop(number, None)
        if row is not None:
            del self._numbers[row]
        return row

    def _score(self, message: Score | Pick | Keep) -> None:
        match message:
            case Score():
                if message.is_first:
                    self._scored = ScoringCache(self._base.model, self._bank)
                logits = self._scored.forward(message.rows, message.slots)
                mx.eval(logits)  # pyright: ignore[reportUnknownMemberType]
                self._scored.settle()
            case Pick():
                self._scored.pick(message.rows, message.num_tokens)
            case Keep():
                entries = self._scored.extract(message.row, len(message.tokens))
                self._prefixes.store(message.version, message.tokens, entries, 0)


def follow(config: EngineConfig, ranks: Ranks) -> None:
    """Serve as another rank than the first, until that one says that it is over.

    Raises:
        UserError: the model cannot be loaded, or not be split so.
    """
    group = join_group(ranks)
    assert group is not None  # there are others
    set_up_heap()
    part = load_part(config, ranks, group)
    bank = ShardedBank(part.base.model, part.base.dtype, part.layers, group)
    limit_memory(config, num_ranks=ranks.size)
    Follower(part.base, bank, lambda: decode_plan(ranks.broadcast(None))).follow()
