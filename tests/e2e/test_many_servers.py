"""Two real servers: a plan that one of them dies under, and proxies in front of them."""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from openai import OpenAI

from tests.e2e.clients import PYTHON_CLIENTS
from tests.e2e.conftest import EXAMPLES, ROOT, VERSE, Serve, Served, copy_of_examples
from tests.e2e.guide import block
from verse import jsonl
from verse.records import Candidate

GUIDE = (ROOT / "docs" / "machines.md").read_text("utf-8")
NUM_REQUESTS = 200
KEY = "sk-proxy"
"""litellm's proxy wants one; it begins so."""
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
        OpenAI(base_url=base_url, api_key=KEY, max_retries=0, timeout=120) as client,
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
def proxy(
    command: Sequence[str], file: str, config: str, folder: Path, port: int
) -> Generator[str]:
    """A proxy with a configuration of its own; gives its address."""
    (folder / file).write_text(config, "utf-8")
    with (folder / f"{file}.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, file], cwd=folder, stdout=log, stderr=subprocess.STDOUT,
            env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MASTER_KEY": KEY},
        )  # fmt: skip
    try:
        until_open(port, process)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(30)


def until_open(port: int, process: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
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
        command = [HAPROXY or "haproxy", "-f"]
        with proxy(command, "haproxy.cfg", made, tmp_path, port) as address:
            ask_for_poems(address)
        loads[name] = [num_loads(server) for server in servers]
    print(f"\nadapters loaded by each server, for {NUM_REQUESTS} requests: {loads}")  # noqa: T201
    assert sum(loads["affinity"]) <= len(EXAMPLES) + 8
    assert min(loads["affinity"]) > 0
    assert sum(loads["round robin"]) > 3 * sum(loads["affinity"])


def litellm(folder: Path) -> str:
    """Its proxy, installed there; skips where it cannot be."""
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed")
    client = next(client for client in PYTHON_CLIENTS if client.name == "litellm's proxy")
    command = ["uv", "venv", "-q", "--python", sys.executable, str(folder)]
    subprocess.run(command, check=True)
    python = str(folder / "bin" / "python")
    install = ["uv", "pip", "install", "-q", "--python", python, *client.requirements]
    if subprocess.run(install, check=False, capture_output=True).returncode:
        pytest.skip(f"{client.requirements[0]} cannot be installed here")
    return str(folder / "bin" / "litellm")


def deployments(servers: Sequence[Served], *, has_order: bool) -> str:
    """The guide's list, as it is for all adapters: half of them at home on each server."""
    shown: list[dict[str, Any]] = yaml.safe_load(block(GUIDE, "yaml", "order: 2"))["model_list"]
    made: list[dict[str, Any]] = []
    for number, name in enumerate(EXAMPLES):
        of_home = "xuzhimo" if number % 2 else "hushi"
        for entry in (entry for entry in shown if entry["model_name"] == of_home):
            given = dict(entry["litellm_params"], model=f"openai/{name}")
            server = servers["mac-2" in given["api_base"]]
            given["api_base"] = server.base_url
            if not has_order:
                del given["order"]
            made.append({"model_name": name, "litellm_params": given})
    return yaml.safe_dump({"model_list": made})


@pytest.mark.network
def test_litellm_asks_the_server_that_is_named_first_and_the_other_where_that_fails(
    serve: Serve, tmp_path: Path
) -> None:
    """The guide's own list, and the same without an order; prints the loads of each."""
    program = litellm(tmp_path / "venv")
    adapters = copy_of_examples(tmp_path / "adapters")
    loads: dict[bool, list[int]] = {}
    for has_order in (False, True):
        servers = [serve(*SLOTS, adapters=adapters) for _ in range(2)]
        port = free_port()
        config = deployments(servers, has_order=has_order)
        command = [program, "--host", "127.0.0.1", "--port", str(port), "--config"]
        with proxy(command, "litellm.yaml", config, tmp_path, port) as address:
            ask_for_poems(address)
            loads[has_order] = [num_loads(server) for server in servers]
            if has_order:
                servers[0].stop()
                ask_for_poems(address)
    print(f"\nadapters loaded by each server, in an order or not: {loads}")  # noqa: T201
    assert loads[True] == [4, 4]
    assert sum(loads[False]) > 3 * sum(loads[True])
