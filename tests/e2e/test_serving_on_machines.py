"""`verse serve` on several ranks of this machine: what goes wrong, and how it ends."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.parties import model_folder
from benchmarks.serving import sharded
from tests.core.machines.meetings import free_ports
from tests.e2e.conftest import VERSE, copy_of_examples
from tests.trainer.runs import build_model

pytestmark = pytest.mark.network  # each starts several processes that load mlx
END_SECONDS = 10.0
PROMPT = {"model": "model", "messages": [{"role": "user", "content": "河"}]}
ENDLESS = PROMPT | {"max_tokens": 4000, "stream": True, "ignore_eos": True, "temperature": 0}


@dataclass
class Rank:
    """A process, and what it says."""

    process: "subprocess.Popen[str]"
    lines: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as said:
            for line in said:
                self.lines.append(line)

    def end(self, seconds: float = END_SECONDS) -> tuple[int, str]:
        """Exit code and all that it said."""
        code = self.process.wait(seconds)
        self._reader.join(5)
        return code, "".join(self.lines)


@dataclass
class Machines:
    """All ranks of a server."""

    ranks: list[Rank]

    def address(self) -> str:
        """Where rank 0 answers, once it does."""
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            said = "".join(self.ranks[0].lines)
            if (found := re.search(r"address\s+(http://\S+)/v1", said)) and "curl " in said:
                return found[1]
            assert self.ranks[0].process.poll() is None, said
            time.sleep(0.05)
        raise AssertionError("the server did not become ready")


def start(
    folders: Sequence[Path],
    *options: str,
    model: str = "model",
    port: int | None = None,
    of_second: Mapping[str, str] | None = None,
) -> Machines:
    """Ranks as `mlx.launch` starts them, each in the folder of its machine.

    Args:
        folders: Of the machines.
        options: Of the command.
        model: Its folder, on all.
        port: The first one of the ring.
        of_second: What the environment of rank 1 has beside.
    """
    first = port or free_ports(len(folders) + 1)
    ring = folders[0] / "ring.json"
    ring.write_text(json.dumps([[f"127.0.0.1:{first + rank}"] for rank in range(len(folders))]))
    command = [VERSE, "serve", "--port", "0", "--model", model, "--adapters", "adapters", *options]
    one_thread = {"OPENBLAS_NUM_THREADS": "1", "MLX_HOSTFILE": str(ring)}
    own: list[Mapping[str, str]] = [{}, of_second or {}, *[{}] * len(folders)]
    return Machines(
        [
            Rank(
                subprocess.Popen(
                    command,
                    cwd=folder,
                    env={**os.environ, **one_thread, "MLX_RANK": str(rank), **own[rank]},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
            for rank, folder in enumerate(folders)
        ]
    )


@pytest.fixture
def machines(tmp_path: Path) -> list[Path]:
    """Two with the same model; adapters lie on the first one alone."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        build_model(folder / "model", max_position_embeddings=8192, eos_token_id=8191)
    (folders[0] / "adapters").mkdir()
    return folders


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    deadline = time.monotonic() + END_SECONDS
    while (left := _processes_in(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for number in left:
        os.kill(number, signal.SIGKILL)
    assert left == []


def _processes_in(folder: Path) -> list[int]:
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            here = (process / "cwd").readlink()
            if folder in (here, *here.parents):
                found.append(int(process.name))
    return found


def ask(address: str) -> dict[str, Any]:
    """A short poem of the base."""
    body = PROMPT | {"max_tokens": 8, "temperature": 0}
    return httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60).json()


class Stream:
    """A poem without end that somebody reads."""

    def __init__(self, address: str) -> None:
        self.events: list[str] = []
        self.begun = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(address,), daemon=True)
        self._thread.start()
        assert self.begun.wait(60)

    def _read(self, address: str) -> None:
        url = f"{address}/v1/chat/completions"
        asked = httpx.stream("POST", url, json=ENDLESS, timeout=60)
        with suppress(httpx.RemoteProtocolError), asked as response:  # who is killed says nothing
            for line in response.iter_lines():
                if line:
                    self.events.append(line)
                    self.begun.set()

    def end(self, seconds: float) -> str:
        """The last event."""
        self._thread.join(seconds)
        assert not self._thread.is_alive()
        return self.events[-1]


class Health:
    """What /health answers until nobody does."""

    def __init__(self, address: str) -> None:
        self._statuses: list[int] = []
        self._thread = threading.Thread(target=self._ask, args=(address,), daemon=True)
        self._thread.start()

    def _ask(self, address: str) -> None:
        with httpx.Client(timeout=5) as client, suppress(httpx.TransportError):
            while True:
                self._statuses.append(client.get(f"{address}/health").status_code)
                time.sleep(0.05)

    def statuses(self) -> set[int]:
        self._thread.join(END_SECONDS)
        return set(self._statuses)


