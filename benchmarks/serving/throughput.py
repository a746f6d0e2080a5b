"""Completion tokens per second at 1 to 32 streams: base, one adapter, 16 mixed, 16 blends.

A cell is a list of requests with so many on their way at a time, and every party gets the same
list. Each round visits every cell before the next round begins, so that a busy machine hits all
alike. Ratios are taken within a round; what is shown are medians.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from benchmarks.client import STREAMED, ask_all
from benchmarks.parties import Server, mlx_lm_server, verse_server
from benchmarks.serving.bench import (
    Bench,
    Request,
    Settings,
    blends,
    mlx_lm_body,
    requests,
    verse_body,
)
from benchmarks.serving.child import Child, running
from benchmarks.serving.table import markdown

_USUAL_RATES = {1: 130, 2: 210, 4: 330, 8: 480, 16: 600, 32: 750}
"""Tokens per second on two cores, for the estimate only."""
_RELOADING_RATE = 80
_AIM_STREAMS = 16

Cells = dict[str, dict[int, list[float]]]
"""Row -> streams -> tokens per second of each round."""


class Outcome(NamedTuple):
    """What one cell came to."""

    seconds: float
    tokens: int
    prompt_tokens: int


Run = Callable[[Sequence[Request], int], Outcome]
"""Have requests answered, so many at a time."""


@dataclass(frozen=True)
class Row:
    """One party under one choice of models."""

    name: str
    run: Run
    models: Sequence[str | None]
    streams: tuple[int, ...]


def estimated_seconds(settings: Settings) -> float:
    """On two cores."""
    total = 0.0
    for streams in settings.streams:
        poems = num_requests(streams) * settings.tokens
        total += 9 * poems / _USUAL_RATES.get(streams, _USUAL_RATES[32])
    largest = max(settings.streams)
    total += 5 * num_requests(largest) * settings.tokens / _USUAL_RATES.get(largest, 750)
    if _AIM_STREAMS in settings.streams:
        total += num_requests(_AIM_STREAMS) * settings.tokens / _RELOADING_RATE
    return 30 + total * settings.rounds


def num_requests(streams: int) -> int:
    """Two for each stream, four at least; one for each where there are many."""
    return streams if streams >= _AIM_STREAMS else max(4, 2 * streams)


def measure(bench: Bench) -> dict[str, Any]:
    """All cells, round by round, after a warm-up of every row."""
    with ExitStack() as stack:
        verse = stack.enter_context(verse_server(bench.model, bench.adapters))
        mlx_lm = stack.enter_context(mlx_lm_server(bench.model))
        engine = stack.enter_context(
            running("benchmarks.serving.engine", str(bench.model), str(bench.adapters))
        )
        first = str(bench.adapters / bench.names[0])
        bound = stack.enter_context(
            running("benchmarks.serving.batch_generate", str(bench.model), first)
        )
        rows = _rows(bench, verse, mlx_lm, engine, bound)
        for row in rows:
            row.run(requests(row.models, min(len(row.models), 16), start=50), 8)
        return {"tokens_per_second": _run_rounds(bench.settings, rows)}


def _rows(bench: Bench, verse: Server, mlx_lm: Server, engine: Child, bound: Child) -> list[Row]:
    streams, tokens = bench.settings.streams, bench.settings.tokens
    some = tuple(n for n in streams if n == _AIM_STREAMS)
    most = (max(streams),)
    kinds: dict[str, Sequence[str | None]] = {
        "base": (None,),
        "one adapter": bench.names[:1],
        "16 mixed": bench.names,
        "16 blends": blends(bench.names),
    }

    def over_verse(**more: Any) -> Run:
        return _over_http(verse, lambda request: verse_body(request, tokens, **more))

    def over_mlx_lm(**more: Any) -> Run:
        return _over_http(mlx_lm, lambda request: mlx_lm_body(bench, request, tokens, **more))

    def row(party: str, kind: str, run: Run, at: tuple[int, ...] = streams) -> Row:
        return Row(f"{party}, {kind}", run, kinds[kind], at)

    whole = "one adapter, whole answers"
    return [
        *(row("batch_generate", k, _inside(bound, tokens)) for k in ("base", "one adapter")),
        *(row("mlx_lm.server", k, over_mlx_lm(**STREAMED)) for k in ("base", "one adapter")),
        *(row("Verse", k, over_verse(**STREAMED)) for k in kinds),
        row("Verse's engine", "one adapter", _inside(engine, tokens)),
        *(
            row("Verse's engine", k, _inside(engine, tokens), most)
            for k in ("base", "16 mixed", "16 blends")
        ),
        Row(f"mlx_lm.server, {whole}", over_mlx_lm(), kinds["one adapter"], most),
        Row(f"Verse, {whole}", over_verse(), kinds["one adapter"], most),
        row("mlx_lm.server", "16 mixed", over_mlx_lm(**STREAMED), some),
    ]


def _over_http(server: Server, body: Callable[[Request], dict[str, Any]]) -> Run:
    def run(of: Sequence[Request], streams: int) -> Outcome:
        start = time.perf_counter()
        answers = asyncio.run(ask_all(server.port, map(body, of), streams))
        seconds = time.perf_counter() - start
        tokens = sum(answer.completion_tokens for answer in answers)
        return Outcome(seconds, tokens, sum(answer.prompt_tokens for answer in answers))

    return run


def _inside(child: Child, tokens: int) -> Run:
    def run(of: Sequence[Request], streams: int) -> Outcome:
        told = child.ask({"requests": list(of), "num_streams": streams, "tokens": tokens})
        return Outcome(**told)

    return run


def _run_rounds(settings: Settings, rows: Sequence[Row]) -> Cells:
    cells: Cells = {row.name: {n: [] for n in row.streams} for row in rows}
    for number in range(settings.rounds):
        for streams in settings.streams:
            prompt_tokens: dict[str, int] = {}
            for row in rows:
                if streams not in row.streams:
                    continue
                of = requests(row.models, num_requests(streams), start=37 * number)
                outcome = row.run(of, streams)
                prompt_tokens[row.name] = outcome.prompt_tokens
                _check(outcome, len(of) * settings.tokens, prompt_tokens)
                rate = outcome.tokens / outcome.seconds
                cells[row.name][streams].append(rate)
                print(f"round {number + 1}  {streams:2d}  {row.name:42s} {rate:7.0f}", flush=True)
    return cells


def _check(outcome: Outcome, tokens: int, prompt_tokens: dict[str, int]) -> None:
    """All parties did the same work, or nothing can be compared."""
    if outcome.tokens != tokens or len(set(prompt_tokens.values())) > 1:
        raise SystemExit(f"{outcome} instead of {tokens} tokens; prompts: {prompt_tokens}.")


def report(result: dict[str, Any]) -> list[str]:
    """Tokens per second, and the ratios that are aimed at."""
    cells: Cells = result["tokens_per_second"]
    streams = sorted({n for row in cells.values() for n in row})

    def line(rates: dict[int, float], digits: int) -> list[str]:
        return [f"{rates[n]:.{digits}f}" if n in rates else "" for n in streams]

    rates = {name: {n: median(row[n]) for n in row} for name, row in cells.items()}
    shown = {name: ratios(cells, *of) for name, of in _RATIOS.items()}
    return [
        *markdown(["tokens/s", *streams], [[name, *line(rates[name], 0)] for name in rates]),
        "",
        *markdown(["ratio", *streams], [[name, *line(shown[name], 2)] for name in shown]),
    ]


_RATIOS = {
    "Verse / batch_generate, base": ("Verse, base", "batch_generate, base"),
    "Verse / batch_generate, one adapter (aim 0.95)": (
        "Verse, one adapter",
        "batch_generate, one adapter",
    ),
    "Verse / mlx_lm.server, base": ("Verse, base", "mlx_lm.server, base"),
    "Verse / mlx_lm.server, one adapter": ("Verse, one adapter", "mlx_lm.server, one adapter"),
    "Verse / mlx_lm.server, 16 mixed": ("Verse, 16 mixed", "mlx_lm.server, 16 mixed"),
    "16 mixed / one adapter (aim 0.9 at 16)": ("Verse, 16 mixed", "Verse, one adapter"),
    "16 mixed / base (aim 0.8 at 16)": ("Verse, 16 mixed", "Verse, base"),
    "16 blends / 16 mixed": ("Verse, 16 blends", "Verse, 16 mixed"),
    "HTTP / engine, base (aim 0.95 at 32)": ("Verse, base", "Verse's engine, base"),
    "HTTP / engine, one adapter (aim 0.95 at 32)": (
        "Verse, one adapter",
        "Verse's engine, one adapter",
    ),
    "HTTP / engine, 16 mixed (aim 0.95 at 32)": ("Verse, 16 mixed", "Verse's engine, 16 mixed"),
    "HTTP / engine, 16 blends (aim 0.95 at 32)": ("Verse, 16 blends", "Verse's engine, 16 blends"),
    "whole answers / engine, one adapter": (
        "Verse, one adapter, whole answers",
        "Verse's engine, one adapter",
    ),
    "whole answers, Verse / mlx_lm.server": (
        "Verse, one adapter, whole answers",
        "mlx_lm.server, one adapter, whole answers",
    ),
}


def ratios(cells: Cells, above: str, below: str) -> dict[int, float]:
    """Medians of the ratios within a round, at the streams that both rows have."""
    return {
        n: median(a / b for a, b in zip(cells[above][n], cells[below][n], strict=True))
        for n in cells[above]
        if n in cells[below]
    }
