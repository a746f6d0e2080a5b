"""Time to first token of one client: a prompt never seen, and one whose beginning is known.

Each with the poem prompt and with a long system message. Whether a beginning is known is decided
by a number in front of the system message: new, or that of a request before. On one adapter all the
time, or on two in turn, each of which knows the beginning already.
"""

import asyncio
from itertools import count, cycle
from statistics import median
from typing import Any

from benchmarks.client import STREAMED, Answer, ask
from benchmarks.parties import THEMES, Server, mlx_lm_server, verse_server
from benchmarks.serving.bench import (
    Bench,
    Request,
    Settings,
    messages,
    mlx_lm_body,
    verse_body,
)
from benchmarks.serving.table import markdown
from verse.prompt import POEM_SYSTEM

_SAMPLES = 5
"""Of each kind in a round."""
_TOKENS = 8
_LONG = POEM_SYSTEM + "。可以写的主题有：" + "、".join(THEMES)
_SYSTEMS = {"poem prompt": POEM_SYSTEM, "long prompt": _LONG}
_PARTIES = ("mlx_lm.server", "Verse")
_AIM = 0.5


def estimated_seconds(settings: Settings) -> float:
    """On two cores."""
    return 10 + 11 * settings.rounds


def measure(bench: Bench) -> dict[str, Any]:
    """Seconds and cached tokens of each party, prompt and kind."""
    numbers, themes = count(1000), cycle(THEMES)
    samples: list[dict[str, Any]] = []
    with (
        verse_server(bench.model, bench.adapters) as verse,
        mlx_lm_server(bench.model) as mlx_lm,
    ):
        servers = dict(zip(_PARTIES, (mlx_lm, verse), strict=True))
        for party, server in servers.items():
            for name in bench.names[:2]:
                _sample(bench, party, server, "100。", Request(THEMES[0], name))
        for _ in range(bench.settings.rounds):
            for prompt, system in _SYSTEMS.items():
                for party, server in servers.items():
                    kept = f"{next(numbers)}。{system}"
                    cold = [f"{next(numbers)}。{system}" for _ in range(_SAMPLES)]
                    for kind, systems, num_adapters in (
                        ("cold", cold, 1),
                        ("", [kept, kept], 2),  # both adapters get to know it; not counted
                        ("", [kept], 1),
                        ("cached", [kept] * _SAMPLES, 1),
                        ("cached, two adapters in turn", [kept] * _SAMPLES, 2),
                    ):
                        for index, said in enumerate(systems):
                            # Other themes than before, or more than the beginning is known.
                            request = Request(next(themes), bench.names[index % num_adapters])
                            answer = _sample(bench, party, server, said, request)
                            samples.append(_noted(party, prompt, kind, answer))
    return {"samples": [sample for sample in samples if sample["kind"]]}


def _sample(bench: Bench, party: str, server: Server, system: str, request: Request) -> Answer:
    more = {**STREAMED, "messages": messages(request.theme, system)}
    if party == "Verse":
        body = verse_body(request, _TOKENS) | more
    else:
        body = mlx_lm_body(bench, request, _TOKENS) | more
    return asyncio.run(ask(server.port, body))


def _noted(party: str, prompt: str, kind: str, answer: Answer) -> dict[str, Any]:
    return {
        "party": party,
        "prompt": prompt,
        "kind": kind,
        "seconds": answer.first_text_seconds,
        "prompt_tokens": answer.prompt_tokens,
        "cached_tokens": answer.cached_tokens,
    }


def report(result: dict[str, Any]) -> list[str]:
    """Medians in milliseconds, and how many tokens were found computed already."""
    rows: list[list[object]] = []
    for prompt in _SYSTEMS:
        for kind in ("cold", "cached", "cached, two adapters in turn"):
            of = {
                party: [
                    sample
                    for sample in result["samples"]
                    if (sample["party"], sample["prompt"], sample["kind"]) == (party, prompt, kind)
                ]
                for party in _PARTIES
            }
            times = [median(s["seconds"] for s in of[party]) for party in _PARTIES]
            known = [median(s["cached_tokens"] for s in of[party]) for party in _PARTIES]
            length = median(s["prompt_tokens"] for s in of["Verse"])
            aim = f" (aim {_AIM})" if kind == "cached" else ""
            rows.append(
                [
                    f"{prompt} of {length:.0f} tokens, {kind}",
                    *(f"{time * 1e3:.0f} ({n:.0f})" for time, n in zip(times, known, strict=True)),
                    f"{times[1] / times[0]:.2f}{aim}",
                ]
            )
    return markdown(["first token, ms (tokens from the cache)", *_PARTIES, "ratio"], rows)
