"""A thousand adapter folders, asked for as Zipf has it, with 16 slots and 32 streams.

The k-th adapter is asked for 1/k as often as the first. Beside it, in every round, the same number
of poems on the first 16 adapters, which fit the slots. Memory is what the system says the server
holds, before and after; a server with 16 folders tells what the thousand add.
"""

import asyncio
import random
import re
import time
from statistics import median
from typing import Any

import httpx

from benchmarks.client import STREAMED, ask_all
from benchmarks.parties import THEMES, Server, resident_bytes, verse_server
from benchmarks.serving.bench import Bench, Request, Settings, requests, verse_body, write_adapters
from benchmarks.serving.table import markdown

_STREAMS = 32
_REQUESTS = 96
_EXPONENT = 1.0
_COUNTS = ("verse_adapter_loads_total", "verse_adapter_evictions_total")
_SIZES = ("verse_memory_bytes", "verse_prefix_cache_bytes")
_MEGABYTE = 1e6


def estimated_seconds(settings: Settings) -> float:
    """On two cores."""
    poems = 2 * _REQUESTS * settings.tokens * settings.rounds
    return 20 + settings.folders / 50 + poems / 450


def measure(bench: Bench) -> dict[str, Any]:
    """Tokens per second, loads and memory, round by round."""
    settings = bench.settings
    result: dict[str, Any] = {"folders": settings.folders, "requests": _REQUESTS}
    with verse_server(bench.model, bench.adapters) as server:
        _write(server, requests(bench.names, _REQUESTS), settings.tokens)
        result["bytes_with_16_folders"] = resident_bytes(server.pid)
    names = write_adapters(bench.folder / "many", settings.folders, bench.model, seed=2)
    weights = [1 / rank**_EXPONENT for rank in range(1, len(names) + 1)]
    draw = random.Random(0)
    with verse_server(bench.model, bench.folder / "many") as server:
        result["start_seconds"] = server.start_seconds
        result["bytes_at_start"] = resident_bytes(server.pid)
        result["models_seconds"] = [_list_models(server) for _ in range(2)]
        result["rounds"] = rounds = list[dict[str, float]]()
        for number in range(settings.rounds):
            # They come back into the slots before they are measured.
            _write(server, requests(names[:16], 16), 1)
            resident = _write(server, requests(names[:16], _REQUESTS), settings.tokens)
            before = _metrics(server)
            asked = draw.choices(names, weights, k=_REQUESTS)
            of = [Request(THEMES[i % len(THEMES)], name) for i, name in enumerate(asked)]
            figures = {
                "resident": resident,
                "zipf": _write(server, of, settings.tokens),
                "different": len(set(asked)),
                "bytes": resident_bytes(server.pid),
                **_metrics(server),
            }
            figures |= {name: figures[name] - before[name] for name in _COUNTS}
            rounds.append(figures)
            print(f"round {number + 1}  {figures}", flush=True)
    return result


def _write(server: Server, of: list[Request], tokens: int) -> float:
    """Tokens per second."""
    bodies = [verse_body(request, tokens, **STREAMED) for request in of]
    start = time.perf_counter()
    answers = asyncio.run(ask_all(server.port, bodies, _STREAMS))
    seconds = time.perf_counter() - start
    return sum(answer.completion_tokens for answer in answers) / seconds


def _list_models(server: Server) -> float:
    start = time.perf_counter()
    httpx.get(f"{server.base_url}/v1/models", timeout=300).raise_for_status()
    return time.perf_counter() - start


def _metrics(server: Server) -> dict[str, float]:
    text = httpx.get(f"{server.base_url}/metrics", timeout=60).raise_for_status().text
    found = {name: re.search(rf"^{name} (\S+)", text, re.MULTILINE) for name in (*_COUNTS, *_SIZES)}
    return {name: float(match[1]) if match else 0.0 for name, match in found.items()}


def report(result: dict[str, Any]) -> list[str]:
    """Medians over the rounds."""
    rounds = result["rounds"]

    def middle(key: str) -> float:
        return median(figures[key] for figures in rounds)

    share = median(figures["zipf"] / figures["resident"] for figures in rounds)
    loads, evictions = (middle(name) for name in _COUNTS)
    megabytes = [result[key] / _MEGABYTE for key in ("bytes_with_16_folders", "bytes_at_start")]
    rows: list[list[object]] = [
        ["tokens/s, 16 resident adapters", f"{middle('resident'):.0f}"],
        ["tokens/s, Zipf", f"{middle('zipf'):.0f} ({share:.2f} of that)"],
        [
            f"of {result['requests']} requests",
            f"{middle('different'):.0f} adapters, {loads:.0f} loads, {evictions:.0f} evictions",
        ],
        ["start of the server", f"{result['start_seconds']:.1f} s"],
        [
            "/v1/models, first and second time",
            "{:.2f} s, {:.2f} s".format(*result["models_seconds"]),
        ],
        ["memory with 16 folders, in use", f"{megabytes[0]:.0f} MB"],
        ["memory at the start", f"{megabytes[1]:.0f} MB"],
        ["memory after each round", _megabytes(rounds, "bytes")],
        ["of it mlx's arrays", _megabytes(rounds, "verse_memory_bytes")],
        ["of these the prefix cache", _megabytes(rounds, "verse_prefix_cache_bytes")],
    ]
    return markdown([f"{result['folders']} folders, 16 slots, 32 streams", ""], rows)


def _megabytes(rounds: list[dict[str, float]], key: str) -> str:
    return ", ".join(f"{figures[key] / _MEGABYTE:.0f}" for figures in rounds) + " MB"
