"""Two real servers: a plan that one of them dies under, and proxies in front of them."""

import random
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest
from openai import OpenAI

from tests.e2e.conftest import EXAMPLES, ROOT, VERSE, Serve, Served, copy_of_examples
from tests.e2e.guide import block
from verse import jsonl
from verse.records import Candidate

GUIDE = (ROOT / "docs" / "machines.md").read_text("utf-8")
NUM_REQUESTS = 200
SLOTS = ("--adapter-slots", "4")


def free_port() -> int:
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def poems_in(path: Path) -> list[Candidate]:
    return jsonl.read(path, msgspec.json.Decoder(Candidate)) if path.exists() else []


@pytest.mark.network
def test_a_server_is_killed_under_a_plan_and_started_again_and_no_poem_is_lost_or_doubled(
    serve: Serve, tmp_path: Path
) -> None:
    adapters = copy_of_examples(tmp_path / "adapters")
    port = str(free_port())
    stays, dies = serve(adapters=adapters), serve("--port", port, adapters=adapters)
    (tmp_path / "themes.txt").write_text("河\n雨\n雪\n灯\n", "utf-8")
    command = [
        str(VERSE), "generate", "--themes", "themes.txt", "--adapters", "xuzhimo,hushi", "-n", "20",
        "--max-tokens", "60", "--concurrency", "4", "--temperature", "1",
        "--base-url", stays.base_url, "--base-url", dies.base_url,
    ]  # fmt: skip
    run = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    path = tmp_path / "poems.jsonl"
    wait_until(run, lambda: by_server(path)[dies.base_url] >= 8)
    dies.process.send_signal(signal.SIGKILL)
    dies.process.wait()
    written_then = by_server(path)[dies.base_url]
    again = serve("--port", port, adapters=adapters)
    _, said = run.communicate(timeout=180)
    assert run.returncode == 0, said
    poems = poems_in(path)
    assert len(poems) == len({(p.theme, p.adapter, p.sample) for p in poems}) == 4 * 2 * 20
    assert by_server(path)[again.base_url] >= written_then
    assert f"No server answers at {dies.base_url}. Others do its share" in said


def by_server(path: Path) -> Counter[str | None]:
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return Counter(msgspec.json.decode(line, type=Candidate).server for line in lines)


def wait_until(run: "subprocess.Popen[str]", condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until
        assert run.poll() is None, run.communicate()
        time.sleep(0.02)


def num_loads(server: Served) -> int:
    """Adapters that it brought into memory so far."""
    url = server.base_url.removesuffix("/v1") + "/metrics"
    with urllib.request.urlopen(url, timeout=30) as answer:
        text = answer.read().decode()
    found = re.search(r"^verse_adapter_loads_total (\S+)", text, re.MULTILINE)
    assert found is not None
    return int(float(found[1]))


def ask_for_poems(base_url: str) -> None:
    """200 requests of eight adapters in a random order, eight at a time."""
    rng = random.Random(5)
    names = [name for name in EXAMPLES for _ in range(NUM_REQUESTS // len(EXAMPLES))]
    rng.shuffle(names)
    with (
        OpenAI(base_url=base_url, api_key="unused", max_retries=0, timeout=120) as client,
        ThreadPoolExecutor(8) as pool,
    ):

        def ask(name: str) -> str:
            messages = [{"role": "user", "content": "河"}]
            answer = client.chat.completions.create(
                model=name,
                messages=messages,  # type: ignore[arg-type]
                max_tokens=4,
            )
            return answer.model

        assert list(pool.map(ask, names)) == names


@contextmanager
def haproxy(config: str, folder: Path) -> Generator[None]:
    (folder / "haproxy.cfg").write_text(config, "utf-8")
    process = subprocess.Popen([HAPROXY or "haproxy", "-f", "haproxy.cfg"], cwd=folder)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def until_open(port: int) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            threading.Event().wait(0.05)
        else:
            return
    pytest.fail("the proxy did not open its port")


HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")


@pytest.mark.network
@pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")
def test_a_proxy_that_hashes_the_models_name_keeps_adapters_where_they_are(
    serve: Serve, tmp_path: Path
) -> None:
    """The guide's own configuration, and the same without affinity; prints the loads of each."""
    adapters = copy_of_examples(tmp_path / "adapters")
    config = block(GUIDE, "", "balance hash")
    loads: dict[str, list[int]] = {}
    for name, balance in (("affinity", None), ("round robin", "balance roundrobin")):
        servers = [serve(*SLOTS, adapters=adapters) for _ in range(2)]
        port = free_port()
        made = config.replace("127.0.0.1:8080", f"127.0.0.1:{port}")
        for number, server in enumerate(servers, 1):
            address = server.base_url.removesuffix("/v1").removeprefix("http://")
            made = made.replace(f"mac-{number}.local:8000", address)
        if balance is not None:
            made = re.sub(r"balance hash.*", balance, made).replace("hash-type consistent", "")
        with haproxy(made, tmp_path):
            until_open(port)
            ask_for_poems(f"http://127.0.0.1:{port}/v1")
        loads[name] = [num_loads(server) for server in servers]
    print(f"\nadapters loaded by each server, for {NUM_REQUESTS} requests: {loads}")  # noqa: T201
    assert sum(loads["affinity"]) <= len(EXAMPLES) + 8
    assert min(loads["affinity"]) > 0
    assert sum(loads["round robin"]) > 3 * sum(loads["affinity"])
