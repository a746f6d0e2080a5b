"""The running batch: mlx-lm's BatchGenerator, and the only module that knows it.

Its API changes often, so `tests/server/engine/test_batch.py` holds it to what is used here. Three
habits of it are used on purpose. It moves the entries of a row's cache list together, so
`BatchRows` rides along (`sequence`). It stops at the ends of a prompt's segments, so the keys
and values of everything but the last token can be taken out there and shared. And it samples from a
log-softmax over the whole vocabulary that it computes itself; that costs more than it is worth, so
the model hands it a single zero per row and `Sampler` draws from the logits kept aside.

One thing goes around it: a row that comes alone and whose prompt is nearly all known. It would take
three forwards to its first token, for the rest of the prompt, for the last token of it, and for the
token after, before which nothing is reported. Here it takes one.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Any, Literal, cast

import mlx.core as mx
import mlx.nn as nn
import msgspec
from mlx_lm.generate import BatchGenerator, StopSequences
from mlx_lm.models.cache import make_prompt_cache

from verse.base_model import BaseModel
from verse_server.engine.adapters.lora import LoraBank
from verse_server.engine.kv_cache import BatchSlots, PrefixCache, preallocated
from verse_server.engine.sampling.sampler import Sampler
from verse_server.engine.sequence import BatchRows, Sequence

_Finish = Literal["stop", "length"] | None

_AT_ONCE = 16
"""A prompt of which so few tokens are unknown takes no longer than one of them."""


class Drawn(msgspec.Struct, frozen=True):
    """One sequence's token of one step."""

    sequence: Sequence
    token: int
    finish_reason: _Finish


class _Group(msgspec.Struct):
    """Rows of one prompt. The first is prefilled; the others join with its keys and values."""

    rows: list[Sequence]
    max_tokens: int
    ends: frozenset[int]

    @property
    def head(self) -> list[int]:
        """The prompt without its last token, whose logits each row needs for itself."""
        return list(self.rows[0].prompt[:-1])

    @property
    def stop(self) -> StopSequences:
        """What ends a row, as BatchGenerator takes it."""
        return StopSequences([(token,) for token in sorted(self.ends)])


class _RoutedModel(nn.Module):
    """The base as BatchGenerator calls it: routes adapters by the rows, keeps the logits aside."""

    def __init__(
        self, model: nn.Module, bank: LoraBank, sampler: Sampler, on_wait: Callable[[], None]
    ) -> None:
        super().__init__()
        self._model = model
        self._bank = bank
        self._on_wait = on_wait
        self.sampler = sampler
        self._pending: tuple[mx.array, mx.array, BatchRows] | None = None

    def __call__(self, tokens: mx.array, cache: list[Any]) -> mx.array:
        """(batch, seq) -> (batch, 1, 1) zeros; see the module's docstring."""
        states: BatchRows = cache[-1]
        self._bank.route.set(states.adapter_slots, self._bank)
        logits = cast(mx.array, self._model(states.by_slot(tokens), cache=cache[:-1]))
        self._pending = (logits, tokens, states)
        return mx.zeros((tokens.shape[0], 1, 1))

    def draw(self, _: mx.array | None = None) -> mx.array:
        """The sampler of all rows: draws from the logits of the forward just built."""
        assert self._pending is not None
        logits, tokens, states = self._pending
        self._pending = None
        self._on_wait()
        return self.sampler.sample(states.by_row(logits[:, -1]), tokens[:, -1], states.rows)


