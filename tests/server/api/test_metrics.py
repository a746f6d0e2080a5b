"""What Prometheus reads. Counters are the process's, so tests look at what was added."""

import re
from collections.abc import Callable

import pytest
from fake_engine import FakeEngine
from wire import CHAT, Client, Connect, chat_body, stream

from verse_server.config import ServerConfig
from verse_server.engine.types import Health

Value = Callable[[str], float]


def scraped(client: Client) -> dict[str, float]:
    response = client.get("/metrics")
    assert response.status_code == 200
    assert re.fullmatch(
        r"text/plain; version=[\d.]+; charset=utf-8", response.headers["content-type"]
    )
    lines = [line for line in response.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def added(client: Client, before: dict[str, float]) -> dict[str, float]:
    return {k: v - before.get(k, 0) for k, v in scraped(client).items() if v != before.get(k, 0)}


def test_requests_are_counted_by_path_and_status(client: Client) -> None:
    before = scraped(client)
    client.post(CHAT, json=chat_body())
    client.post(CHAT, json=chat_body())
    client.post(CHAT, json=chat_body(n=0))
    client.get("/v1/models/xuzhimo")
    counts = {
        (re.findall(r'path="([^"]*)"', name)[0], re.findall(r'status_code="(\d+)"', name)[0]): value
        for name, value in added(client, before).items()
        if name.startswith("verse_requests_total") and "/metrics" not in name
    }
    assert counts == {(CHAT, "200"): 2, (CHAT, "400"): 1, ("/v1/models/{model_id}", "200"): 1}


def test_unknown_paths_are_answered_and_make_no_new_series(client: Client) -> None:
    before = scraped(client)
    assert client.get("/v1/nowhere/at/all").status_code == 404
    assert not [name for name in added(client, before) if "nowhere" in name]


@pytest.mark.parametrize("streamed", [True, False])
def test_tokens_and_their_timing_are_counted(client: Client, streamed: bool) -> None:
    before = scraped(client)
    if streamed:
        stream(client, n=2)
    else:
        client.post(CHAT, json=chat_body(n=2))
    new = added(client, before)
    assert new["verse_prompt_tokens_total"] == 1
    assert new["verse_cached_prompt_tokens_total"] == 1
    assert new["verse_completion_tokens_total"] == 8
    assert new["verse_time_to_first_token_seconds_count"] == 1
    assert new["verse_inter_token_latency_seconds_count"] == 6


def test_the_engine_is_asked_when_somebody_looks(client: Client, engine: FakeEngine) -> None:
    engine.health_override = Health(status="ok", running=5, waiting=7, resident_adapters=2)
    values = scraped(client)
    assert values["verse_rows_running"] == 5
    assert values["verse_requests_waiting"] == 7
    assert values["verse_adapters_resident"] == 2
    assert values["verse_adapter_loads_total"] == 3
    assert values["verse_adapter_evictions_total"] == 1
    assert values["verse_prefix_cache_bytes"] == 1000
    assert values["verse_memory_bytes"] == 40_000_000
    assert values["verse_peak_memory_bytes"] == 50_000_000
    assert values["verse_adapter_bytes"] == values["verse_reusable_memory_bytes"] == 0


def test_no_series_is_there_twice(client: Client) -> None:
    client.post(CHAT, json=chat_body())
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith("# TYPE")]
    assert len(lines) == len(set(lines))


def test_it_needs_the_key(engine: FakeEngine, connect: Connect) -> None:
    client = connect(engine, ServerConfig(api_key="k"))
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers={"authorization": "Bearer k"}).status_code == 200
