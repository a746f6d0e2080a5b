"""What a server has to bear while others are served; each attack runs in a process of its own.

    python -m benchmarks.serving.attacks NAME PORT ADAPTERS STAGED

`victims` runs them. ADAPTERS is the folder of the running server, STAGED holds adapters beside it
that are put there in time. Nothing is done to any other program.
"""

import itertools
import json
import os
import shutil
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

Json = dict[str, Any]

CHAT = "/v1/chat/completions"
MAX_SECONDS = 12.0
"""After so long an attack leaves off, whatever it has got for answers."""
_RANKS = {"rank256": 256, "rank4096": 4096}
_MANY_TENSORS = 600_000


class Target:
    """The server, and where its adapters come from."""

    def __init__(self, port: int, adapters: Path, staged: Path) -> None:
        self.port = port
        self.adapters = adapters
        self.staged = staged
        self.end = time.monotonic() + MAX_SECONDS

    def connect(self, receive_bytes: int | None = None) -> socket.socket:
        """A connection, with a small buffer if wanted."""
        connection = socket.socket()
        if receive_bytes:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        connection.settimeout(max(0.1, self.end - time.monotonic()))
        connection.connect(("127.0.0.1", self.port))
        return connection

    def send(
        self, path: str, body: Json | bytes | None, receive_bytes: int | None = None
    ) -> socket.socket:
        """A connection with a request on its way and nothing read from it."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode() if body else b""
        head = (
            f"{'POST' if raw else 'GET'} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            "Connection: close\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(raw)}\r\n\r\n"
        )
        connection = self.connect(receive_bytes)
        connection.sendall(head.encode() + raw)
        return connection

    def ask(self, path: str, body: Json | bytes | None = None) -> bytes:
        """The first bytes of an answer; none if it takes too long."""
        try:
            with self.send(path, body) as connection:
                first = connection.recv(4096)
                while connection.recv(65536):
                    pass
                return first
        except OSError:
            return b""

    def ask_all(self, requests: Iterable[tuple[str, Json | bytes | None]]) -> None:
        """All at once, each on a connection of its own."""
        threads = [threading.Thread(target=self.ask, args=request) for request in requests]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def bring(self, name: str) -> None:
        """Put a staged adapter among the served ones, whole at once."""
        shutil.copytree(self.staged / name, self.adapters / name, copy_function=os.link)

    def remove(self, name: str) -> None:
        """Take an adapter away."""
        shutil.rmtree(self.adapters / name, ignore_errors=True)


def chat(content: str = "河", model: str = "base", **more: Any) -> Json:
    """A short request."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 4,
    } | more


def spaces(target: Target) -> None:
    """Ten texts of a megabyte."""
    target.ask_all([(CHAT, chat(" " * 1_000_000))] * 10)


def spaces_and_gone(target: Target) -> None:
    """Ten texts of 300,000 blanks, from clients that leave at once."""
    for _ in range(10):
        target.send(CHAT, chat(" " * 300_000)).close()
    time.sleep(3)


def long_system(target: Target) -> None:
    """An adapter whose own system message is 300,000 blanks long, ten times."""
    target.bring("long-system")
    target.ask_all([(CHAT, chat(model="long-system"))] * 10)
    target.remove("long-system")


def loading(target: Target) -> None:
    """New adapters of rank 256 brought, loaded, listed and unloaded."""
    body = {"lora_name": "rank256"}
    for _ in range(3):
        target.bring("rank256")
        listing = [("/v1/models", None), ("/v1/adapters", None)]
        target.ask_all([("/v1/load_lora_adapter", body), (CHAT, chat(model="rank256")), *listing])
        target.ask("/v1/unload_lora_adapter", body)
        target.remove("rank256")


def huge_rank(target: Target) -> None:
    """An adapter of rank 4096, of 600 MB."""
    target.bring("rank4096")
    target.ask_all(
        [("/v1/load_lora_adapter", {"lora_name": "rank4096"}), (CHAT, chat(model="rank4096"))]
    )
    target.remove("rank4096")


