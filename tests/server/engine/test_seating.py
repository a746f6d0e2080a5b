"""Rows that leave cost one move at most, and nobody's seat is mistaken."""

from hypothesis import given
from hypothesis import strategies as st

from verse_server.engine.kv_cache import Seating

# Each step: that many rows join, then those at these places (modulo what is there) leave.
STEPS = st.lists(st.tuples(st.integers(0, 4), st.sets(st.integers(0, 20), max_size=4)), max_size=12)


@given(STEPS)
def test_what_sits_in_the_seats_stays_with_its_row(steps: list[tuple[int, set[int]]]) -> None:
    seating, batch, buffer = Seating(0), list[int](), list[int]()
    for number, (num_new, leaving) in enumerate(steps):
        names = [100 * number + place for place in range(num_new)]
        batch += names
        buffer += names
        seating.join(range(num_new))
        gone = {place % len(batch) for place in leaving} if batch else set[int]()
        keep = [place for place in range(len(batch)) if place not in gone]
        before = seating.leave(keep)
        batch = [batch[place] for place in keep]
        buffer = [buffer[seat] for seat in before]
        assert sorted(seating.seats) == list(range(len(batch)))
        assert [buffer[seat] for seat in seating.seats] == batch
        assert [batch[row] for row in seating.rows] == buffer
        assert seating.is_in_order == (batch == buffer)
        assert sum(new != old for new, old in enumerate(before)) <= len(gone)


def test_the_last_sits_down_where_one_left() -> None:
    seating = Seating(4)
    assert seating.leave([0, 2, 3]) == [0, 3, 2]
    assert seating.seats == [0, 2, 1]


def test_rows_of_another_batch_sit_down_behind_as_they_sat() -> None:
    seating = Seating(2)
    seating.join([1, 0])
    assert seating.seats == [0, 1, 3, 2]
