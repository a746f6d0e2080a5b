"""Which seat of a batch's buffers each row has. Pure: no mlx, no I/O.

mlx-lm keeps the rows of a batch in the order in which they joined. Buffers that did the same would
be copied whole whenever a row leaves. Here a row that leaves gives its seat to the one in the last
seat, so that one row moves at most; `seats` says who sits where. Everything that holds one batch,
its keys and values in every layer and its `RowStates`, keeps a seating of its own; all come to the
same one, because they are told of the same rows in the same order.
"""

from collections.abc import Iterable, Sequence

_SPARE = 4


def seats_for(num_rows: int) -> int:
    """How many seats so many rows have at most: one in four more, for who comes next."""
    return num_rows + num_rows // _SPARE


class Seating:
    """Seats from 0 on, none empty."""

    def __init__(self, num_rows: int) -> None:
        self.seats = list(range(num_rows))
        """Of each row, in the batch's order."""

    @property
    def is_in_order(self) -> bool:
        """Whether every row sits where it stands in the batch."""
        return self.seats == list(range(len(self.seats)))

    @property
    def rows(self) -> list[int]:
        """The row in each seat."""
        return sorted(range(len(self.seats)), key=self.seats.__getitem__)

    def join(self, seats: Iterable[int]) -> None:
        """The rows of another batch, which sit so in it, sit down behind these."""
        first = len(self.seats)
        self.seats += [first + seat for seat in seats]

    def leave(self, keep: Sequence[int]) -> list[int]:
        """Only these rows stay, in this order.

        Returns:
            For each seat that is left, the one its row sat in before: another where a row left.
        """
        staying = [self.seats[row] for row in keep]
        movers = sorted(seat for seat in staying if seat >= len(keep))
        before = list(range(len(keep)))
        for seat in sorted(set(before) - set(staying)):
            before[seat] = movers.pop()
        after = {old: new for new, old in enumerate(before)}
        self.seats = [after[seat] for seat in staying]
        return before
