"""An engine on several ranks of this machine, and requests that meet in its batches.

    python -m tests.server.engine.ranked CONFIG

is one rank; the first one prints what was written, as JSON.
"""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from verse.machines.launch import find_launch
from verse.machines.meeting import meet, versions
from verse_server.config import EngineConfig

Rounds = list[list[dict[str, Any]]]
"""Requests: those of a round are asked together, but what publishes waits until one is written."""
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}
"""For each rank: they share the cores."""


class Answer(msgspec.Struct):
    """What came of one request."""

    tokens: list[list[int]]
    logprobs: list[list[float]]
    cached: int
    scored: list[float]
    error: str = ""


async def _ask(engine: Any, wanted: dict[str, Any], has_begun: asyncio.Event) -> Answer:
    from tests.server.engine.engine_requests import request
    from verse_server.engine.errors import EngineError
    from verse_server.engine.types import SamplingParams, TokenLogprob

    fields = dict(wanted)
    await asyncio.sleep(fields.pop("delay", 0.0))
    if "publish" in fields:
        await has_begun.wait()
        source, target = map(Path, fields.pop("publish"))
        shutil.copy(source, target.with_suffix(".new"))
        target.with_suffix(".new").replace(target)
    if "prompt" in fields:
        fields["prompt"] = tuple(fields["prompt"])  # JSON has made it a list
    if "sampling" in fields:
        fields["sampling"] = SamplingParams(**fields["sampling"])
    if "constraint" in fields:
        from verse_server.engine.types import Constraint

        fields["constraint"] = msgspec.convert(fields["constraint"], Constraint)
    num = fields.get("n", 1)
    answer = Answer([[] for _ in range(num)], [[] for _ in range(num)], 0, [])
    try:
        asked = request(engine, fields.pop("model"), **fields)
        async for chunk in engine.generate(asked):
            has_begun.set()
            answer.tokens[chunk.index] += chunk.token_ids
            answer.logprobs[chunk.index] += [entry.logprob for entry in chunk.logprobs]
            answer.cached = chunk.cached_tokens
            answer.scored += [t.logprob for t in chunk.scored_prompt if isinstance(t, TokenLogprob)]
    except EngineError as error:
        answer.error = str(error)
    return answer


async def answers(engine: Any, rounds: Rounds) -> list[Answer]:
    """Each round's requests together, one round after another."""
    found: list[Answer] = []
    for wanted in rounds:
        has_begun = asyncio.Event()
        found += await asyncio.gather(*(_ask(engine, request, has_begun) for request in wanted))
    return found


def answers_alone(model: Path, adapters: Path, rounds: Rounds) -> list[Answer]:
    """What one process writes."""
    from verse_server.engine.engine import MlxEngine

    engine = MlxEngine.start(EngineConfig(model=str(model), adapters=adapters))
    try:
        return asyncio.run(answers(engine, rounds))
    finally:
        engine.close()


def assert_equal(found: list[Answer], wanted: list[Answer], rounds: Rounds) -> None:
    """The same tokens and counts, and nearly the same numbers."""
    asked = [fields for together in rounds for fields in together]
    for got, expected, fields in zip(found, wanted, asked, strict=True):
        assert got.tokens == expected.tokens, fields
        for mine, theirs in zip(got.logprobs, expected.logprobs, strict=True):
            assert mine == pytest.approx(theirs, abs=1e-4), fields
        assert got.scored == pytest.approx(expected.scored, abs=1e-4), fields
        assert (got.cached, got.error) == (expected.cached, expected.error), fields


def on_ranks(
    num_ranks: int,
    model: Path,
    adapters: Path,
    rounds: Rounds,
    *,
    as_stored: bool = False,
    **options: Any,
) -> list[Answer]:
    """What so many ranks write; with weights that stay quantized on a CPU, if asked."""
    ports = free_ports(num_ranks + 1)
    hosts = json.dumps([[f"127.0.0.1:{port}"] for port in ports[:-1]])
    hostfile = adapters.parent / f"ranks-{ports[0]}.json"
    hostfile.write_text(hosts)
    task = {
        "model": str(model),
        "adapters": str(adapters),
        "rounds": rounds,
        "options": options,
        "as_stored": as_stored,
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps(task)],
            env={**os.environ, **_ONE_THREAD, "MLX_RANK": str(rank), "MLX_HOSTFILE": str(hostfile)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(num_ranks)
    ]
    try:
        outs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * num_ranks, outs
    return msgspec.json.decode(outs[0].splitlines()[-1], type=list[Answer])


def free_ports(count: int) -> list[int]:
    """Ports in a row, of which the last one is Verse's own."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first = probe.getsockname()[1]
        ports = list(range(first, first + count))
        if all(map(_is_free, ports)):
            return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def main() -> None:
    task = json.loads(sys.argv[1])
    config = EngineConfig(model=task["model"], adapters=Path(task["adapters"]), **task["options"])
    if task["as_stored"]:
        from verse import base_model

        setattr(base_model, "MEMORY_SHARE", 0.0)  # noqa: B010  else all becomes float32
    with meet(find_launch(), versions()) as ranks:
        if not ranks.is_first:
            from verse_server.engine.followers import follow

            follow(config, ranks)
            return
        from verse_server.engine.engine import MlxEngine

        engine = MlxEngine.start(config, ranks=ranks)
        try:
            found = asyncio.run(answers(engine, task["rounds"]))
        finally:
            engine.close()
        print(msgspec.json.encode(found).decode())  # noqa: T201


if __name__ == "__main__":
    main()
