"""What a server has to bear while others are served; each attack runs in a process of its own.

    python -m benchmarks.serving.attacks NAME PORT ADAPTERS STAGED

`victims` runs them. ADAPTERS is the folder of the running server, STAGED holds adapters beside it
that are put there in time. It prints `ready` once all is prepared, and begins when a line comes in.
Nothing is done to any other program.
"""

import itertools
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

Json = dict[str, Any]

CHAT = "/v1/chat/completions"
WEIGHTS = "adapters.safetensors"
MAX_SECONDS = 12.0
"""After so long an attack leaves off, whatever it has got for answers."""
_RANKS = {"rank256": 256, "rank4096": 4096}
_MANY_TENSORS = 600_000


class Target:
    """The server, and where its adapters come from.

    What an attack needs is made before it begins, which is at the first thing the server could
    notice: the victims are to feel the attack, not a process that starts and writes JSON beside
    them.
    """

    def __init__(self, port: int, adapters: Path, staged: Path) -> None:
        self.port = port
        self.adapters = adapters
        self.staged = staged
        self.prepared = Path(tempfile.mkdtemp(prefix="prepared-", dir=staged.parent))
        self.end: float | None = None
        self._numbers = itertools.count()

    def begin(self) -> None:
        """Say that all is prepared, and wait for the word."""
        if self.end is None:
            print("ready", flush=True)
            sys.stdin.readline()
            self.end = time.monotonic() + MAX_SECONDS

    @property
    def left_seconds(self) -> float:
        """Until the attack leaves off."""
        self.begin()
        return max(0.1, (self.end or 0.0) - time.monotonic())

    def connect(self, receive_bytes: int | None = None) -> socket.socket:
        """A connection, with a small buffer if wanted."""
        seconds = self.left_seconds
        connection = socket.socket()
        if receive_bytes:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        connection.settimeout(seconds)
        connection.connect(("127.0.0.1", self.port))
        return connection

    def send(self, request: bytes, receive_bytes: int | None = None) -> socket.socket:
        """A connection with a request on its way and nothing read from it."""
        connection = self.connect(receive_bytes)
        connection.sendall(request)
        return connection

    def ask(self, request: bytes) -> None:
        """Read the whole answer, or what of it comes in time."""
        with suppress(OSError), self.send(request) as connection:
            while connection.recv(65536):
                pass

    def begin_all(self, requests: Iterable[bytes]) -> list[threading.Thread]:
        """All at once, each on a connection of its own."""
        threads = [
            threading.Thread(target=self.ask, args=(request,), daemon=True) for request in requests
        ]
        self.begin()
        for thread in threads:
            thread.start()
        return threads

    def ask_all(self, requests: Iterable[bytes]) -> None:
        """All at once, until all are answered."""
        for thread in self.begin_all(requests):
            thread.join()

    def copy(self, source: str, *, own: bool = False) -> Path:
        """Prepare a copy of a staged adapter; `own` ones are all of different weights."""
        folder = self.prepared / f"copy{next(self._numbers)}"
        shutil.copytree(self.staged / source, folder, copy_function=os.link)
        if own:
            weights = load_file(folder / WEIGHTS)
            factor = 1 + next(self._numbers) / 10_000
            (folder / WEIGHTS).unlink()
            save_file({k: array * factor for k, array in weights.items()}, folder / WEIGHTS)
        return folder

    def bring(self, copy: Path, name: str) -> None:
        """Put a copy among the served adapters, whole at once."""
        self.begin()
        copy.rename(self.adapters / name)

    def remove(self, name: str) -> None:
        """Take an adapter away, whole at once."""
        (self.adapters / name).rename(self.prepared / f"gone{next(self._numbers)}")


def post(path: str, body: Json | bytes, **headers: str) -> bytes:
    """A request as it goes over the wire."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{more}"
        f"Content-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
    )
    return head.encode() + raw


def get(path: str) -> bytes:
    """One without a body."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()


def chat(
    content: str = "河", model: str = "base", *, headers: Json | None = None, **more: Any
) -> bytes:
    """A short request."""
    body = {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 4}
    return post(CHAT, body | more, **(headers or {}))


def spaces(target: Target) -> None:
    """Ten texts of a megabyte."""
    target.ask_all([chat(" " * 1_000_000)] * 10)


def spaces_and_gone(target: Target) -> None:
    """Ten texts of 300,000 blanks, from clients that leave at once."""
    request = chat(" " * 300_000)
    for _ in range(10):
        target.send(request).close()
    time.sleep(3)


def long_system(target: Target) -> None:
    """An adapter whose own system message is 300,000 blanks long, ten times."""
    target.bring(target.copy("long-system"), "long-system")
    target.ask_all([chat(model="long-system")] * 10)
    target.remove("long-system")


