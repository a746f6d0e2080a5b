"""What prompts have in common below the layers that adapters change.

An adapter on the last 8 of 24 layers leaves alone what the 16 below it compute. So of a beginning
that many adapters are asked with, these layers are computed once: their keys and values are kept,
and what goes into the first layer above them. A prompt of an adapter that has never seen this
beginning then takes the layers above alone.

It is kept in the prefix cache, as one more entry behind those of the layers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from verse.cpu_weights.packed import Host
from verse_server.engine.kv_cache import PrefixCache, Version


class HiddenStates:
    """(tokens, dims) of one prompt, among the entries of a cache list of mlx-lm."""

    def __init__(self, states: Host) -> None:
        self.states = states

    def __deepcopy__(self, memo: object) -> "HiddenStates":
        return HiddenStates(self.states)  # nobody writes into them

    @property
    def nbytes(self) -> int:
        """As mlx-lm's entries have it."""
        return self.states.nbytes

    @property
    def state(self) -> list[Any]:
        """Nothing of mlx."""
        return []

    def is_trimmable(self) -> bool:
        """See `trim`."""
        return True

    def trim(self, num_tokens: int) -> int:
        """Take the last ones back."""
        self.states = self.states[: len(self.states) - num_tokens]
        return num_tokens


@dataclass(frozen=True)
class LayersBelow:
    """Those that a prompt's adapters leave alone, and how far they are done."""

    layer: int
    """The lowest one that is changed."""
    num_layers: int
    """Of the model."""
    states: Host | None = None
    """(tokens, dims): what goes into that layer; for every token that the layers below have done.
    """
    num_known: int = 0
    """Tokens that were in the prefix cache."""

    @property
    def num_done(self) -> int:
        """Tokens whose keys and values the layers below have."""
        return 0 if self.states is None else len(self.states)

    @property
    def version(self) -> Version:
        """Under which they are kept, whatever adapters there are above."""
        return ((f"below layer {self.layer}", 1.0),)

    def look_up(
        self, prefixes: PrefixCache, head: Sequence[int]
    ) -> tuple["LayersBelow", list[Any]]:
        """What is known of a prompt, and the entries of the layers below; empty if nothing is."""
        entries, num_known = prefixes.fetch(self.version, head)
        if not entries:
            return replace(self, states=None, num_known=0), []
        *of_layers, last = entries
        return replace(self, states=last.states[:num_known], num_known=num_known), of_layers

    def with_states(self, num_before: int, new: Host) -> "LayersBelow":
        """The same with what came after so many tokens."""
        if self.states is None or not num_before:
            assert not num_before
            return replace(self, states=new)
        return replace(self, states=np.concatenate([self.states[:num_before], new]))

    def store(self, prefixes: PrefixCache, head: Sequence[int], entries: Sequence[Any]) -> None:
        """Leave them to other prompts; `entries` are of all layers and as long as `head`."""
        if self.states is not None and prefixes.would_keep(len(head) - self.num_known):
            hidden = HiddenStates(self.states[: len(head)])
            prefixes.store(self.version, head, [*entries[: self.layer], hidden], self.num_known)

    def cost(self, num_left: int, num_left_below: int) -> int:
        """What tokens of a prompt take, in tokens that go through all layers.

        Args:
            num_left: Tokens for the layers that are changed.
            num_left_below: Those of them that the layers below compute too.
        """
        above = (self.num_layers - self.layer) / self.num_layers
        return num_left_below + math.ceil((num_left - num_left_below) * above)

    def num_above(self, cost: int) -> int:
        """How many tokens through the changed layers alone cost so much, at least one."""
        return max(1, cost * self.num_layers // (self.num_layers - self.layer))
