"""What a row carries with it through the batch.

mlx-lm merges, splits, filters and joins the entries of a row's cache list. `RowStates` rides there
as one more entry, so which adapter and which random numbers belong to a row can never drift from
its keys and values.
"""

import math
import random
from collections import deque
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from verse_server.engine.adapters.lora import SlotWeights
from verse_server.engine.kv_cache import Seating, Version
from verse_server.engine.sampling.grammar import Matcher
from verse_server.engine.types import SamplingParams


class DrawnLogits:
    """The logits of the tokens that one step drew; whether they are numbers is seen on the host."""

    def __init__(self, logits: mx.array | NDArray[np.float32]) -> None:
        self._logits = logits  # (rows,)

    @cached_property
    def _on_host(self) -> list[float]:
        return cast(list[float], self._logits.tolist())

    def is_finite(self, position: int) -> bool:
        """False if the model's arithmetic overflowed for this row."""
        return math.isfinite(self._on_host[position])


@dataclass(frozen=True)
class NotedLogprobs:
    """What was noted in one step for all rows that asked; still on the device.

    Attributes:
        position: The row's place in the arrays.
        drawn: (rows,) log-probability of the token each row drew.
        top_ids: (rows, k) the likeliest tokens, likeliest first.
        top_logprobs: (rows, k) theirs.
    """

    position: int
    drawn: mx.array
    top_ids: mx.array
    top_logprobs: mx.array


class Row:
    """One sequence in the batch. The same object stays with it from admission to retirement."""

    def __init__(
        self,
        prompt: Sequence[int],
        slots: SlotWeights,
        sampling: SamplingParams,
        *,
        version: Version = (),
        index: int = 0,
        num_top_logprobs: int | None = None,
        matcher: Matcher | None = None,
    ) -> None:
        """Make a row.

        Args:
            prompt: Token ids, at least one.
            slots: Where its adapters are.
            sampling: How it draws.
            version: What its adapters are.
            index: Tells rows of one prompt and one seed apart; they draw differently.
            num_top_logprobs: How many of the likeliest tokens to note beside each one drawn; None
                notes nothing.
            matcher: Says which tokens may come next; None allows all.
        """
        self.prompt = prompt
        self.slots = slots
        self.sampling = sampling
        self.version = version
        self.index = index
        self.num_top_logprobs = num_top_logprobs
        self.matcher = matcher
        self.num_cached = 0
        """Tokens of the prompt whose keys and values were there already."""
        self.tokens: list[int] = []
        """In the KV cache by now, prompt included; mlx-lm appends to this very list."""
        self.drawn: deque[tuple[DrawnLogits, int]] = deque()
        """Step and place of each token drawn and not yet reported, oldest first."""
        self.noted: deque[NotedLogprobs] = deque()
        """One entry for each token drawn and not yet reported, oldest first."""
        # Its own generator: what a row draws does not depend on its neighbours. A text, because
        # a number would lose its sign.
        seed = None if sampling.seed is None else f"{sampling.seed}/{index}"
        self._random = random.Random(seed)

    @property
    def has_begun(self) -> bool:
        """Whether the token in flight is one of the answer, and not the prompt's last."""
        return len(self.tokens) >= len(self.prompt)

    def next_key(self) -> list[int]:
        """A fresh key for one draw: two 32-bit words, as `mx.random.key` holds them."""
        bits = self._random.getrandbits(64)
        return [bits >> 32, bits & 0xFFFFFFFF]

    def next_uniform(self) -> float:
        """A fresh number in [0, 1) for one draw on the host."""
        return self._random.random()


class RowStates:
    """The rows of a batch, in the batch's order, as an entry of mlx-lm's cache list."""

    def __init__(self, rows: list[Row], seating: Seating | None = None) -> None:
        """Of one row or more.

        Args:
            rows: In the batch's order.
            seating: Where they sit in the other entries' arrays; None if those have them in order.
        """
        self.rows = rows
        self.seating = seating

    @property
    def slots(self) -> list[SlotWeights]:
        """Which adapters each row uses, in the order of the seats."""
        if self.seating is None:
            return [row.slots for row in self.rows]
        return [self.rows[index].slots for index in self.seating.rows]

    def seated(self, of_rows: mx.array) -> mx.array:
        """Bring what is in the batch's order, by its first axis, into that of the seats."""
        if self.seating is None or self.seating.is_in_order:
            return of_rows
        return of_rows[mx.array(self.seating.rows)]

    def in_order(self, of_seats: mx.array) -> mx.array:
        """The other way."""
        if self.seating is None or self.seating.is_in_order:
            return of_seats
        return of_seats[mx.array(self.seating.seats)]

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
        rows = [row for entry in entries for row in entry.rows]
        return RowStates(rows, self.seating and Seating(len(rows)))

    def extend(self, other: "RowStates") -> None:
        """The rows of another batch join at the end."""
        self.rows = self.rows + other.rows
        if self.seating and other.seating:
            self.seating.join(other.seating.seats)

    def filter(self, keep: Sequence[int]) -> None:
        """Only these rows stay, in this order."""
        self.rows = [self.rows[index] for index in keep]
        if self.seating:
            self.seating.leave(keep)

    def extract(self, index: int) -> "RowStates":
        """One row alone."""
        return RowStates([self.rows[index]])

    def __deepcopy__(self, memo: dict[int, Any]) -> "RowStates":
        # mlx-lm copies a batch to split it; each row goes to one of the halves.
        return RowStates(list(self.rows), deepcopy(self.seating))

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
