"""What a row carries with it through the batch.

mlx-lm merges, splits, filters and joins the entries of a row's cache list. `RowStates` rides there
as one more entry, so which adapter and which random numbers belong to a row can never drift from
its keys and values.
"""

import random
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from verse_server.engine.lora import SlotWeights
from verse_server.engine.types import SamplingParams


class Row:
    """One sequence in the batch. The same object stays with it from admission to retirement."""

    def __init__(self, prompt: Sequence[int], slots: SlotWeights, sampling: SamplingParams) -> None:
        self.prompt = prompt
        self.slots = slots
        self.sampling = sampling
        self.tokens: list[int] = []
        """In the KV cache by now, prompt included; mlx-lm appends to this very list."""
        # Its own generator: what a row draws does not depend on its neighbours. Seeded with a
        # text, because a number would lose its sign.
        self._random = random.Random(None if sampling.seed is None else f"{sampling.seed}/0")

    def next_key(self) -> list[int]:
        """A fresh key for one draw: two 32-bit words, as `mx.random.key` holds them."""
        bits = self._random.getrandbits(64)
        return [bits >> 32, bits & 0xFFFFFFFF]


class RowStates:
    """The rows of a batch, in the batch's order, as an entry of mlx-lm's cache list."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    @property
    def slots(self) -> list[SlotWeights]:
        """Which adapters each row uses."""
        return [row.slots for row in self.rows]

    @property
    def state(self) -> list[mx.array]:
        """Nothing to evaluate: the rows live on the host."""
        return []

    @property
    def nbytes(self) -> int:
        """Nothing on the device."""
        return 0

    def merge(self, entries: Sequence["RowStates"]) -> "RowStates":
        """One batch of several single rows."""
        return RowStates([row for entry in entries for row in entry.rows])

    def extend(self, other: "RowStates") -> None:
        """The rows of another batch join at the end."""
        self.rows = self.rows + other.rows

    def filter(self, keep: Sequence[int]) -> None:
        """Only these rows stay, in this order."""
        self.rows = [self.rows[index] for index in keep]

    def extract(self, index: int) -> "RowStates":
        """One row alone."""
        return RowStates([self.rows[index]])

    def __deepcopy__(self, memo: dict[int, Any]) -> "RowStates":
        # mlx-lm copies a batch to split it; each row goes to one of the halves.
        return RowStates(list(self.rows))

    def prepare(self, **_: Any) -> None:
        """Padding does not concern rows."""

    def finalize(self) -> None:
        """Nor does the end of it."""

    def size(self) -> int:
        """Takes no room in the context."""
        return 0

    def is_trimmable(self) -> bool:
        """Trimming changes nothing here."""
        return True
