"""One run on several machines: each rank takes its share of every global batch.

All ranks have the same rows, the same plan of batches and the same weights. Of each batch a rank
computes the gradients of its share; they are summed once an update and divided by what one machine
would divide them by, so every token counts alike, whatever rank it is on. The sum is the same bytes
on all ranks, and with it the update.

Losses, what is measured and whether to stop go over the ranks' own connections, which sleep while
they wait, as numbers that are the same on all ranks afterwards. So all decide alike, on rank 0's
figures: when to stop early, what the best checkpoint is. Rank 0 alone reads and writes the adapter
folder; what the others need of it, it sends.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, cast

import mlx.core as mx
import numpy as np

from verse.machines.joining import join_group
from verse.machines.ranks import Ranks

Arrays = dict[str, mx.array]
_BUCKET_BYTES = 32 << 20
"""Summed at a time: the network is busy, and no second copy of all gradients is made."""


def share_of(lengths: Sequence[int], num_ranks: int, rank: int) -> tuple[int, ...]:
    """Which of a batch's examples a rank takes, as places in the batch.

    The longest goes first, each to the rank with the fewest tokens so far, so that all are through
    at about the same time. In a batch of fewer examples than ranks some have none.
    """
    loads, shares = [0] * num_ranks, [list[int]() for _ in range(num_ranks)]
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        least = min(range(num_ranks), key=lambda number: (loads[number], number))
        loads[least] += lengths[index]
        shares[least].append(index)
    return tuple(sorted(shares[rank]))


class DataParallel:
    """What a run does together with the other ranks; alone, all of it is nothing."""

    def __init__(self, ranks: Ranks | None = None) -> None:
        """Join the others; None, or ranks of one, for a run on one machine."""
        self._ranks = Ranks.alone() if ranks is None else ranks
        self._group = join_group(self._ranks)

    @property
    def is_alone(self) -> bool:
        """Whether there are no other ranks."""
        return self._ranks.size == 1

    @property
    def is_first(self) -> bool:
        """Whether this rank writes and reports."""
        return self._ranks.is_first

    @property
    def rank(self) -> int:
        """Of this process."""
        return self._ranks.rank

    @property
    def size(self) -> int:
        """Of ranks."""
        return self._ranks.size

    def share(self, indices: Sequence[int], lengths: Sequence[int]) -> tuple[int, ...]:
        """Of a batch's examples, those of this rank; `lengths` are theirs."""
        if self.is_alone:
            return tuple(indices)
        return tuple(indices[place] for place in share_of(lengths, self.size, self.rank))

    def sum_arrays(self, arrays: Arrays) -> Arrays:
        """The sums over all ranks; each has the same names and shapes, and gets the same bytes."""
        if self._group is None:
            return arrays
        summed: Arrays = {}
        bucket: Arrays = {}
        for name in sorted(arrays):
            bucket[name] = arrays[name]
            if sum(array.nbytes for array in bucket.values()) >= _BUCKET_BYTES:
                summed |= self._sum_bucket(bucket)
                bucket = {}
        return summed | self._sum_bucket(bucket)

    def _sum_bucket(self, bucket: Arrays) -> Arrays:
        """One collective for all of them, over one array of float32."""
        if not bucket:
            return {}
        flat = mx.concatenate([mx.flatten(array).astype(mx.float32) for array in bucket.values()])
        cast(Any, mx).eval(flat)
        # Whoever is early would wait inside mlx, which spins.
        self.sum_numbers(())
        total = mx.distributed.all_sum(flat, group=self._group)
        cast(Any, mx).eval(total)
        found: Arrays = {}
        start = 0
        for name, array in bucket.items():
            part = total[start : start + array.size]
            found[name] = mx.reshape(part, array.shape).astype(array.dtype)
            start += array.size
        return found

    def sum_numbers(self, numbers: Sequence[float]) -> list[float]:
        """The sums over all ranks, in the order of ranks."""
        if self.is_alone:
            return list(numbers)
        own = np.asarray(numbers, np.float64)
        parts = [np.frombuffer(data) for data in self._ranks.gather(own.tobytes())]
        total = cast(Any, np).sum(parts, axis=0) if parts else own
        return np.frombuffer(self._ranks.broadcast(total.tobytes())).tolist()

    def any(self, answer: bool) -> bool:
        """Whether it is so on any rank."""
        return answer if self.is_alone else self.sum_numbers([float(answer)])[0] > 0

    def from_first(self, ask: Callable[[], bytes]) -> bytes:
        """What rank 0 answers; on the others it is not asked."""
        return self._ranks.broadcast(ask() if self.is_first else None)

    def agree(self, value: str, sentence: str) -> None:
        """Make sure that all have the same; see `Ranks.agree`.

        Raises:
            MachinesError: they have not.
        """
        self._ranks.agree(value, sentence)

    def arrays_from_first(self, arrays: Arrays) -> Arrays:
        """Rank 0's, which may differ: after a resume, or on machines that draw other numbers."""
        if self.is_alone:
            return arrays
        digest = hashlib.sha256()
        for name in sorted(arrays):
            digest.update(_bytes_of(arrays[name]))
        own = digest.digest()
        if not self.any(self.from_first(lambda: own) != own):
            return arrays
        found: Arrays = {}
        for name, array in arrays.items():
            data = self.from_first(lambda array=array: _bytes_of(array))
            flat = mx.array(np.frombuffer(data, np.uint8)).view(array.dtype)
            found[name] = mx.reshape(flat, array.shape)
        return found


def _bytes_of(array: mx.array) -> bytes:
    return np.array(mx.flatten(array).view(mx.uint8)).tobytes()
