"""Prompts that wait to be computed, and which of them are next.

What a prompt needs is the rest of it that no earlier one has left in the prefix cache, its last
token always: that one's logits give the first token of the answer. Rests that are short, as those
of poems are, are computed together, in one forward for all of them. A longer one is cut, and its
pieces come in turn with the short ones.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from mlx_lm.models.cache import KVCache, make_prompt_cache

from verse.base_model import BaseModel
from verse.cpu_weights.packed import Host
from verse.cpu_weights.partial_forward import PartialForward
from verse_server.engine.kv_cache import PrefixCache, Version
from verse_server.engine.layers_below import LayersBelow
from verse_server.engine.sequence import Sequence

_SHARED_TOKENS = 16
"""If another prompt that is computed now leaves so many of a prompt's own, the latter waits."""
ROW_TOKENS = 6
"""A row that joins takes about as long as so many tokens: what is known of it is copied."""
_MOST_ABOVE = 2048
"""Tokens through the changed layers alone, in one forward: they cost less, and not less memory."""
_WASTED_TOKENS = 4
"""Computed twice so that all in one forward have as many: no more than so many and the rest."""


@dataclass(eq=False)
class PromptGroup:
    """Rows of one prompt, which is computed once for all of them."""

    rows: list[Sequence]
    max_tokens: int
    ends: frozenset[int]
    entries: list[Any] = field(default_factory=list[Any])
    """mlx-lm's cache list for the tokens that are done; empty before it was looked up."""
    num_known: int = 0
    """Tokens that were in the prefix cache."""
    num_done: int = 0
    """Tokens whose keys and values are in `entries`."""
    num_stored: int = -1
    """What had been stored in the prefix cache when it was last asked."""
    has_given_way: bool = False
    adapted_layer: int = 0
    """The lowest that its adapters change, if those below may be told apart."""
    below: LayersBelow | None = None
    """Those, unless of tokens that the others have done it is unknown what came from there."""
    num_reported: int | None = None
    """What its other rows, which are in already, were told to be known."""

    @property
    def prompt(self) -> tuple[int, ...]:
        """Of all rows."""
        return self.rows[0].prompt

    @property
    def head(self) -> list[int]:
        """The prompt without its last token, which is what is kept of it."""
        return list(self.prompt[:-1])

    @property
    def version(self) -> Version:
        """Of the adapters."""
        return self.rows[0].version

    @property
    def num_left(self) -> int:
        """Tokens of the prompt that are to be computed."""
        return len(self.prompt) - self.num_done

    @property
    def num_left_below(self) -> int:
        """Those of them that the layers below the changed ones compute as well."""
        return self.num_left if self.below is None else len(self.prompt) - self.below.num_done

    @property
    def cost(self) -> int:
        """What they take, in tokens that go through all layers."""
        below = self.below
        return self.num_left if below is None else below.cost(self.num_left, self.num_left_below)

    @property
    def is_known(self) -> bool:
        """Whether all but the last token is done, and there is more than that."""
        return self.num_left == self.num_left_below == 1 and self.num_done > 0

    def piece(self, max_tokens: int) -> int:
        """How many of them one forward of about so many tokens takes; all of them ends it."""
        is_whole = self.cost <= max_tokens and self.num_left <= max(max_tokens, _MOST_ABOVE)
        if is_whole and (self.num_left == 1 or self.can_trim):
            return self.num_left
        if self.below and (num_ahead := self.num_left - self.num_left_below):
            return min(num_ahead, self.below.num_above(max_tokens), _MOST_ABOVE)
        return min(max_tokens, self.num_left - 1)

    def states_of(self, tokens: slice) -> Host:
        """What has come from the layers below for some of its tokens."""
        assert self.below is not None
        assert self.below.states is not None
        return self.below.states[tokens]

    def split(self, num_rows: int) -> "PromptGroup":
        """Take the first rows out, which have the same tokens done."""
        taken = replace(self, rows=self.rows[:num_rows])
        self.rows = self.rows[num_rows:]
        self.num_reported = taken.num_reported = taken.num_cached
        return taken

    @property
    def num_cached(self) -> int:
        """What its rows are told to be known of the prompt."""
        return self.num_known if self.num_reported is None else self.num_reported

    def trim_to(self, num_tokens: int, num_below: int) -> None:
        """Take back what is done beyond so many, and in the layers below beyond so many."""
        num_layers = self.below.layer if self.below else 0
        done_below = self.below.num_done if self.below else 0
        for layer, entry in enumerate(self.entries):
            is_below = layer < num_layers
            num_more = done_below - num_below if is_below else self.num_done - num_tokens
            if num_more > 0:
                entry.trim(num_more)
        self.num_done = min(self.num_done, num_tokens)

    @property
    def can_trim(self) -> bool:
        """Whether tokens can be taken back.

        If not, the last one is computed by itself: what is kept of a prompt ends before it.
        """
        return all(type(entry) is KVCache for entry in self.entries)

    @property
    def num_new(self) -> int:
        """Tokens that others may get from it."""
        return len(self.prompt) - 1 - self.num_known