class Batch:
    """Rows that run together. Engine thread only."""

    def __init__(
        self,
        base: BaseModel,
        bank: LoraBank,
        max_rows: int,
        prefixes: PrefixCache,
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        """Make an empty batch.

        Args:
            base: The model.
            bank: The adapters on it.
            max_rows: More wait.
            prefixes: What is known of prompts.
            on_wait: Called in every step that decodes, when its forward is ready to be computed:
                the time in which this thread needs no Python.
        """
        self._base = base
        self._max_rows = max_rows
        self._prefixes = prefixes
        # As mlx_lm.server: XTC must neither join lines nor make an answer endless.
        newline = base.hf_tokenizer.encode("\n", add_special_tokens=False)
        sampler = Sampler({*newline, *base.end_tokens})
        self._routed = _RoutedModel(base.model, bank, sampler, on_wait)
        self._added: list[_Group] = []
        self._rows: dict[int, Sequence] = {}
        self._prefilling: dict[int, _Group] = {}
        self._generator = BatchGenerator(
            self._routed,
            sampler=self._routed.draw,
            completion_batch_size=max_rows,
            prefill_batch_size=max_rows,
            stream=mx.default_stream(mx.default_device()),
        )

    @property
    def is_decoding(self) -> bool:
        """Whether the next step decodes, and calls `on_wait`."""
        drawn = self._routed.sampler.is_late or any(row.drawn for row in self._rows.values())
        return bool(self._rows) and drawn

    def add(
        self,
        rows: Collection[Sequence],
        max_tokens: int,
        stop_tokens: Iterable[int] = (),
        *,
        ignore_eos: bool = False,
    ) -> None:
        """Queue rows for prefill; they join at the next steps.

        Args:
            rows: At least one, all of the same prompt, adapters and strengths.
            max_tokens: At least 1, for each.
            stop_tokens: Token ids that end a row besides the tokenizer's end tokens.
            ignore_eos: The tokenizer's own do not.
        """
        ends = frozenset(stop_tokens if ignore_eos else (*self._base.end_tokens, *stop_tokens))
        self._added.append(_Group(list(rows), max_tokens, ends))

    def step(self) -> list[Drawn]:
        """Prefill what is queued, or decode one token of every row; finished rows leave."""
        was_empty = not self._rows
        drawn = self._take_added()
        # If nobody else waits for a token, this one need not wait for the others'.
        return drawn if drawn and was_empty else [*drawn, *self._step()]

    def _take_added(self) -> list[Drawn]:
        """Let the rows added since the last step in; what a row alone has drawn already."""
        groups, self._added = self._added, []
        if len(groups) == 1 and len(groups[0].rows) == 1:
            return self._let_in_alone(groups[0])
        for group in groups:
            self._let_in(group, *self._prefixes.fetch(group.rows[0].version, group.head))
        return []

    def _let_in(self, group: _Group, cache: list[Any] | None, num_cached: int) -> None:
        if num_cached == len(group.head):
            for row in group.rows:
                self._insert(group, row, cache, num_cached)
        else:
            uid = self._insert(group, group.rows[0], cache, num_cached)
            self._prefilling[uid] = group

    def _let_in_alone(self, group: _Group) -> list[Drawn]:
        (row,) = group.rows
        cache, num_cached = self._prefixes.fetch(row.version, group.head)
        rest = row.prompt[num_cached:]
        if cache is None or len(rest) > _AT_ONCE:
            self._let_in(group, cache, num_cached)
            return []
        row.num_cached = num_cached
        row.tokens[:] = group.head
        self._routed(mx.array([rest]), [*cache, BatchRows([row])])
        drawn = self._routed.draw()
        self._routed.sampler.settle()
        token = cast(int, drawn.item())
        row.tokens.append(row.prompt[-1])
        if token in group.ends:
            return [Drawn(row, token, "stop")]
        if group.max_tokens == 1:
            return [Drawn(row, token, "length")]
        self._join(group, row, cache, [[token]], group.max_tokens - 1)
        return [Drawn(row, token, None)]

    def _step(self) -> list[Drawn]:
        prefilled, responses = cast(Any, self._generator).next()
        for response in prefilled:
            if response.end_of_segment and not response.end_of_prompt:
                self._share(response.uid)
        drawn = [
            Drawn(self._rows[r.uid], r.token, cast(_Finish, r.finish_reason)) for r in responses
        ]
        for response in responses:
            if response.finish_reason is not None:
                del self._rows[response.uid]
        return drawn

    def remove(self, rows: Collection[Sequence]) -> None:
        """Take rows out at once, wherever they are; others are ignored."""
        uids = [uid for uid, row in self._rows.items() if row in rows]
        self._generator.remove(uids)  # pyright: ignore[reportUnknownMemberType]
        for uid in uids:
            del self._rows[uid]
            self._prefilling.pop(uid, None)
        for group in (*self._added, *self._prefilling.values()):
            group.rows = [row for row in group.rows if row not in rows]
        self._added = [group for group in self._added if group.rows]

    def close(self) -> None:
        """Give back what BatchGenerator set for the whole process."""
        self._generator.close()

    def _insert(
        self, group: _Group, row: Sequence, cache: list[Any] | None, num_cached: int
    ) -> int:
        """Hand a row to BatchGenerator, with the keys and values of its first tokens if known."""
        head, last = group.head, row.prompt[-1]
        row.num_cached = num_cached
        row.tokens[:] = head[:num_cached]
        entries = make_prompt_cache(self._base.model) if cache is None else cache
        return self._join(group, row, entries, [head[num_cached:], [last]], group.max_tokens)

    def _join(
        self,
        group: _Group,
        row: Sequence,
        entries: list[Any],
        segments: list[list[int]],
        max_tokens: int,
    ) -> int:
        in_place = preallocated(entries, self._max_rows)
        states = BatchRows([row], BatchSlots(1) if in_place else None)
        (uid,) = self._generator.insert_segments(
            [segments],
            [max_tokens],
            caches=[[*(in_place or entries), states]],
            all_tokens=[row.tokens],
            stop_sequences=[group.stop],
        )
        self._rows[uid] = row
        return uid

    def _share(self, uid: int) -> None:
        """The head of a prompt is computed: keep it, and let the other rows of its group join."""
        group = self._prefilling.pop(uid, None)
        if group is None:
            return
        first = self._rows[uid]
        cache = cast(Any, self._generator).extract_cache([uid])[uid][0][:-1]
        self._prefixes.store(first.version, group.head, cache, first.num_cached)
        for row in group.rows:
            if row is not first:
                self._insert(group, row, cache, len(group.head))
                row.num_cached = first.num_cached
