"""A server that answers thousands of times a second: `bulk_server.py` prints its address.

It is as plain as HTTP allows, so that what a run of a hundred thousand poems takes is the client's
time. Poems are drawn from characters in the proportions of a small model's, one in twenty nearly
repeats another, and each follows from theme and seed alone: any number of servers gives the same.
"""

import asyncio
import json
import random
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

SAMPLES = Path(__file__).parents[2] / "data" / "poems.jsonl"
BASE = "verse-tiny"
ADAPTERS = tuple(f"poet{number}" for number in range(8))
_LINES, _LENGTH = 8, 9
_VARIED = 3
"""Characters of a near-repetition that differ."""


@lru_cache
def characters() -> str:
    """As often as the sample poems have them."""
    rows = (json.loads(line)["text"] for line in SAMPLES.read_text("utf-8").splitlines())
    return "".join(char for text in rows for char in text if "\u4e00" <= char <= "\u9fff")


def poem(theme: str, seed: int) -> str:
    """Eight lines; with a seed that is a multiple of twenty, nearly those of a smaller one."""
    is_varied = seed % 20 == 0 and seed > 0
    rng = random.Random(f"{theme} {seed // 20 % 50 if is_varied else seed}")
    chosen = rng.choices(characters(), k=_LINES * _LENGTH)
    for place in random.Random(seed).sample(range(len(chosen)), _VARIED) if is_varied else ():
        chosen[place] = theme[0]
    lines = ("".join(chosen[n : n + _LENGTH]) for n in range(0, len(chosen), _LENGTH))
    return "\n".join(lines)


def models() -> list[dict[str, Any]]:
    """The base and its adapters, as `verse serve` lists them."""
    own = {"object": "model", "created": 0, "owned_by": "verse", "checkpoints": []}
    base = {"id": BASE, "parent": None, "root": BASE, "digest": "b" * 64}
    adapters = ({"id": a, "parent": BASE, "root": BASE, "digest": f"{a:a<64}"} for a in ADAPTERS)
    return [{**own, **each} for each in (base, *adapters)]


def completion(body: Mapping[str, Any]) -> dict[str, Any]:
    """An answer with a poem."""
    text = poem(body["messages"][-1]["content"], body["seed"])
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    usage = {"prompt_tokens": 9, "completion_tokens": len(text), "total_tokens": 9 + len(text)}
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 0, "model": body["model"],
        "system_fingerprint": f"{body['model']:a<64}", "choices": [choice], "usage": usage,
    }  # fmt: skip


def answer(method: str, path: str, content: bytes) -> tuple[int, object]:
    """Status and body."""
    if method == "POST":
        return 200, completion(json.loads(content))
    if path == "/v1/models":
        return 200, {"object": "list", "data": models()}
    found = [model for model in models() if path == f"/v1/models/{model['id']}"]
    if found:
        return 200, found[0]
    return 404, {"error": {"message": "no such model", "type": "x", "code": "model_not_found"}}


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """All requests of one connection."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, path, _ = head.split(" ", 2)
            fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
            content = await reader.readexactly(int(fields.get("content-length", 0)))
            status, body = answer(method, path, content)
            data = json.dumps(body).encode()
            begin = f"HTTP/1.1 {status} OK\r\ncontent-type: application/json\r\n"
            writer.write(f"{begin}content-length: {len(data)}\r\n\r\n".encode() + data)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main() -> None:
    """Serve until killed."""
    characters()
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)  # noqa: T201
    await server.serve_forever()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
