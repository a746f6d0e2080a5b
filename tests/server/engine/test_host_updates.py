"""Which rows of a batch are one product of the host."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from verse_server.engine.adapters.host_updates import HostUpdate, Location, Mix, host_updates

RANKS, SLOTS, IN, OUT = (2, 4), 5, 6, 7
RANDOM = np.random.default_rng(0)
STACKS = {
    rank: (
        RANDOM.standard_normal((SLOTS, rank, IN), dtype=np.float32),
        RANDOM.standard_normal((SLOTS, rank, OUT), dtype=np.float32),
    )
    for rank in RANKS
}
locations = st.builds(Location, st.sampled_from(RANKS), st.integers(0, SLOTS - 1))
parts = st.tuples(locations, st.sampled_from([0.0, 0.5, 1.0]))
mixes = st.lists(st.lists(parts, max_size=3), min_size=1, max_size=9)


def shapes(mix: Mix) -> list[list[int]]:
    return [[len(update.rows) for update in updates] for updates in host_updates(mix)]


def test_rows_of_one_adapter_or_of_adapters_in_turn_are_few_products() -> None:
    one = [[(Location(2, 3), 1.0)]]
    assert shapes(one * 8) == [[8]]
    assert shapes(one * 20) == [[16, 4]]
    in_turn = [[(Location(2, slot), 1.0)] for slot in range(4)]
    assert shapes(in_turn) == [[4]]
    assert shapes(in_turn * 2) == [[4, 4]]
    assert shapes([[], []]) == []


@given(mixes)
def test_each_row_gets_its_own_updates_with_the_same_bits_in_any_company(mix: Mix) -> None:
    x = np.random.default_rng(1).standard_normal((len(mix), 3, IN), dtype=np.float32)

    def added(rows: Mix, x: np.ndarray) -> np.ndarray:
        y = np.zeros((len(rows), x.shape[1], OUT), np.float32)
        for updates in host_updates(rows):
            seen = [row for update in updates for row in update.rows]
            assert len(set(seen)) == len(seen)
            for update in updates:
                update.add(x, y, STACKS[update.rank])
        return y

    together = added(mix, x)
    for number, row in enumerate(mix):
        expected = np.zeros((3, OUT), np.float32)
        for (rank, at), weight in row:
            a, b = STACKS[rank]
            expected += (x[number] @ a[at].T) * np.float32(weight) @ b[at]
        assert np.allclose(together[number], expected, atol=1e-4)
        assert np.array_equal(added([row], x[number : number + 1])[0], together[number])


def test_a_base_row_is_touched_by_nothing() -> None:
    updates = host_updates([[], [(Location(2, 1), 1.0)], [(Location(2, 1), 0.0)]])
    assert [list(update.rows) for update in updates[0]] == [[1]]
    assert isinstance(updates[0][0], HostUpdate)