def loading(target: Target) -> None:
    """New adapters of rank 256 brought, loaded, listed and unloaded."""
    body = {"lora_name": "rank256"}
    listing = [get("/v1/models"), get("/v1/adapters")]
    for copy in [target.copy("rank256") for _ in range(3)]:
        target.bring(copy, "rank256")
        target.ask_all([post("/v1/load_lora_adapter", body), chat(model="rank256"), *listing])
        target.ask(post("/v1/unload_lora_adapter", body))
        target.remove("rank256")


def huge_rank(target: Target) -> None:
    """An adapter of rank 4096, of 600 MB."""
    target.bring(target.copy("rank4096"), "rank4096")
    load = post("/v1/load_lora_adapter", {"lora_name": "rank4096"})
    target.ask_all([load, chat(model="rank4096")])
    target.remove("rank4096")


def huge_header(target: Target) -> None:
    """A weights file of 600,000 empty tensors."""
    target.bring(target.copy("many-tensors"), "many-tensors")
    target.ask_all([chat(model="many-tensors"), get("/v1/models")])
    target.remove("many-tensors")


def never_reading(target: Target) -> None:
    """32 streams that nobody reads."""
    request = chat(max_tokens=400, stream=True, logprobs=True, top_logprobs=20)
    held = [target.send(request, receive_bytes=2048) for _ in range(32)]
    time.sleep(6)
    for connection in held:
        connection.close()


def half_sent(target: Target) -> None:
    """1,500 halves of headers, 200 halves of bodies."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    halves = [head] * 1500 + [
        head + b"Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
    ] * 200
    held: list[socket.socket] = []
    for half in halves:
        try:
            held.append(target.connect())
            held[-1].sendall(half)
        except OSError:
            break
    time.sleep(3)
    for connection in held:
        connection.close()


def endless_headers(target: Target) -> None:
    """Headers of 64 MB."""
    with target.connect() as connection:
        try:
            connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
            for _ in range(1024):
                connection.sendall(b"x" * 65536)
        except OSError:
            return


def schemas(target: Target) -> None:
    """Schemas that are hard to compile."""
    deep: Json = {"type": "string"}
    for _ in range(100):
        deep = {"type": "object", "properties": {"a": deep, "b": deep}, "required": ["a", "b"]}
        if len(json.dumps(deep)) > 200_000:
            break
    chain = {f"d{n}": {"type": "array", "items": {"$ref": f"#/$defs/d{n + 1}"}} for n in range(600)}
    bombs = [
        deep,
        {"$ref": "#/$defs/d0", "$defs": {**chain, "d600": {"type": "string"}}},
        {"enum": [f"word{number}" for number in range(50_000)]},
        {"type": "string", "pattern": "(a|b|c){1,500}" * 50},
        {"type": "string", "minLength": 10**9},
    ]
    kind = {"type": "json_schema"}
    target.ask_all(
        [
            chat(response_format={**kind, "json_schema": {"name": "n", "schema": bomb}})
            for bomb in bombs
        ]
    )


def biases(target: Target) -> None:
    """Eight requests with 50,000 entries of logit_bias."""
    target.ask_all([chat(logit_bias={str(token): 1 for token in range(50_000)})] * 8)


def many_messages(target: Target) -> None:
    """Eight requests of 30,000 empty messages."""
    turns = [{"role": "user", "content": ""}] * 30_000
    target.ask_all([chat(messages=turns)] * 8)


def many_objects(target: Target) -> None:
    """Eight bodies of 340,000 empty objects, eight of a tool with 8,000 fields, the document."""
    crowd = b"[" + b",".join([b"{}"] * 340_000) + b"]"
    turn = b'{"role": "user", "content": ""}'
    body = b'{"model":"base","messages":[%s],"chat_template_kwargs":{"a":%s}}' % (turn, crowd)
    fields = {f"p{number}": {"type": "string"} for number in range(8_000)}
    tool = {"name": "f", "parameters": {"type": "object", "properties": fields}}
    tools = [{"type": "function", "function": tool}]
    called = chat(tools=tools, tool_choice="required")
    target.ask_all([post(CHAT, body), called, get("/schema/openapi.json")] * 8)


def many_answers(target: Target) -> None:
    """Sixteen answers each to 32 requests."""
    target.ask_all([chat(n=16, max_tokens=8, temperature=1)] * 32)


def many_folders(target: Target) -> None:
    """5,000 adapter folders appear."""
    copies = {f"crowd{number:04d}": target.copy("small") for number in range(5000)}
    for name, copy in copies.items():
        target.bring(copy, name)
    target.ask_all([get("/v1/models"), get("/v1/adapters"), chat(model=max(copies))])
    for name in copies:
        target.remove(name)


def more_than_slots(target: Target) -> None:
    """48 adapters in turn, where there are slots for 16."""
    copies = {f"turn{number:02d}": target.copy("small", own=True) for number in range(48)}
    for name, copy in copies.items():
        target.bring(copy, name)
    target.ask_all([chat(model=name) for name in copies])
    for name in copies:
        target.remove(name)


def one_slot(target: Target) -> None:
    """Eight adapters in turn, on a server with one slot, which the victims have."""
    names = [f"turn{number}" for number in range(8)]
    for name, copy in [(name, target.copy("small", own=True)) for name in names]:
        target.bring(copy, name)
    target.ask_all([chat(model=name, max_tokens=16) for name in names * 2])
    for name in names:
        target.remove(name)


def broken(target: Target) -> None:
    """An adapter replaced, cut short, spoilt and removed while requests for it run."""
    copy = target.copy("small", own=True)
    good = (copy / WEIGHTS).read_bytes()
    contents = (good, good[: len(good) // 2], b"\xff" * 4096, good[:-4] + b"abcd", good) * 2
    parts = [target.prepared / f"part{number}" for number in range(len(contents))]
    for part, content in zip(parts, contents, strict=True):
        part.write_bytes(content)
    request = chat(model="moving", max_tokens=64, stream=True)
    target.bring(copy, "moving")
    threads: list[threading.Thread] = []
    for part in parts:
        threads += target.begin_all([request] * 2)
        time.sleep(0.3)
        part.replace(target.adapters / "moving" / WEIGHTS)
    threads += target.begin_all([request] * 2)
    time.sleep(0.3)
    target.remove("moving")
    for thread in threads:
        thread.join()
    target.ask_all([request] * 4)


def overflow(target: Target) -> None:
    """700 requests at once, for a queue of 512."""
    target.ask_all([chat(max_tokens=1)] * 700)


def overflow_of_both(target: Target) -> None:
    """1,000 at once, every other one in bulk."""
    bulk = {"x_verse_priority": "batch"}
    target.ask_all([chat(max_tokens=1), chat(max_tokens=1, headers=bulk)] * 500)


def overflow_elsewhere(target: Target) -> None:
    """The same 1,000, at a server of its own that refuses them: what the machine does to victims.

    No request reaches the server that is measured. Where this row and the one above are alike, two
    cores are too few for all who want them, and nothing is left for the server to do.
    """
    program = [sys.executable, "-c", _REFUSING_SERVER]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        target.port = int(server.stdout.readline())
        try:
            overflow_of_both(target)
        finally:
            server.terminate()


_REFUSING_SERVER = """
import asyncio

