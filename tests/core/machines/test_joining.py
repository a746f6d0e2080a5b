"""What ranks see to before mlx connects them."""

import os
import socket
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.core.machines.meetings import launches, play_launches
from verse.machines.joining import check_ring, kernel_folder
from verse.machines.launch import Launch
from verse.machines.meeting import listen_at
from verse.machines.ranks import Ranks


def checked(ranks: Ranks) -> None:
    assert ranks.launch is not None
    check_ring(ranks, ranks.launch)


def test_ranks_that_reach_each_other_leave_their_ports_to_mlx() -> None:
    def part(ranks: Ranks) -> None:
        checked(ranks)
        ranks.agree("", "")
        assert ranks.launch is not None
        for address in ranks.launch.addresses[ranks.rank]:
            listen_at(address, 1).close()

    played = play_launches(launches(3), part)
    assert [(one.error, one.told) for one in played] == [(None, [])] * 3


def test_a_rank_that_was_given_other_addresses_is_told_by_the_first() -> None:
    first, second = launches(2)
    (own,) = second.addresses[1]
    moved = (*second.addresses[:1], (msgspec.structs.replace(own, port=own.port + 40),))
    given = [first, msgspec.structs.replace(second, addresses=moved)]
    told, silent = play_launches(given, checked)
    assert str(told.error).startswith("Rank 1 (127.0.0.1) has other addresses than rank 0 (")
    assert str(own.port + 40) in str(told.error)
    assert silent.ended.is_set()
    assert silent.told == []


@dataclass
class Firewall:
    """Lets nobody connect to a port."""

    port: int
    real: Any = socket.create_connection

    def __call__(self, address: tuple[str, int], *args: Any, **options: Any) -> socket.socket:
        if address[1] == self.port:
            raise TimeoutError("timed out")
        return self.real(address, *args, **options)


def blocked(given: list[Launch], rank: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Block the ring's port of a rank; which one it is."""
    port = given[rank].addresses[rank][0].port
    monkeypatch.setattr(socket, "create_connection", Firewall(port))
    return port


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_port_of_the_ring_that_is_blocked_is_named_by_the_first(
    rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = launches(3)
    port = blocked(given, rank, monkeypatch)
    played = play_launches(given, checked)
    before = (rank - 1) % 3
    assert str(played[0].error) == (
        f"Rank {before} (127.0.0.1) cannot reach rank {rank} (127.0.0.1) at 127.0.0.1:{port} "
        "(timed out): let that port through, or give another --starting-port."
    )
    assert all(other.ended.is_set() and not other.told for other in played[1:])


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_kernels_are_compiled_where_only_their_owner_can_write_and_once(temporary: Path) -> None:
    folder = kernel_folder(1)
    assert folder.parent == temporary
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert kernel_folder(1) == folder
    assert kernel_folder(0) != folder


@pytest.mark.parametrize("trap", ["open", "link", "file", "foreign"])
def test_kernels_are_not_loaded_from_what_somebody_else_put_there(
    temporary: Path, trap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = kernel_folder(1)
    usual.rmdir()
    match trap:
        case "open":
            usual.mkdir()
            usual.chmod(0o777)
        case "link":
            (temporary / "theirs").mkdir(mode=0o700)
            usual.symlink_to(temporary / "theirs")
        case "file":
            usual.write_bytes(b"")
        case _:
            owner = os.getuid()
            monkeypatch.setattr(os, "getuid", lambda: owner + 1)
            Path(temporary, f"verse-{owner + 1}-rank-1").mkdir(mode=0o700)
    folder = kernel_folder(1)
    assert folder not in (usual, Path(temporary, f"verse-{os.getuid()}-rank-1"))
    assert stat.S_IMODE(folder.lstat().st_mode) == 0o700
    assert [*folder.iterdir()] == []