def huge_header(target: Target) -> None:
    """A weights file of 600,000 empty tensors."""
    target.bring("many-tensors")
    target.ask_all([(CHAT, chat(model="many-tensors")), ("/v1/models", None)])
    target.remove("many-tensors")


def never_reading(target: Target) -> None:
    """32 streams that nobody reads."""
    body = chat(max_tokens=400, stream=True, logprobs=True, top_logprobs=20)
    held = [target.send(CHAT, body, receive_bytes=2048) for _ in range(32)]
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
        (CHAT, chat(response_format={**kind, "json_schema": {"name": "n", "schema": bomb}}))
        for bomb in bombs
    )


def biases(target: Target) -> None:
    """Eight requests with 50,000 entries of logit_bias."""
    target.ask_all([(CHAT, chat(logit_bias={str(token): 1 for token in range(50_000)}))] * 8)


def many_messages(target: Target) -> None:
    """Eight requests of 30,000 empty messages."""
    turns = [{"role": "user", "content": ""}] * 30_000
    target.ask_all([(CHAT, {"model": "base", "messages": turns})] * 8)


def many_answers(target: Target) -> None:
    """Sixteen answers each to 32 requests."""
    target.ask_all([(CHAT, chat(n=16, max_tokens=8, temperature=1))] * 32)


def many_folders(target: Target) -> None:
    """5,000 adapter folders appear."""
    names = [f"crowd{number:04d}" for number in range(5000)]
    for name in names:
        shutil.copytree(target.staged / "small", target.adapters / name, copy_function=os.link)
    target.ask_all([("/v1/models", None), ("/v1/adapters", None), (CHAT, chat(model=names[-1]))])
    for name in names:
        target.remove(name)


def more_than_slots(target: Target) -> None:
    """48 adapters in turn, where there are slots for 16."""
    names = [f"turn{number:02d}" for number in range(48)]
    for name in names:
        _own_copy(target, name)
    target.ask_all([(CHAT, chat(model=name)) for name in names])
    for name in names:
        target.remove(name)


def broken(target: Target) -> None:
    """An adapter replaced, cut short, spoilt and removed while requests for it run."""
    good = (target.staged / "small" / "adapters.safetensors").read_bytes()
    _own_copy(target, "moving")
    weights = target.adapters / "moving" / "adapters.safetensors"
    contents = itertools.cycle([good, good[: len(good) // 2], b"\xff" * 4096, good[:-4] + b"abcd"])
    for content in itertools.islice(contents, 8):
        part = weights.with_suffix(".part")
        part.write_bytes(content)
        part.replace(weights)
        target.ask_all([(CHAT, chat(model="moving", max_tokens=16))] * 4)
    target.remove("moving")
    target.ask_all([(CHAT, chat(model="moving"))] * 4)


def overflow(target: Target) -> None:
    """700 requests at once, for a queue of 512."""
    target.ask_all([(CHAT, chat(max_tokens=1))] * 700)


ATTACKS: dict[str, Callable[[Target], None]] = {
    attack.__name__: attack
    for attack in (
        *(spaces, spaces_and_gone, long_system, loading, huge_rank, huge_header, never_reading),
        *(half_sent, endless_headers, schemas, biases, many_messages, many_answers, many_folders),
        *(more_than_slots, broken, overflow),
    )
}


def _own_copy(target: Target, name: str) -> None:
    """The small adapter with other bytes, so that it is another version."""
    folder = target.adapters / name
    shutil.copytree(target.staged / "small", folder)
    weights = load_file(folder / "adapters.safetensors")
    changed = {key: array * (1 + hash(name) % 97 / 1000) for key, array in weights.items()}
    save_file(changed, folder / "adapters.safetensors")


def stage(folder: Path, pattern: Path) -> None:
    """Write the adapters that attacks bring, from one of usual rank."""
    weights = load_file(pattern / "adapters.safetensors")
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
    (folder / "many-tensors" / "adapters.safetensors").write_bytes(_empty_tensors(_MANY_TENSORS))


def _write(folder: Path, weights: dict[str, Any], config: Json) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    if weights:
        save_file(weights, folder / "adapters.safetensors")


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
    ATTACKS[sys.argv[1]](Target(int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])))
