"""What running streams feel while an adapter is published: the widest gap between two tokens.

16 streams of 12 adapters run. At three points something happens, and the gaps are looked at from
there until the first stream has got a number of further pieces:

    nothing     what gaps are like anyway
    joining     one more poem begins, on an adapter that is resident
    publishing  new weights replace those of an adapter that streams are using, and a poem is asked
                for at once, which loads them

A token that ends in half a character brings no text, and the gap to the next piece would be that
of two tokens. So the streams are forbidden all such tokens by `logit_bias`, and it is checked that
each of their tokens came as a piece of its own.
"""

import asyncio
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from tokenizers import Tokenizer

from benchmarks.client import STREAMED, Answer, ask
from benchmarks.parties import Server, verse_server
from benchmarks.serving.bench import Bench, Request, Settings, requests, verse_body, write_adapters
from benchmarks.serving.table import markdown

_STREAMS = 16
_ADAPTERS = 12
"""Fewer than there are slots, so that the new version finds one free."""
_TOKENS = 240
_PIECES = 30
"""Of the first stream, from one event to the next."""
_STAGES = ("nothing", "joining", "publishing")


def estimated_seconds(settings: Settings) -> float:
    """On two cores."""
    return 15 + 9 * settings.rounds


def measure(bench: Bench) -> dict[str, Any]:
    """All stages, round by round."""
    staged = bench.folder / "staged"
    fresh = write_adapters(staged, bench.settings.rounds + 1, bench.model, seed=1)
    published = bench.adapters / bench.names[0] / "adapters.safetensors"
    kept = published.read_bytes()
    bias = dict.fromkeys(tokens_without_text(bench.model), -100)
    with verse_server(bench.model, bench.adapters) as server:
        # The first round only brings all adapters into their slots.
        rounds = [
            asyncio.run(_round(bench, server, bias, staged / name / published.name, published))
            for name in fresh
        ][1:]
    published.write_bytes(kept)
    for number, stages in enumerate(rounds):
        print(f"round {number + 1}  {stages}", flush=True)
    return {"rounds": rounds}


def tokens_without_text(model: Path) -> list[int]:
    """Half characters and control tokens."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    texts = [(token, tokenizer.decode([token])) for token in range(tokenizer.get_vocab_size())]
    return [token for token, text in texts if not text or "\ufffd" in text]


async def _round(
    bench: Bench, server: Server, bias: dict[int, int], weights: Path, published: Path
) -> dict[str, Any]:
    streams = [Answer() for _ in range(_STREAMS)]
    of = requests(bench.names[:_ADAPTERS], _STREAMS)
    async with asyncio.TaskGroup() as group:  # if one stream fails, nobody waits for it
        for request, answer in zip(of, streams, strict=True):
            body = verse_body(request, _TOKENS, logit_bias=bias, **STREAMED)
            group.create_task(ask(server.port, body, answer))
        figures = await _stages(bench, server, streams, weights, published)
    if any(len(stream.times) != stream.completion_tokens for stream in streams):
        raise RuntimeError("Some token came without text of its own, so gaps are not of tokens.")
    return figures


async def _stages(
    bench: Bench, server: Server, streams: list[Answer], weights: Path, published: Path
) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for number, stage in enumerate(_STAGES):
        await _wait_for(streams, _PIECES * (number + 1))
        start = time.perf_counter()
        if stage == "publishing":
            weights.replace(published)  # noqa: ASYNC240  (the clock runs)
        if stage != "nothing":
            name = bench.names[0 if stage == "publishing" else 1]
            joined = await ask(server.port, verse_body(Request("河", name), 4, **STREAMED))
            figures[f"{stage}, first token"] = joined.first_text_seconds
        await _wait_for(streams, _PIECES * (number + 2) - 1)
        figures[stage] = _gaps(streams, start)
    return figures


async def _wait_for(streams: list[Answer], pieces: int) -> None:
    """Until every stream runs, and the first one has so many pieces of text."""
    while len(streams[0].times) < pieces or not all(stream.times for stream in streams):
        if all(stream.completion_tokens for stream in streams):
            raise RuntimeError("The streams ended before all was measured; they need more tokens.")
        await asyncio.sleep(0.001)


def _gaps(streams: list[Answer], start: float) -> dict[str, float]:
    """Of the pieces since a moment; the last ones before it count, too."""
    since = [
        [max(t for t in stream.times if t <= start), *(t for t in stream.times if t > start)]
        for stream in streams
    ]
    gaps = [b - a for times in since for a, b in pairwise(times)]
    return {"step": median(gaps), "widest": max(gaps)}


def report(result: dict[str, Any]) -> list[str]:
    """Medians over the rounds, in steps."""
    rounds = result["rounds"]
    step = median(figures["nothing"]["step"] for figures in rounds)
    rows: list[list[object]] = []
    for stage in _STAGES:
        widest = [figures[stage]["widest"] / step for figures in rounds]
        first = [f[f"{stage}, first token"] for f in rounds if f"{stage}, first token" in f]
        rows.append(
            [
                stage,
                f"{median(widest):.1f} (at most {max(widest):.1f})",
                f"{median(first) * 1e3:.0f} ms" if first else "",
            ]
        )
    head = [
        f"16 streams, in steps of {step * 1e3:.1f} ms",
        "widest gap between two tokens of a stream (aim 3)",
        "first token of the poem that joins",
    ]
    return markdown(head, rows)
