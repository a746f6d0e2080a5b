"""The running batch: prompts are computed in `prefill`'s order, rows written on in `decoding`.

What mlx-lm's BatchGenerator does for its server is done here with other aims. A row that joins
costs one forward: the rest of its prompt, together with all who join in the same pass, and its
first token is drawn from that. mlx-lm takes three before it reports one. If only the last token of
its prompt is not known yet, it costs none: that one goes through the model with those in flight.
And while rows are being written, no more of prompts is computed between two of their steps than
`Pacing` allows.

Of mlx-lm the entries of cache lists are used: they merge, extend, filter and extract rows, and
`BatchRows` rides along as one more entry, so that what belongs to a row cannot drift from it.
"""

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from verse.base_model import BaseModel
from verse.cpu_weights.decoder import forward_of
from verse_server.engine.adapters.lora import LoraBank
from verse_server.engine.decoding import DecodeBatch, DecodeRow, Drawn
from verse_server.engine.forward import RoutedModel, merged
from verse_server.engine.kv_cache import PrefixCache
from verse_server.engine.pacing import Pacing
from verse_server.engine.prefill import ROW_TOKENS, PrefillQueue, PrefillWork, PromptGroup
from verse_server.engine.sampling.sampler import Sampler, taken
from verse_server.engine.sequence import BatchRows, Sequence

_MOST_TOKENS = 2048
"""In one forward, while no row waits for it to end."""
_REUSED_BYTES = 32 << 20
"""Of freed arrays: prompts are of many shapes, and not all that they leave is of use again."""


def never_excluded(base: BaseModel) -> frozenset[int]:
    """As mlx_lm.server: XTC must neither join lines nor make an answer endless."""
    return base.end_tokens.union(base.hf_tokenizer.encode("\n", add_special_tokens=False))


@dataclass(frozen=True)
class _Prefilled:
    """Work that has begun."""

    num_tokens: int
    """And what the rows cost, in tokens."""
    begun: float
    outputs: list[Any]