def test_a_follower_that_is_killed_ends_every_stream_and_the_server(machines: list[Path]) -> None:
    served = start(machines)
    address = served.address()
    streams = [Stream(address) for _ in range(3)]
    health = Health(address)
    served.ranks[1].process.kill()
    served.ranks[1].end()
    killed = time.monotonic()
    last = [stream.end(END_SECONDS) for stream in streams]
    code, said = served.ranks[0].end()
    assert time.monotonic() - killed < END_SECONDS
    for event in last:
        assert "error" in event, event
        assert "Rank 1 (127.0.0.1) ended without a word" in event
    assert 503 in health.statuses()
    assert code not in (0, None)
    assert "Error: Rank 1 (127.0.0.1) ended without a word" in said
    assert "Traceback" not in said


def test_followers_end_with_a_first_rank_that_is_killed(machines: list[Path]) -> None:
    served = start(machines)
    stream = Stream(served.address())
    served.ranks[0].process.kill()
    served.ranks[0].end()
    code, said = served.ranks[1].end()
    assert code not in (0, None)
    assert "Traceback" not in said
    assert stream.events


def test_a_slow_follower_only_slows(machines: list[Path]) -> None:
    served = start(machines)
    address = served.address()
    wanted = ask(address)["choices"]
    follower = served.ranks[1].process
    follower.send_signal(signal.SIGSTOP)
    threading.Timer(2.0, follower.send_signal, [signal.SIGCONT]).start()
    begin = time.monotonic()
    assert ask(address)["choices"] == wanted
    assert time.monotonic() - begin > 1.5
    assert httpx.get(f"{address}/health").status_code == 200
    stop(served, signal.SIGTERM)


def stop(served: Machines, number: signal.Signals) -> None:
    """Ask all ranks to end, as Ctrl-C and launchers do."""
    for rank in served.ranks:
        rank.process.send_signal(number)
    for rank in served.ranks:
        code, said = rank.end()
        assert (code, "Traceback" in said) == (0, False), said
    assert served.ranks[1].lines == []


def test_ctrl_c_ends_all_ranks_when_the_poems_are_finished(machines: list[Path]) -> None:
    served = start(machines)
    assert ask(served.address())["choices"]
    stop(served, signal.SIGINT)


def test_four_ranks_serve_adapters_that_lie_on_the_first_machine(tmp_path: Path) -> None:
    folders = [tmp_path / str(rank) for rank in range(4)]
    for folder in folders:
        folder.mkdir()
    copy_of_examples(folders[0] / "adapters")
    tiny = Path(__file__).parents[2] / "models" / "verse-tiny"
    served = start(folders, "--pipeline", model=str(tiny))
    address = served.address()
    body = PROMPT | {"model": "xuzhimo", "max_tokens": 8}
    poem = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60).json()
    assert poem["choices"][0]["message"]["content"]
    stop(served, signal.SIGTERM)


def refused(served: Machines) -> str:
    """What the first rank says; the others say nothing, and all end with 2."""
    ends = [rank.end(60) for rank in served.ranks]
    assert [code for code, _ in ends] == [2] * len(ends), ends
    assert not any(said for _, said in ends[1:]), ends
    said = " ".join(ends[0][1].split()).removeprefix("Error: ")
    assert said.endswith("."), said
    assert "Traceback" not in said
    return said


def test_another_model_on_one_machine_is_told(machines: list[Path]) -> None:
    config = machines[1] / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rope_theta": 5000.0}))
    assert refused(start(machines)).startswith(
        "Rank 1 (127.0.0.1) has another model under this name than rank 0: copy the folder there."
    )


def test_heads_that_do_not_come_out_even_are_told_with_the_numbers(machines: list[Path]) -> None:
    for folder in machines:
        shutil.rmtree(folder / "model")
        build_model(folder / "model", hidden_size=40, num_attention_heads=5, num_key_value_heads=5)
    assert "5 attention heads, which cannot be dealt out evenly to 2 ranks" in refused(
        start(machines)
    )


def test_jobs_are_refused_once(machines: list[Path]) -> None:
    said = refused(start(machines, "--jobs"))
    assert said == "A server on several machines does not train; leave --jobs out."


def test_a_machine_without_the_model_is_told(machines: list[Path]) -> None:
    (machines[1] / "model").rename(machines[1] / "elsewhere")
    assert refused(start(machines)).startswith("Rank 1 (127.0.0.1): There is no model folder")


def test_a_first_machine_without_the_adapters_folder_is_told(machines: list[Path]) -> None:
    (machines[0] / "adapters").rmdir()
    assert "adapters" in refused(start(machines))


def test_a_port_of_http_that_is_in_use_is_told(machines: list[Path]) -> None:
    port = free_ports(1)
    with socket.create_server(("127.0.0.1", port)):
        assert f"{port}" in refused(start(machines, f"--port={port}"))


