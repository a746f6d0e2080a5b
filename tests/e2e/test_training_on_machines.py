"""`verse train` on several ranks of this machine: to the end, and when something goes wrong."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest

from tests.core.machines.meetings import free_ports
from tests.trainer.runs import build_model, write_data

pytestmark = pytest.mark.network  # each starts several processes that load mlx
VERSE = Path(sys.executable).with_name("verse")
OPTIONS = (
    *("--model", "model", "--data", "data", "--adapter-path", "adapter", "--num-layers", "1"),
    *("--batch-size", "3", "--save-every", "10", "--patience", "1000"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build_model(tmp_path / "model")
    write_data(tmp_path / "data")
    one = {"ssh": "127.0.0.1", "ips": ["127.0.0.1"]}
    (tmp_path / "hosts.json").write_text(json.dumps([one, one]), "utf-8")
    return tmp_path


def train(folder: Path, *options: str, port: int | None = None) -> "subprocess.Popen[str]":
    """With the launcher that the command starts."""
    port = free_ports(3) if port is None else port
    return subprocess.Popen(
        [VERSE, "train", *OPTIONS, "--hosts", "hosts.json", f"--starting-port={port}", *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ranks_in(folder: Path) -> list[int]:
    """The processes that train there, by what they were asked."""
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            here = (process / "cwd").readlink()
        except OSError:
            continue
        if b"verse_trainer.child" in command and folder in (here, *here.parents):
            found.append(int(process.name))
    return sorted(found)


@pytest.fixture(autouse=True)
def nothing_is_left(folder: Path) -> Generator[None]:
    yield
    deadline = time.monotonic() + 10
    while ranks_in(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ranks_in(folder) == []


def wait_for_step(process: "subprocess.Popen[str]", step: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("step", 0) >= step:
            return
    raise AssertionError(process.communicate())


def test_two_ranks_train_one_adapter_and_one_goes_on_with_it(folder: Path) -> None:
    process = train(folder, "--iters", "20")
    _, errors = process.communicate(timeout=200)
    assert (process.returncode, errors) == (0, "")
    assert (folder / "adapter" / "0000020_adapters.safetensors").is_file()
    alone = [VERSE, "train", *OPTIONS, "--iters", "30", "--resume"]
    subprocess.run(alone, cwd=folder, check=True, capture_output=True)
    assert (folder / "adapter" / "0000030_adapters.safetensors").is_file()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_killed_stops_all_within_ten_seconds(folder: Path, victim: int) -> None:
    process = train(folder, "--iters", "100000", "--json")
    wait_for_step(process, 12)
    number = rank_of(ranks_in(folder), victim)
    os.kill(number, signal.SIGKILL)
    start = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - start < 10
    assert process.returncode == 2
    if victim == 1:
        assert (
            errors.strip()
            .splitlines()[-1]
            .startswith("Rank 1 (127.0.0.1) ended without a word: it was killed")
        )
    else:
        assert "ended" in errors
    assert (folder / "adapter" / "0000010_adapters.safetensors").is_file()


def rank_of(numbers: Sequence[int], rank: int) -> int:
    """The process of a rank, by what its launcher set."""
    for number in numbers:
        environment = Path(f"/proc/{number}/environ").read_bytes().split(b"\0")
        if f"MLX_RANK={rank}".encode() in environment:
            return number
    raise AssertionError(numbers)


def test_ctrl_c_saves_on_all_ranks_and_stops(folder: Path) -> None:
    process = train(folder, "--iters", "100000", "--json")
    wait_for_step(process, 12)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.match(r"Stopped and saved at step \d+; continue with", errors)


def test_a_port_in_use_is_told(folder: Path) -> None:
    port = free_ports(3)
    first = train(folder, "--iters", "100000", "--json", port=port)
    wait_for_step(first, 1)
    second = train(folder, "--iters", "5", "--adapter-path", "other", port=port)
    _, errors = second.communicate(timeout=100)
    assert second.returncode == 2
    assert re.search(r"127\.0\.0\.1:\d+ cannot be listened at \(address already in use\)", errors)
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60)


def test_a_host_that_ssh_does_not_reach_is_told(folder: Path) -> None:
    there = {"ssh": "far.local", "ips": ["10.255.255.1"]}
    here = {"ssh": "127.0.0.1", "ips": ["10.255.255.2"]}
    (folder / "hosts.json").write_text(json.dumps([here, there]), "utf-8")
    ssh = folder / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text("#!/bin/sh\nexit 255\n")
    ssh.chmod(0o755)
    process = subprocess.run(
        [VERSE, "train", *OPTIONS, "--hosts", "hosts.json"],
        cwd=folder,
        env={**os.environ, "PATH": f"{ssh.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert process.returncode == 2
    assert process.stderr.strip().count("\n") == 0


def launched(folders: Sequence[Path], *options: str) -> list[tuple[int, str]]:
    """Exit code and errors of each rank, started as mlx.launch does, each in its folder."""
    port = free_ports(len(folders) + 1)
    ring = folders[0] / "ring.json"
    ring.write_text(json.dumps([[f"127.0.0.1:{port + rank}"] for rank in range(len(folders))]))
    ranks = [
        subprocess.Popen(
            [VERSE, "train", *OPTIONS, *options],
            cwd=place,
            env={**os.environ, "MLX_RANK": str(rank), "MLX_HOSTFILE": str(ring)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, place in enumerate(folders)
    ]
    errors = [rank.communicate(timeout=100)[1] for rank in ranks]
    return [(rank.returncode, error) for rank, error in zip(ranks, errors, strict=True)]


def other_folder(folder: Path, *left_out: str) -> Path:
    """A machine beside, with the same files but for some."""
    other = folder / "other"
    other.mkdir()
    for name in {"model", "data"} - set(left_out):
        shutil.copytree(folder / name, other / name)
    return other


def test_a_machine_without_the_rows_is_told_by_the_first(folder: Path) -> None:
    first, second = launched([folder, other_folder(folder, "data")], "--iters", "4")
    assert first[0] == second[0] == 2
    assert first[1].startswith("Rank 1 (127.0.0.1): ")
    assert "data" in first[1]
    assert first[1].count("\n") == 1
    assert second[1] == ""


def test_a_machine_with_another_model_is_told_by_the_first(folder: Path) -> None:
    other = other_folder(folder, "model")
    build_model(other / "model", rope_theta=5000.0)
    first, second = launched([folder, other], "--iters", "4")
    assert first == (
        2,
        "Rank 1 (127.0.0.1) has another base model than rank 0: copy its folder from there.\n",
    )
    assert second == (2, "")


def test_a_machine_with_other_settings_or_rows_is_told_by_the_first(folder: Path) -> None:
    other = other_folder(folder, "data")
    write_data(other / "data", num_train=6)
    first, second = launched([folder, other], "--iters", "4")
    assert first[1].startswith("Rank 1 (127.0.0.1) has other rows than rank 0")
    assert second == (2, "")


def test_ranks_that_are_launched_train_one_adapter(folder: Path) -> None:
    other = other_folder(folder)
    assert launched([folder, other], "--iters", "4") == [(0, ""), (0, "")]
    assert (folder / "adapter" / "adapters.safetensors").is_file()
    assert not (other / "adapter").exists()