class Batch:
    """Rows that run together. Engine thread only."""

    def __init__(
        self,
        base: BaseModel,
        bank: LoraBank,
        max_rows: int,
        prefixes: PrefixCache,
        on_wait: Callable[[], None] = lambda: None,
        pacing: Pacing | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        """Make an empty batch.

        Args:
            base: The model.
            bank: The adapters on it.
            max_rows: More wait.
            prefixes: What is known of prompts.
            on_wait: Called in every step that decodes, when its forward is ready to be computed:
                the time in which this thread needs no Python.
            pacing: Bounds what is computed of prompts while rows decode.
            sampler: Draws in place of one of its own.
        """
        self._base = base
        self._max_rows = max_rows
        self._prefixes = prefixes
        self._on_wait = on_wait
        self._pacing = pacing or Pacing()
        threads = forward_of(base.model).threads if base.is_packed else None
        sampler = sampler or Sampler(never_excluded(base), threads)
        self._at_once = base.is_packed
        self._routed = RoutedModel(base.model, bank, sampler, on_wait, at_once=self._at_once)
        self._prompts = PrefillQueue(base, prefixes)
        self._decoding = DecodeBatch(self._routed)

    @property
    def num_decoding(self) -> int:
        """Rows that wait for their next token. If there are any, the next step calls `on_wait`."""
        return len(self._decoding)

    @property
    def has_prompts(self) -> bool:
        """Whether any are queued."""
        return len(self._prompts) > 0

    @property
    def is_empty(self) -> bool:
        """Whether no row is here, queued ones included."""
        return not len(self._decoding) and not len(self._prompts)

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
        slots = next(iter(rows)).adapter_slots
        layer = self._routed.lowest_adapted_layer(slots)
        self._prompts.add(PromptGroup(list(rows), max_tokens, ends, adapted_layer=layer))

    def step(self) -> list[Drawn]:
        """Compute a part of what is queued, and one token of every row; finished rows leave."""
        return self.advance(self.plan())

    def plan(self) -> int:
        """How many tokens of prompts the next step may compute; 0 if none may join now.

        All that a step does follows from this number and from the tokens drawn.
        """
        if not self.num_decoding:
            return _MOST_TOKENS
        return self._pacing.prefill_tokens if self._has_room() else 0

    def advance(self, prefill_tokens: int) -> list[Drawn]:
        """As `step`, with what `plan` said."""
        is_decoding = self.num_decoding > 0
        if not prefill_tokens:
            return self._decoded()
        if is_decoding and (known := self._prompts.take_known(1 + prefill_tokens // ROW_TOKENS)):
            drawn = self._decoding.report()  # rows that have ended make room for those that join
            self._join_known(known)
            return [*drawn, *self._decoded()]
        work = self._prompts.next(prefill_tokens, but_known=is_decoding)
        if work is None:
            return self._decoded()
        begun = self._begin(work)
        if is_decoding and not self._at_once:  # both are computed together
            return self._decoded(on_built=lambda: self._finish(begun))
        self._finish(begun)
        if is_decoding:
            return self._decoded()
        self._begin_others(work.width, prefill_tokens - begun.num_tokens)
        return self._decoding.report()

    def _join_known(self, groups: list[PromptGroup]) -> None:
        """Let rows with known prompts join.

        Their last token is computed in the step of all rows, as any other that is in flight.
        """
        begun = time.monotonic()
        for group in groups:
            for row in group.rows:
                row.num_cached, row.tokens[:] = group.num_cached, group.head
            self._keep_prefix(group, group.entries)
        joining = [
            DecodeRow(row, group.ends, group.max_tokens, is_reported=True)
            for group in groups
            for row in group.rows
        ]
        lists = [group.entries for group in groups for _ in group.rows]
        rows = [row.sequence for row in joining]
        tokens = mx.array([row.prompt[-1] for row in rows], dtype=mx.uint32)
        self._decoding.join(joining, merged(lists, rows, self._max_rows), tokens)
        self._pacing.note_joined(time.monotonic() - begun)

    def _begin_others(self, width: int, num_tokens: int) -> None:
        """Prompts like the first ones, which did not fit into one forward with them, begin along.

        Once rows decode, the others would come in between their steps, bit by bit.
        """
        while num_tokens > 0 and (work := self._prompts.next_like(width, num_tokens)):
            begun = self._begin(work)
            self._finish(begun)
            num_tokens -= begun.num_tokens

    def _decoded(self, on_built: Callable[[], None] = lambda: None) -> list[Drawn]:
        """One step of the rows that decode.

        What is computed at once is known, so nobody waits a step for it, and no row that has ended
        is in another one.
        """
        drawn = self._decoding.step(on_built)
        return [*drawn, *self._decoding.report()] if self._at_once else drawn

    def remove(self, rows: Collection[Sequence]) -> None:
        """Take rows out at once, wherever they are; others are ignored."""
        self._prompts.remove(rows)
        self._decoding.remove(rows)

    def _has_room(self) -> bool:
        """Whether all who wait can join without a copy of all keys and values.

        If not, layers are copied as long as the rows that run may be kept waiting.
        """
        num_rows = self.num_decoding + self._prompts.num_rows
        if num_rows <= min(self._decoding.num_slots, self._max_rows) or not len(self._prompts):
            return True
        begun = self._wait_for_decoding()
        # Twice as many: whoever comes next finds room.
        wanted = min(max(num_rows, 2 * self.num_decoding), self._max_rows)
        has_room = self._decoding.reserve(wanted, self._pacing.left_seconds)
        self._pacing.spend(time.monotonic() - begun)
        # Otherwise there is room in the next pass, and nothing to be copied for it.
        return has_room and self._pacing.left_seconds > 0

    def _begin(self, work: PrefillWork) -> _Prefilled:
        """Start computing; rows whose prompts are done with it join those that decode."""
        started = time.monotonic()
        begun = self._begin_last(work) if work.is_last else self._begin_piece(work)
        # What computes at once has done so when those who decode are waited for.
        return replace(begun, begun=started) if self._at_once else begun

    def _begin_piece(self, work: PrefillWork) -> _Prefilled:
        (group,) = work.groups
        tokens = group.prompt[group.num_done : group.num_done + work.width]
        partial, num_tokens = work.partial(), work.num_tokens
        cache = [*group.entries, BatchRows(group.rows[:1])]
        self._routed.forward(mx.array([tokens]), cache, partial)
        work.note(partial)
        group.num_done += work.width
        begun = self._wait_for_decoding()
        states = [entry.state for entry in group.entries]
        mx.async_eval(states)  # pyright: ignore[reportUnknownMemberType]
        if group.num_left == 1 and not group.can_trim:
            self._prefixes.store(group.version, group.head, group.entries, group.num_known)
        return _Prefilled(num_tokens, begun, states)

    def _begin_last(self, work: PrefillWork) -> _Prefilled:
        groups, width, num_tokens = work.groups, work.width_below, work.num_tokens
        partial = work.partial()
        for group in groups:
            group.trim_to(len(group.prompt) - work.width, len(group.prompt) - width)
            for row in group.rows:
                row.num_cached, row.tokens[:] = group.num_cached, group.head
        firsts = [group.rows[0] for group in groups]
        cache = merged([group.entries for group in groups], firsts, self._max_rows)
        tokens = mx.array([group.prompt[-width:] for group in groups])
        logits, inputs = self._routed.forward(tokens, cache, partial), tokens[:, -1]
        work.note(partial)
        rows = [row for group in groups for row in group.rows]
        if len(rows) > len(groups):
            repeats = [i for i, group in enumerate(groups) for _ in group.rows]
            logits, inputs = taken(logits, repeats), inputs[mx.array(repeats)]
            cache = self._repeated(cache, groups, rows)
        begun = self._wait_for_decoding()
        drawn = self._routed.draw(logits, inputs, rows)
        mx.async_eval(drawn)  # pyright: ignore[reportUnknownMemberType]
        for row in rows:
            row.tokens.append(row.prompt[-1])
        self._keep_prefixes(groups, cache)
        joining = [DecodeRow(r, g.ends, g.max_tokens) for g in groups for r in g.rows]
        self._decoding.join(joining, cache, drawn)
        return _Prefilled(num_tokens, begun, [drawn])

    def _wait_for_decoding(self) -> float:
        """Until the step before is done, so that what begins now is timed alone; the time then."""
        self._on_wait()
        self._decoding.wait()
        return time.monotonic()

    def _finish(self, work: _Prefilled) -> None:
        self._routed.sampler.settle()
        mx.eval(work.outputs)  # pyright: ignore[reportUnknownMemberType]
        self._pacing.note_prefill(work.num_tokens, time.monotonic() - work.begun)
        if mx.get_cache_memory() > _REUSED_BYTES:
            mx.clear_cache()

    def _repeated(
        self, cache: list[Any], groups: list[PromptGroup], rows: list[Sequence]
    ) -> list[Any]:
        """Keys and values of each group's first row, for all of its rows."""
        alone = [[entry.extract(i) for entry in cache[:-1]] for i in range(len(groups))]
        lists = [alone[i] for i, group in enumerate(groups) for _ in group.rows]
        return merged(lists, rows, self._max_rows)

    def _keep_prefixes(self, groups: list[PromptGroup], cache: list[Any]) -> None:
        """Leave what was computed to those who ask with the same beginning."""
        index = 0
        for group in groups:
            if group.can_trim and self._prefixes.would_keep(group.num_new):
                entries = [entry.extract(index) for entry in cache[:-1]]
                for entry in entries:
                    entry.trim(1)
                self._keep_prefix(group, entries)
            index += len(group.rows)

    def _keep_prefix(self, group: PromptGroup, entries: list[Any]) -> None:
        self._prefixes.store(group.version, group.head, entries, group.num_known)
        if group.below:
            group.below.store(self._prefixes, group.head, entries)