def test_a_port_of_another_rank_that_is_in_use_is_told(machines: list[Path]) -> None:
    port = free_ports(3)
    with socket.create_server(("127.0.0.1", port + 1)):
        said = refused(start(machines, port=port))
    wanted = f"Rank 1 (127.0.0.1): 127.0.0.1:{port + 1} cannot be listened at (address already in "
    assert said.startswith(wanted)


@pytest.mark.parametrize("offset", [0, 2])
def test_a_port_of_the_first_rank_that_is_in_use_is_told_and_its_launcher_ends_all(
    machines: list[Path], offset: int
) -> None:
    """That of the ring, or the one after all of them, which is Verse's own."""
    port = free_ports(3)
    with socket.create_server(("127.0.0.1", port + offset)):
        _, said = launch(machines[0], port).ranks[0].end(60)
    assert said.count("cannot be listened at") == 1
    assert said.startswith(f"127.0.0.1:{port + offset} cannot be listened at (address already in")
    assert "Node with rank 0 exited with code 2" in said
    assert "Traceback" not in said


FIREWALL = """
import socket
real = socket.create_connection
def blocked(address, *args, **options):
    if address[1] == {port}:
        raise TimeoutError("timed out")
    return real(address, *args, **options)
socket.create_connection = blocked
"""


def test_a_port_that_another_machine_does_not_reach_is_told(machines: list[Path]) -> None:
    port = free_ports(3)
    (machines[1] / "sitecustomize.py").write_text(FIREWALL.format(port=port))
    said = refused(start(machines, port=port, of_second={"PYTHONPATH": str(machines[1])}))
    assert said.startswith(
        f"Rank 1 (127.0.0.1) cannot reach rank 0 (127.0.0.1) at 127.0.0.1:{port} (timed out): "
    )


def test_ranks_that_were_given_other_ports_are_told(machines: list[Path]) -> None:
    port = free_ports(4)
    other = machines[1] / "ring.json"  # the last port is the same, so Verse's own is, too
    other.write_text(json.dumps([[f"127.0.0.1:{port}"], [f"127.0.0.1:{port + 2}"]]))
    said = refused(start(machines, port=port + 1, of_second={"MLX_HOSTFILE": str(other)}))
    assert said == (
        "Rank 1 (127.0.0.1) has other addresses than rank 0 "
        f"(127.0.0.1:{port}; 127.0.0.1:{port + 2} for 127.0.0.1:{port + 1}; 127.0.0.1:{port + 2}): "
        "give all the same hostfile."
    )


@pytest.mark.parametrize(("package", "name"), [("mlx", "mlx"), ("mlx-lm", "mlx-lm")])
def test_a_machine_with_another_version_is_told(
    machines: list[Path], package: str, name: str
) -> None:
    metadata = machines[1] / "installed" / f"{package.replace('-', '_')}-9.9.9.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Name: {package}\nVersion: 9.9.9\n")
    said = refused(start(machines, of_second={"PYTHONPATH": str(metadata.parent)}))
    assert re.fullmatch(
        rf"Rank 1 \(127\.0\.0\.1\) has {name} 9\.9\.9, rank 0 has \S+: "
        "install the same on all machines\\.",
        said,
    )


def launch(folder: Path, port: int) -> Machines:
    """Two ranks by `mlx.launch`, whose output is that of all."""
    program = Path(sys.executable).with_name("mlx.launch")
    options = ["-n", "2", "--backend", "ring", f"--starting-port={port}"]
    command = ["serve", "--port", "0", "--model", "model", "--adapters", "adapters"]
    launched = subprocess.Popen(
        [program, *options, "--env", "OPENBLAS_NUM_THREADS=1", "--", VERSE, *command],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    return Machines([Rank(launched)])


@pytest.mark.parametrize("is_killed", [False, True])
def test_all_ranks_end_with_their_launcher(machines: list[Path], *, is_killed: bool) -> None:
    served = launch(machines[0], free_ports(3))
    launched = served.ranks[0].process
    assert ask(served.address())["choices"]
    if is_killed:
        launched.kill()
    else:
        os.killpg(launched.pid, signal.SIGINT)  # as a terminal does
    served.ranks[0].end(2 * END_SECONDS)


@pytest.mark.qwen
def test_each_of_two_ranks_holds_little_more_than_half(qwen: str, tmp_path: Path) -> None:
    """At the most, from the start to the end of 32 answers at once; the followers hold less."""
    peaks: dict[str, list[float]] = {}
    for name in ("2x1", "1x1"):
        (tmp_path / name).mkdir()
        with sharded.started(model_folder(qwen), tmp_path / name, *sharded.WAYS[name]) as way:
            peaks[name] = sharded.measure(way, (32,), 16)["peak, MB"]
    print(peaks)  # noqa: T201
    (alone,) = peaks["1x1"]
    assert max(peaks["2x1"]) <= 0.6 * alone