class PrefillWork(NamedTuple):
    """What one forward computes."""

    groups: list[PromptGroup]
    width: int
    """Tokens of each."""
    is_last: bool
    """Whether the prompts are done with it. Each then has its last `width` tokens computed, known
    ones among them if its own rest is shorter: nothing is padded. Otherwise there is one group."""

    @property
    def width_below(self) -> int:
        """Tokens of each that the layers below the changed ones compute; 0 if all are known."""
        if self.is_last:
            return max(group.num_left_below for group in self.groups)
        (group,) = self.groups
        return self.width if group.num_left == group.num_left_below else 0

    @property
    def num_tokens(self) -> int:
        """What it costs, in tokens that go through all layers."""
        return prefill_tokens(self.groups, self.width, self.width_below)

    def partial(self) -> PartialForward:
        """What of the forward is known, and what is to be noted for `note`."""
        wanted = {group.below.layer for group in self.groups if group.below}
        width_below = self.width_below
        if width_below == self.width:
            return PartialForward(wanted=wanted, is_last_needed=True)
        ends = (len(g.prompt) if self.is_last else g.num_done + self.width for g in self.groups)
        known = [
            group.states_of(slice(end - self.width, end - width_below))
            for group, end in zip(self.groups, ends, strict=True)
        ]
        return PartialForward(
            layer=min(wanted),
            known=np.stack(known),
            is_all_known=not width_below,
            wanted=wanted if width_below else (),
            is_last_needed=True,
        )

    def note(self, partial: PartialForward) -> None:
        """Keep what has come from the layers below in this forward."""
        width = self.width_below
        for row, group in enumerate(self.groups):
            if group.below and group.below.layer in partial.noted:
                before = len(group.prompt) - width if self.is_last else group.num_done
                new = partial.noted[group.below.layer][row]
                group.below = group.below.with_states(before, new)


class PrefillQueue:
    """First come, first served, but long prompts take turns with short rests."""

    def __init__(self, base: BaseModel, prefixes: PrefixCache) -> None:
        self._model = base.model
        self._prefixes = prefixes
        self._groups: list[PromptGroup] = []
        self._was_piece = self._was_known = False

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def num_rows(self) -> int:
        """Of all groups."""
        return sum(len(group.rows) for group in self._groups)

    def add(self, group: PromptGroup) -> None:
        """Queue one."""
        self._groups.append(group)

    def remove(self, rows: Collection[Sequence]) -> None:
        """Take rows out; others are ignored."""
        for group in self._groups:
            group.rows = [row for row in group.rows if row not in rows]
        self._groups = [group for group in self._groups if group.rows]

    def take_known(self, num_rows: int) -> list[PromptGroup]:
        """Take out known prompts, and of their rows so many at most; every second time nothing.

        That is, if there are others, which then have their turn.
        """
        for group in self._groups:
            self._look_up(group)
        known = [group for group in self._groups if group.is_known]
        if self._was_known and len(known) < len(self._groups):
            known = []
        taken: list[PromptGroup] = []
        for group in known:
            if num_rows <= 0:
                break
            if num_rows < len(group.rows):
                taken.append(group.split(num_rows))
            else:
                self._groups.remove(group)
                taken.append(group)
            num_rows -= len(taken[-1].rows)
        self._was_known = bool(taken)
        return taken

    def next(self, max_tokens: int, *, but_known: bool = False) -> PrefillWork | None:
        """What is to be computed now, about so many tokens at most; None if nobody waits.

        Groups leave the queue with their last work.

        Args:
            max_tokens: Padding included.
            but_known: Known prompts are left to `take_known`.
        """
        for group in self._groups:
            self._look_up(group)
        groups = [g for g in self._groups if not (but_known and g.is_known)]
        short = [g for g in groups if g.piece(max_tokens) == g.num_left]
        long = next((g for g in groups if g.piece(max_tokens) < g.num_left), None)
        if long is not None and not (short and self._was_piece):
            self._was_piece = True
            return PrefillWork([long], long.piece(max_tokens), False)
        self._was_piece = False
        return self._last(together(short, max_tokens), max_tokens) if short else None

    def next_like(self, width: int, max_tokens: int) -> PrefillWork | None:
        """The same of prompts that are hardly longer than so many tokens, whole ones alone."""
        for group in self._groups:
            self._look_up(group)
        most = min(max_tokens, _much_longer(width))
        like = [g for g in self._groups if g.num_left <= most and g.piece(most) == g.num_left]
        return self._last(together(like, max_tokens), max_tokens) if like else None

    def _last(self, groups: list[PromptGroup], max_tokens: int) -> PrefillWork:
        first = groups[0]
        num_rows = 1 + max(0, max_tokens - first.num_left) // ROW_TOKENS
        if num_rows < len(first.rows):
            return PrefillWork([first.split(num_rows)], first.num_left, True)
        self._groups = [group for group in self._groups if group not in groups]
        return PrefillWork(groups, max(group.num_left for group in groups), True)

    def _look_up(self, group: PromptGroup) -> None:
        """Again, if by now another prompt may have left more of this one."""
        has_begun = group.num_done > group.num_known
        if has_begun or (group.entries and group.num_left <= _SHARED_TOKENS):
            return
        if group.num_stored == self._prefixes.num_stored:
            return
        group.num_stored = self._prefixes.num_stored
        entries, num_known = self._prefixes.fetch(group.version, group.head)
        group.entries = entries or make_prompt_cache(self._model)
        group.num_known = group.num_done = num_known if entries else 0
        if group.adapted_layer:
            self._look_up_below(group, LayersBelow(group.adapted_layer, len(group.entries)))

    def _look_up_below(self, group: PromptGroup, below: LayersBelow) -> None:
        found, entries = below.look_up(self._prefixes, group.head)
        is_ahead = found.num_done >= group.num_done and group.can_trim
        group.below = found if is_ahead else None
        if is_ahead and entries:
            group.entries[: below.layer] = entries


