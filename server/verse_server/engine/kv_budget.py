"""How much the batch may hold in keys and values. Pure: no mlx, no I/O.

A batch pads its rows to the longest one and has a few seats to spare, so what it takes is seats x
longest x bytes of a token; and while it grows or shrinks, the old and the new arrays are there
together.
"""

from collections.abc import Collection

import msgspec

from verse_server.engine.seating import seats_for

_COPIES = 2


class KvBudget(msgspec.Struct, frozen=True):
    """The room there is."""

    bytes_per_token: int
    """Keys and values of one token in all layers."""
    max_bytes: int

    def holds(self, lengths: Collection[int]) -> bool:
        """Whether rows of these lengths, prompt and longest answer together, fit at once."""
        return self.bytes_of(lengths) <= self.max_bytes

    def bytes_of(self, lengths: Collection[int]) -> int:
        """What such rows take at most."""
        seats = seats_for(len(lengths))
        return _COPIES * seats * max(lengths, default=0) * self.bytes_per_token

    def longest(self, num_rows: int) -> int:
        """Tokens of each of so many rows, when nothing else runs and they are as long as can be."""
        return self.max_bytes // (_COPIES * seats_for(num_rows) * max(1, self.bytes_per_token))


def room_for_keys_and_values(memory_bytes: int, taken_bytes: int) -> int:
    """What a machine's memory leaves beside the model; a tenth stays for everything else."""
    return max(0, memory_bytes * 9 // 10 - taken_bytes)
