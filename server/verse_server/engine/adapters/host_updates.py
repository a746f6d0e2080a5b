"""What the adapters of a batch add to products that the host has made.

Rows that use adapters which lie one behind the other in their stack are one product, and so are
rows that all use the same one: numpy goes through the factors where they are, a matrix for each
row. Each row is computed by itself in the same way, so it has the same bits in any company.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np

from verse.cpu_weights.packed import Host


class Location(NamedTuple):
    """Where one module keeps one adapter's factors."""

    rank: int
    """The rank class, which names the stack."""
    at: int
    """Its index there."""


Mix = Sequence[Sequence[tuple[Location, float]]]
"""What each row uses of one module: (location, strength) pairs."""

_ROWS_EACH = 16
"""Of one piece of work, where there are more; fewer are done sooner than they are handed over."""


class _Entry(NamedTuple):
    row: int
    at: int
    weight: float


@dataclass(frozen=True)
class HostUpdate:
    """Rows whose adapters follow each other in one stack, or are the same one.

    Attributes:
        rank: Which stack.
        first: Index of the first row's factors.
        step: To the next row's: 1, or 0 where all rows have the same.
        rows: Of the batch; each at most once.
        places: The same, as a slice where they follow each other.
        weights: (rows, 1, 1) strengths; None where all are 1.
    """

    rank: int
    first: int
    step: int
    rows: Any
    places: Any
    weights: Host | None

    @classmethod
    def of(cls, rank: int, entries: "Sequence[_Entry]") -> "HostUpdate":
        """From rows that follow each other so."""
        step = entries[1].at - entries[0].at if len(entries) > 1 else 0
        rows = [entry.row for entry in entries]
        weights = np.array([entry.weight for entry in entries], np.float32)[:, None, None]
        return cls(
            rank=rank,
            first=entries[0].at,
            step=step,
            rows=np.array(rows),
            places=_places(rows),
            weights=None if (weights == 1).all() else weights,
        )

    def add(self, x: Host, y: Host, stack: tuple[Host, Host]) -> None:
        """Add it to y (batch, tokens, out_dims), for x (batch, tokens, in_dims)."""
        a, b = (self._matrices(factors) for factors in stack)
        # A matrix times columns; a row times a matrix of columns takes numpy twice as long.
        z = np.matmul(a, x[self.places].swapaxes(1, 2)).swapaxes(1, 2)
        if self.weights is not None:
            z *= self.weights
        y[self.places] += np.matmul(z, b)

    def _matrices(self, factors: Host) -> Host:
        if self.step:
            return factors[self.first : self.first + len(self.rows)]
        one = factors[self.first]
        return cast(Host, np.broadcast_to(one, (len(self.rows), *one.shape)))


def _places(rows: list[int]) -> Any:
    """A slice copies nothing."""
    follow = rows == list(range(rows[0], rows[0] + len(rows)))
    return slice(rows[0], rows[0] + len(rows)) if follow else np.array(rows)


def host_updates(mix: Mix) -> tuple[tuple[HostUpdate, ...], ...]:
    """Those of a batch: what is in one inner tuple touches no row twice, and may go on at once."""
    longest = max(map(len, mix), default=0)
    found: list[tuple[HostUpdate, ...]] = []
    for place in range(longest):
        by_rank: dict[int, list[_Entry]] = {}
        for row, parts in enumerate(mix):
            if len(parts) > place and parts[place][1]:
                location, weight = parts[place]
                by_rank.setdefault(location.rank, []).append(_Entry(row, location.at, weight))
        found.append(
            tuple(
                HostUpdate.of(rank, run[first : first + _ROWS_EACH])
                for rank, entries in by_rank.items()
                for run in _runs(entries)
                for first in range(0, len(run), _ROWS_EACH)
            )
        )
    return tuple(found)


def _runs(entries: Sequence[_Entry]) -> list[list[_Entry]]:
    """As few as can be: rows of one adapter together, or one row of each adapter in turn."""
    same = sorted(entries, key=lambda entry: (entry.at, entry.row))
    seen: Counter[int] = Counter()
    turns: list[tuple[int, _Entry]] = []
    for entry in same:
        turns.append((seen[entry.at], entry))
        seen[entry.at] += 1
    in_turn = [entry for _, entry in sorted(turns, key=lambda pair: (pair[0], pair[1].at))]
    return min((_cut(same), _cut(in_turn)), key=len)


def _cut(entries: Sequence[_Entry]) -> list[list[_Entry]]:
    runs: list[list[_Entry]] = []
    for entry in entries:
        step = entry.at - runs[-1][-1].at if runs else -1
        goes_on = step in (0, 1) and (len(runs[-1]) == 1 or runs[-1][1].at - runs[-1][0].at == step)
        if goes_on:
            runs[-1].append(entry)
        else:
            runs.append([entry])
    return runs
