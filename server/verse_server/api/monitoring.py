"""For operators: `GET /health`, and `GET /metrics` in Prometheus' text format.

Counts of HTTP requests come from Litestar's own Prometheus middleware, tokens and their timing from
the chunks that pass through `metered`, the rest from the engine when somebody asks. Process
metrics, such as resident memory, are prometheus-client's own.
"""

import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing

from litestar import Controller, Response, route
from litestar.openapi.datastructures import ResponseSpec
from litestar.plugins.prometheus import PrometheusConfig
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from verse_server.api.convert import wire_health
from verse_server.api.openapi import READ, EngineDependency, error_responses
from verse_server.api.request_log import current_request
from verse_server.engine.interface import Engine
from verse_server.engine.types import GenerationChunk, GenerationRequest
from verse_server.protocol.models import HealthResponse

HTTP_METRICS = PrometheusConfig(app_name="verse", prefix="verse", group_path=True)
"""`verse_requests_total`, `verse_request_duration_seconds` and others, by path and status."""

_MEDIA_TYPE = CONTENT_TYPE_LATEST.removesuffix("; charset=utf-8")
"""Litestar puts the character set behind it."""
_FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_BETWEEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)

_UNHEALTHY = ResponseSpec(
    HealthResponse, description="Draining, stalled or dead.", generate_examples=False
)

_prompt_tokens = Counter("verse_prompt_tokens", "Tokens of prompts.")
_cached_tokens = Counter(
    "verse_cached_prompt_tokens", "Tokens of prompts found in the prefix cache."
)
_completion_tokens = Counter("verse_completion_tokens", "Tokens drawn.")
_first_token = Histogram(
    "verse_time_to_first_token_seconds",
    "From the request to its first piece of text.",
    buckets=_FIRST,
)
_between_tokens = Histogram(
    "verse_inter_token_latency_seconds",
    "Between two tokens of one answer, on average over each piece that comes.",
    buckets=_BETWEEN,
)


async def metered(
    rows: Sequence[GenerationRequest], chunks: AsyncGenerator[GenerationChunk, None]
) -> AsyncGenerator[GenerationChunk, None]:
    """Pass chunks on, count their tokens, and tell the log line how far the request has come.

    Closing this closes them.
    """
    record = current_request()
    record.model = rows[0].target.model
    record.prompt_tokens = sum(len(row.prompt) for row in rows)
    row_of = [number for number, row in enumerate(rows) for _ in range(row.n)]
    begun: set[int] = set()
    num_tokens: dict[int, int] = {}
    last: dict[int, float] = {}
    async with aclosing(chunks):
        async for chunk in chunks:
            now, number = time.perf_counter(), row_of[chunk.index]
            if number not in begun:
                begun.add(number)
                _first_token.observe(now - record.started)
                _prompt_tokens.inc(len(rows[number].prompt))
                _cached_tokens.inc(chunk.cached_tokens)
            num_new = chunk.completion_tokens - num_tokens.get(chunk.index, 0)
            _completion_tokens.inc(num_new)
            record.completion_tokens += num_new
            if chunk.index in last and num_new:
                _between_tokens.observe((now - last[chunk.index]) / num_new)
            num_tokens[chunk.index], last[chunk.index] = chunk.completion_tokens, now
            yield chunk


class _EngineCollector(Collector):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterable[Metric]:
        """Called by prometheus-client."""
        health, stats = self._engine.health(), self._engine.stats()
        yield _gauge("verse_rows_running", "Answers being written: the batch size.", health.running)
        yield _gauge("verse_requests_waiting", "Requests in the queue.", health.waiting)
        yield _gauge("verse_adapters_resident", "Adapters in slots.", health.resident_adapters)
        yield CounterMetricFamily(
            "verse_adapter_loads", "Adapters loaded into a slot.", stats.adapter_loads
        )
        yield CounterMetricFamily(
            "verse_adapter_evictions", "Adapters evicted from a slot.", stats.adapter_evictions
        )
        yield _gauge(
            "verse_prefix_cache_bytes",
            "Keys and values in the prefix cache.",
            stats.prefix_cache_bytes,
        )
        yield _gauge("verse_adapter_bytes", "Adapters in slots.", stats.adapter_bytes)
        yield _gauge(
            "verse_reusable_memory_bytes",
            "Freed memory that mlx keeps for reuse.",
            stats.reusable_memory_bytes,
        )
        yield _gauge("verse_memory_bytes", "Memory that mlx holds.", stats.memory_bytes)
        yield _gauge("verse_peak_memory_bytes", "Peak of that memory.", stats.peak_memory_bytes)


def _gauge(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, documentation, value)


class MetricsController(Controller):
    """For Prometheus."""

    path = "/metrics"
    tags = ("health",)

    @route(
        http_method=READ,
        sync_to_thread=False,
        media_type=_MEDIA_TYPE,
        responses=error_responses(401),
    )
    def scrape(self, engine: EngineDependency) -> Response[bytes]:
        """Requests, tokens, latencies, queue, batch size, adapters, caches and memory."""
        registry = CollectorRegistry()
        registry.register(_EngineCollector(engine))
        text = generate_latest(REGISTRY) + generate_latest(registry)
        return Response(text, media_type=_MEDIA_TYPE)


class HealthController(Controller):
    """For probes and load balancers."""

    path = "/health"
    tags = ("health",)

    @route(http_method=READ, sync_to_thread=False, responses=error_responses() | {503: _UNHEALTHY})
    def check(self, engine: EngineDependency) -> Response[HealthResponse]:
        """200 while new requests are served, 503 while draining, stalled or dead."""
        health = wire_health(engine.health())
        return Response(health, status_code=200 if health.status == "ok" else 503)
