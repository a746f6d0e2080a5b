"""A process learns its rank from what mlx.launch sets, for each of its backends."""

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from verse.machines import MachinesError
from verse.machines.launch import Address, find_launch
from verse.machines.launcher import Host, Hostfile, explain, launch_command, rests


def file_of(folder: Path, content: Any) -> str:
    file = folder / "told.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return str(file)


def test_a_process_without_a_rank_is_alone(tmp_path: Path) -> None:
    assert find_launch({}) is None
    # mlx.launch with one host
    assert find_launch({"MLX_RANK": "0", "MLX_HOSTFILE": file_of(tmp_path, "\n")}) is None


def test_the_ring_tells_where_all_listen_and_verse_takes_the_next_port(tmp_path: Path) -> None:
    listed = [["10.0.0.1:5000", "10.1.0.1:5001"], ["10.0.0.2:5002", "10.1.0.2:5003"]]
    launch = find_launch({"MLX_RANK": "1", "MLX_HOSTFILE": file_of(tmp_path, listed)})
    assert launch is not None
    assert (launch.rank, launch.size, launch.backend) == (1, 2, "ring")
    assert launch.contact == Address("10.0.0.1", 5004)
    assert launch.describe(1) == "rank 1 (10.0.0.2)"


def test_jaccl_and_nccl_tell_where_the_first_is(tmp_path: Path) -> None:
    devices = [[None, "rdma_en2"], ["rdma_en2", None]]
    jaccl = find_launch(
        {
            "MLX_RANK": "1",
            "MLX_JACCL_COORDINATOR": "10.0.0.1:32323",
            "MLX_IBV_DEVICES": file_of(tmp_path, devices),
        }
    )
    assert jaccl is not None
    assert (jaccl.size, jaccl.backend, str(jaccl.contact)) == (2, "jaccl", "10.0.0.1:32324")
    nccl = find_launch(
        {
            "MLX_RANK": "3",
            "MLX_WORLD_SIZE": "4",
            "NCCL_HOST_IP": "10.0.0.1",
            "NCCL_PORT": "12345",
        }
    )
    assert nccl is not None
    assert (nccl.size, nccl.backend, str(nccl.contact)) == (4, "nccl", "10.0.0.1:12346")
    assert nccl.describe(2) == "rank 2"


@pytest.mark.parametrize("content", [None, "{", [["10.0.0.1"]], [["10.0.0.1:1"]], [[]]])
def test_what_no_launcher_sets_is_refused(tmp_path: Path, content: Any) -> None:
    file = str(tmp_path / "none") if content is None else file_of(tmp_path, content)
    with pytest.raises(MachinesError, match=r"start with `mlx\.launch`, or unset MLX_RANK"):
        find_launch({"MLX_RANK": "1", "MLX_HOSTFILE": file})


def test_mpi_is_refused() -> None:
    with pytest.raises(MachinesError, match="does not run over MPI"):
        find_launch({"OMPI_COMM_WORLD_SIZE": "2"})


HOSTS = Hostfile(hosts=(Host("a.local", ("10.0.0.1",)), Host("b.local", ("10.0.0.2",))))


@pytest.mark.parametrize(
    ("complaint", "meaning"),
    [
        ("\033[33m[WARN] Node with rank 1 exited with code 255 \033[0m", "`ssh b.local` works"),
        ("[WARN] Node with rank 0 exited with code 127", "a.local has no "),
        ("[WARN] Node with rank 0 exited with code 2", None),
        ("[WARN] Node with rank 1 was killed", None),
    ],
)
def test_what_the_launcher_complains_of_is_explained(complaint: str, meaning: str | None) -> None:
    explained = explain(complaint, HOSTS)
    assert (explained is None) if meaning is None else (meaning in (explained or ""))


def test_the_launcher_is_given_the_hostfile_the_port_and_the_program() -> None:
    command = launch_command(
        Path("hosts.json"), ["python", "-m", "x"], starting_port=5000, env={"A": "b c"}
    )
    assert command[3:] == [
        "--hostfile=hosts.json",
        "--starting-port=5000",
        "--env=A=b c",
        "--",
        "python",
        "-m",
        "x",
    ]


def test_a_pipe_that_can_be_written_to_keeps_nobody_awake() -> None:
    """mlx.launch asks for such pipes in a loop: a whole core, on the machine of rank 0."""
    reading, writing = os.pipe()
    resting = rests(select.select)
    try:
        begin = time.monotonic()
        assert resting([reading], [writing], [], 1.0) == ([], [writing], [])
        assert time.monotonic() - begin > 0.04
        assert resting([reading], [writing], [], 0) == ([], [writing], [])
        os.write(writing, b"x")
        assert resting([reading], [writing], [], 60.0) == ([reading], [writing], [])
    finally:
        os.close(reading)
        os.close(writing)


def test_ranks_are_started_heard_and_spoken_to(tmp_path: Path) -> None:
    host = {"ssh": "127.0.0.1", "ips": ["127.0.0.1"]}
    program = "import os, sys; print('heard', sys.stdin.readline().strip(), os.environ['MLX_RANK'])"
    command = launch_command(
        Path(file_of(tmp_path, [host, host])), [sys.executable, "-c", program], env={"A": "b"}
    )
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as launcher:
        assert launcher.stdin is not None
        assert launcher.stdout is not None
        launcher.stdin.write(b"stop\n")
        launcher.stdin.flush()
        heard = sorted(launcher.stdout.read().decode().split("\n"))
    assert heard[-2:] == ["heard stop 0", "heard stop 1"]
