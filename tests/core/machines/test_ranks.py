"""Ranks agree, and when one of them is gone all end, with the reason told once."""

import threading
from contextlib import suppress

import pytest

from tests.core.machines.meetings import launches, play, play_launches
from verse import UserError
from verse.machines import LostRankError, MachinesError, TurnedAwayError
from verse.machines.launch import Address
from verse.machines.meeting import meet
from verse.machines.messages import Connection, connect, listen
from verse.machines.ranks import Ranks


def test_a_process_that_is_alone_is_its_own_first_rank() -> None:
    with meet(None, {}) as ranks:
        assert (ranks.rank, ranks.size, ranks.is_first) == (0, 1, True)
        assert ranks.gather(b"a") == [b"a"]
        assert ranks.broadcast(b"b") == b"b"
        ranks.agree("c", "{rank}")


def test_what_ranks_have_comes_to_the_first_in_their_order_and_what_it_has_to_all() -> None:
    def part(ranks: Ranks) -> object:
        gathered = ranks.gather(f"of {ranks.rank}".encode() * 1000)
        return gathered, ranks.broadcast(b"x" * 100_000 if ranks.is_first else None)

    first, *others = play(part, size=4)
    expected = [f"of {rank}".encode() * 1000 for rank in range(4)]
    assert first.result == (expected, b"x" * 100_000)
    assert [other.result for other in others] == [([], b"x" * 100_000)] * 3
    assert not any(played.told or played.ended.is_set() for played in (first, *others))


def test_ranks_that_do_not_agree_all_end_and_the_first_says_why() -> None:
    first, second, third = play(
        lambda ranks: ranks.agree(
            "b" if ranks.rank == 2 else "a", "{rank} has {theirs}, rank 0 has {ours}."
        ),
        size=3,
    )
    assert str(first.error) == "Rank 2 (127.0.0.1) has b, rank 0 has a."
    for other in (second, third):
        assert other.ended.is_set()
        assert other.told == []


@pytest.mark.parametrize("facts", [{"mlx": "2"}, {}, {"mlx": "1", "Verse": "9"}])
def test_a_rank_with_other_versions_is_turned_away(facts: dict[str, str]) -> None:
    first, second = play(
        lambda ranks: ranks.broadcast(b""), facts=lambda rank: facts if rank else {"mlx": "1"}
    )
    assert isinstance(first.error, MachinesError)
    assert str(first.error).startswith("Rank 1 (127.0.0.1) has ")
    assert str(first.error).endswith("install the same on all machines.")
    assert isinstance(second.error, TurnedAwayError)


def test_a_rank_that_does_not_come_is_named() -> None:
    first, _, third = play(lambda ranks: None, size=3, join_seconds=1.0, absent=(1,))
    assert "Rank 1 (127.0.0.1) did not come within 1 s" in str(first.error)
    assert isinstance(third.error, TurnedAwayError)


def test_a_rank_that_finds_no_first_says_so() -> None:
    _, second = play(lambda ranks: None, join_seconds=0.5, absent=(0,))
    assert "did not reach rank 0 at 127.0.0.1:" in str(second.error)


def test_the_mistake_of_one_rank_is_told_by_the_first_alone() -> None:
    def part(ranks: Ranks) -> None:
        if ranks.rank == 1:
            raise UserError("There is no folder data.")
        ranks.broadcast(ranks.gather(b"")[0] if ranks.is_first else None)

    first, second, third = play(part, size=3)
    assert first.told == ["Rank 1 (127.0.0.1): There is no folder data."]
    assert first.ended.is_set()
    assert str(second.error) == "There is no folder data."
    assert third.ended.is_set()
    assert second.told == third.told == []


def test_the_mistake_of_all_ranks_is_told_once_as_the_firsts_own() -> None:
    def part(_ranks: Ranks) -> None:
        raise UserError("Row 3 is empty.")

    played = play(part, size=3)
    assert [str(one.error) for one in played] == ["Row 3 is empty."] * 3
    assert [one.told for one in played] == [[]] * 3


@pytest.mark.parametrize(("victim", "size"), [(0, 2), (1, 2), (1, 4)])
def test_a_rank_that_dies_ends_all_and_the_first_of_the_others_says_so(
    victim: int, size: int
) -> None:
    def part(ranks: Ranks) -> None:
        if ranks.rank == victim:  # as the kernel closes what a dead process had
            for connection in ranks.connections.values():
                connection.close()
        ranks.broadcast(ranks.gather(b"")[0] if ranks.is_first else None)

    played = play(part, size=size)
    told, *silent = [one for rank, one in enumerate(played) if rank != victim]
    assert [sentence.split(":")[0] for sentence in told.told] == [
        f"Rank {victim} (127.0.0.1) ended without a word"
    ]
    assert all(one.told == [] for one in silent)
    assert all(one.ended.is_set() for one in (told, *silent))
    assert all(isinstance(one.error, LostRankError) for one in (told, *silent))


def test_a_thread_can_end_all_ranks() -> None:
    def part(ranks: Ranks) -> None:
        if ranks.rank == 1:
            ranks.fail("The ring does not close.")
        ranks.broadcast(ranks.gather(b"")[0] if ranks.is_first else None)

    first, second = play(part)
    assert first.told == ["Rank 1 (127.0.0.1): The ring does not close."]
    assert first.ended.is_set()
    assert second.ended.is_set()
    assert second.told == []


def test_a_rank_that_quits_on_purpose_lets_the_others_end_in_silence() -> None:
    def part(ranks: Ranks) -> None:
        if ranks.is_first:
            ranks.quit()
        else:
            ranks.broadcast(None)

    first, second = play(part)
    assert second.ended.is_set()
    assert first.told == second.told == []


def test_a_port_in_use_is_named() -> None:
    first, _ = launches(2)
    with (
        listen(first.contact, 1),
        pytest.raises(MachinesError, match=r"127\.0\.0\.1:\d+ cannot be listened at"),
    ):
        meet(first, {}, join_seconds=0.1)


def test_a_port_that_another_rank_lacks_is_told_by_the_first() -> None:
    launched = launches(2)
    with listen(launched[1].addresses[1][0], 1):
        first, second = play_launches(launched)
    assert str(first.error).startswith("Rank 1 (127.0.0.1): 127.0.0.1:")
    assert isinstance(second.error, TurnedAwayError)


def test_a_stranger_at_the_port_is_no_rank() -> None:
    first, second = launches(2)
    waiting = threading.Thread(target=play_launches, args=([first],))
    waiting.start()
    stranger = connect_when_there(first.contact)
    stranger.close()
    played: list[Ranks] = [meet(second, {"mlx": "1"})]
    with played[0] as ranks:
        assert ranks.rank == 1
    waiting.join(60)


def connect_when_there(address: Address) -> Connection:
    while True:
        with suppress(OSError):
            return connect(address, 5)