def together(groups: Iterable[PromptGroup], max_tokens: int) -> list[PromptGroup]:
    """Those that are computed in one forward, the first one always.

    All get as many tokens as the longest rest has, so each must have as many at all; and rests that
    are much shorter would be computed in vain.
    """
    chosen: list[PromptGroup] = []
    for group in groups:
        all_ = [*chosen, group]
        width, below = max(g.num_left for g in all_), max(g.num_left_below for g in all_)
        fits = (
            prefill_tokens(all_, width, below) <= max_tokens
            and width * len(all_) <= max(max_tokens, _MOST_ABOVE)
            and width <= min(len(g.prompt) for g in all_)
            and width <= _much_longer(min(g.num_left for g in all_))
            and below <= _much_longer(min(g.num_left_below for g in all_))
            and (below == width or len({g.below and g.below.layer for g in all_}) == 1)
        )
        if not chosen or (fits and not _gives_way(group, chosen)):
            chosen.append(group)
    return chosen


def _much_longer(num_tokens: int) -> int:
    return 2 * num_tokens + _WASTED_TOKENS


def prefill_tokens(groups: list[PromptGroup], width: int, width_below: int) -> int:
    """What it costs to compute the last tokens of prompts and let their rows join, in tokens."""
    num_rows, below = sum(len(group.rows) for group in groups), groups[0].below
    each = width if below is None else below.cost(width, width_below)
    return each * len(groups) + ROW_TOKENS * (num_rows - 1)


def _gives_way(group: PromptGroup, others: list[PromptGroup]) -> bool:
    """Whether others are about to compute most of this prompt; nobody gives way twice."""
    if group.has_given_way:
        return False
    done, below = group.num_done, group.below
    of_all = [o for o in others if o.version == group.version]
    group.has_given_way = _is_computed(group, done, of_all) or (
        below is not None
        and _is_computed(group, below.num_done, [o for o in others if _is_like(o.below, below)])
    )
    return group.has_given_way


def _is_like(other: LayersBelow | None, below: LayersBelow) -> bool:
    return other is not None and other.layer == below.layer


def _is_computed(group: PromptGroup, num_done: int, others: list[PromptGroup]) -> bool:
    """Whether others will leave enough of this prompt behind what is done of it."""
    if len(group.prompt) - num_done <= _SHARED_TOKENS:
        return False
    wanted = [*group.prompt[: num_done + _SHARED_TOKENS]]
    return any(other.head[: len(wanted)] == wanted for other in others)
