"""Requests that end when their poems do, so that rows join and leave all the time.

The other parts start equal requests together, and every answer is equally long. Here clients send
one request after another at temperature 0.8, and each poem ends where the model ends it. Beside it,
in the same round and on the same server, stands the steady load of the throughput part: the same
clients, greedy, and answers of --tokens that no end token ends. With one adapter, and with eight in
turn; ours, and mlx_lm.server's under the ragged load.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from benchmarks.client import STREAMED, ask_all
from benchmarks.parties import Server, float32_copy, mlx_lm_server, verse_server
from benchmarks.serving.bench import Bench, Request, Settings, mlx_lm_body, requests, verse_body
from benchmarks.serving.table import markdown

_STREAMS = 16
_REQUESTS = 64
_REQUESTS_RELOADING = 32
"""Of mlx_lm.server where it loads the base anew for nearly every request."""
_LONGEST = 100
"""Tokens of a poem that the model does not end."""
_RAGGED = {"temperature": 0.8}
_KINDS = {"one adapter": 1, "8 in turn": 8}
"""How many adapters take turns."""

Body = Callable[[Request], dict[str, Any]]
Figures = dict[str, float]


def estimated_seconds(settings: Settings) -> float:
    """On two cores."""
    return 45 + 90 * settings.rounds


def measure(bench: Bench) -> dict[str, Any]:
    """Tokens per second of every row, round by round."""
    model = float32_copy(bench.folder / "ending", bench.settings.model)
    with verse_server(model, bench.adapters) as verse, mlx_lm_server(model) as mlx_lm:

        def steady(request: Request) -> dict[str, Any]:
            return verse_body(request, bench.settings.tokens, ignore_eos=True, **STREAMED)

        def ragged(request: Request) -> dict[str, Any]:
            return verse_body(request, _LONGEST, **STREAMED) | _RAGGED

        def theirs(request: Request) -> dict[str, Any]:
            named = mlx_lm_body(bench, request, _LONGEST, **STREAMED)
            return named | {"model": str(model), **_RAGGED}

        loads: list[tuple[str, Server, Body]] = [
            ("Verse, steady", verse, steady),
            ("Verse, ragged", verse, ragged),
            ("mlx_lm.server, ragged", mlx_lm, theirs),
        ]
        rows: dict[str, tuple[Server, Body, Sequence[str]]] = {
            f"{name}, {kind}": (server, body, bench.names[:count])
            for kind, count in _KINDS.items()
            for name, server, body in loads
        }
        for name, (server, body, names) in rows.items():
            count = len(names) if _reloads(name, names) else _STREAMS
            _run(server, body, requests(names, count, start=50))
        return {"rounds": [_round(rows, number) for number in range(bench.settings.rounds)]}


def _round(rows: dict[str, tuple[Server, Body, Sequence[str]]], number: int) -> dict[str, Figures]:
    figures: dict[str, Figures] = {}
    for name, (server, body, names) in rows.items():
        count = _REQUESTS_RELOADING if _reloads(name, names) else _REQUESTS
        figures[name] = _run(server, body, requests(names, count, start=37 * number))
        print(f"round {number + 1}  {name:36s} {figures[name]['rate']:7.0f}", flush=True)
    return figures


def _reloads(name: str, names: Sequence[str]) -> bool:
    return name.startswith("mlx_lm") and len(names) > 1


def _run(server: Server, body: Body, of: Sequence[Request]) -> Figures:
    start = time.perf_counter()
    answers = asyncio.run(ask_all(server.port, map(body, of), _STREAMS))
    seconds = time.perf_counter() - start
    tokens = sum(answer.completion_tokens for answer in answers)
    first = [answer.first_text_seconds for answer in answers if answer.times]
    return {
        "rate": tokens / seconds,
        "tokens": tokens / len(answers),
        "first": median(first) if first else 0.0,
    }


def report(result: dict[str, Any]) -> list[str]:
    """Medians; of ratios, too, which are taken within a round."""
    rounds: list[dict[str, Figures]] = result["rounds"]

    def of(name: str, key: str = "rate") -> float:
        return median(figures[name][key] for figures in rounds)

    def ratio(above: str, below: str) -> str:
        return f"{median(f[above]['rate'] / f[below]['rate'] for f in rounds):.2f}"

    rows: list[list[object]] = []
    for kind, aim in zip(_KINDS, ("2", "9"), strict=True):
        steady, ragged = f"Verse, steady, {kind}", f"Verse, ragged, {kind}"
        theirs = f"mlx_lm.server, ragged, {kind}"
        rows.append(
            [
                kind,
                f"{of(steady):.0f}",
                f"{of(ragged):.0f}",
                ratio(ragged, steady),
                f"{of(theirs):.0f}",
                f"{ratio(ragged, theirs)} (aim {aim})",
                f"{of(ragged, 'tokens'):.0f}",
                f"{of(ragged, 'first') * 1e3:.0f} ms, {of(theirs, 'first') * 1e3:.0f} ms",
            ]
        )
    head = [
        f"tokens/s, {_REQUESTS} requests of {_STREAMS} clients",
        "Verse, steady",
        "Verse, ragged",
        "ragged / steady (aim 0.85)",
        "mlx_lm.server, ragged",
        "Verse / mlx_lm.server",
        "tokens a poem",
        "first text, Verse and mlx_lm.server",
    ]
    return markdown(head, rows)
