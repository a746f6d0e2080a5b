"""Real sockets for tests: a server in a thread, or as a process of its own."""

import asyncio
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fake_engine import FakeEngine

from verse_server.acceptor import bind
from verse_server.app import create_app
from verse_server.config import ServerConfig
from verse_server.serving import make_server

_SCRIPT = Path(__file__).with_name("serve_fake.py")


@contextmanager
def live_server(
    engine: FakeEngine, config: ServerConfig | None = None
) -> Generator[str, None, None]:
    """Serve from a thread; yields the address, `http://127.0.0.1:PORT`."""
    sock = bind("127.0.0.1", 0)
    address = f"http://127.0.0.1:{sock.getsockname()[1]}"
    config = config or ServerConfig()
    server = make_server(create_app(engine, config), config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[sock])))
    thread.start()
    try:
        yield address
    finally:
        server.should_exit = True
        thread.join(timeout=60)
        assert not thread.is_alive()


@dataclass
class ServedProcess:
    """A server in a process of its own, and what it has printed."""

    process: subprocess.Popen[bytes]
    folder: Path
    address: str = ""

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def exit_code(self, seconds: float = 60.0) -> int:
        return self.process.wait(timeout=seconds)

    def health(self) -> httpx.Response:
        return httpx.get(f"{self.address}/health")


@contextmanager
def served_process(folder: Path, **spec: Any) -> Generator[ServedProcess, None, None]:
    """Run serve_fake.py and wait until it answers."""
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        command = [sys.executable, str(_SCRIPT), json.dumps(spec)]
        served = ServedProcess(subprocess.Popen(command, stdout=out, stderr=err), folder)
    try:
        wait_until(lambda: "/v1" in served.out or served.process.poll() is not None)
        address = re.search(r"http://\S+:\d+", served.out)
        assert address is not None, served.err
        served.address = address[0]
        assert served.health().status_code == 200
        yield served
    finally:
        served.process.kill()
        served.process.wait()


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Fail unless the condition becomes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