async def refuse(reader, writer):
    head = await reader.readuntil(b"\\r\\n\\r\\n")
    await reader.readexactly(int(head.lower().split(b"content-length:")[1].split()[0]))
    writer.write(b"HTTP/1.1 429 Too Many Requests\\r\\nContent-Length: 0\\r\\n\\r\\n")
    writer.close()

async def main():
    server = await asyncio.start_server(refuse, "127.0.0.1", backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


ATTACKS: dict[str, Callable[[Target], None]] = {
    attack.__name__: attack
    for attack in (
        *(spaces, spaces_and_gone, long_system, loading, huge_rank, huge_header, never_reading),
        *(half_sent, endless_headers, schemas, biases, many_messages, many_objects, many_answers),
        *(many_folders, more_than_slots, one_slot, broken, overflow, overflow_of_both),
        overflow_elsewhere,
    )
}
OPTIONS: dict[str, tuple[str, ...]] = {"one_slot": ("--adapter-slots", "1")}
"""What a server is started with for an attack, where that is more than usual."""


def stage(folder: Path, pattern: Path) -> None:
    """Write the adapters that attacks bring, from one of usual rank."""
    weights = load_file(pattern / WEIGHTS)
    config = json.loads((pattern / "adapter_config.json").read_text("utf-8"))
    _write(folder / "small", weights, config)
    (folder / "long-system").mkdir(parents=True)
    shutil.copytree(folder / "small", folder / "long-system", dirs_exist_ok=True)
    (folder / "long-system" / "prompt.json").write_text(json.dumps({"system": " " * 300_000}))
    for name, rank in _RANKS.items():
        of_rank = {**config, "lora_parameters": {**config["lora_parameters"], "rank": rank}}
        _write(
            folder / name,
            {key: _widened(key, array, rank) for key, array in weights.items()},
            of_rank,
        )
    _write(folder / "many-tensors", {}, config)
    (folder / "many-tensors" / WEIGHTS).write_bytes(_empty_tensors(_MANY_TENSORS))


def _write(folder: Path, weights: dict[str, Any], config: Json) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    if weights:
        save_file(weights, folder / WEIGHTS)


def _widened(key: str, array: Any, rank: int) -> Any:
    axis = 1 if key.endswith("lora_a") else 0
    times = rank // array.shape[axis]
    return np.ascontiguousarray(np.concatenate([array / times] * times, axis))


def _empty_tensors(count: int) -> bytes:
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps(
        {f"model.layers.0.t{number}.lora_a": entry for number in range(count)}
    ).encode()
    return struct.pack("<Q", len(header)) + header


if __name__ == "__main__":
    # Whoever attacks sits at another machine, whose work takes no processor from the server.
    # Not `nice`: it would count from the priority of whoever watches.
    with suppress(AttributeError):  # another system than Linux or macOS
        os.setpriority(os.PRIO_PROCESS, 0, 10)
    ATTACKS[sys.argv[1]](Target(int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])))
