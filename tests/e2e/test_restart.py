"""A server that is killed or told to stop in the middle of its work, and the next one in its place.

What a single server does with a signal is in test_serve.py and tests/server/api/test_serving.py.
"""

import hashlib
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import pytest
from openai import OpenAI

from tests.e2e.conftest import Serve, Served

pytestmark = pytest.mark.slow

RIVER: Any = [{"role": "user", "content": "河"}]
ADAPTERS = ("xuzhimo", "hushi", "libai:0.5", "base")
ENDLESS: Any = {"logit_bias": {"0": -100, "1": -100, "2": -100}}
"""Control tokens are never drawn, so nothing ends a poem but its length."""
RETRIES = 12
"""Each waits up to 8 seconds; a server is there after a few."""


def poem(client: OpenAI) -> str:
    answer = client.chat.completions.create(
        model="xuzhimo:0.8", messages=RIVER, seed=7, max_tokens=40, temperature=0.9
    )
    return answer.choices[0].message.content or ""


def begin_poems(served: Served, max_tokens: int) -> list[Iterator[Any]]:
    """Long poems, several at once, of each of which a piece has come."""
    options: dict[str, Any] = {**ENDLESS, "max_tokens": max_tokens}
    streams: list[Iterator[Any]] = [
        served.client.chat.completions.create(model=model, messages=RIVER, stream=True, **options)
        for model in ADAPTERS
    ]
    for stream in streams:
        next(stream)
    return streams


def content_of(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(
            path.read_bytes() if path.is_file() else b""
        ).hexdigest()
        for path in folder.rglob("*")
    }


def models_of(served: Served) -> dict[str, str]:
    """The version of each."""
    models = httpx.get(f"{served.base_url}/models").json()["data"]
    return {model["id"]: model["digest"] for model in models}


def serve_in_place_of(first: Served, serve: Serve) -> Served:
    port = first.base_url.removesuffix("/v1").rpartition(":")[2]
    return serve("--port", port, adapters=first.adapters)


def test_a_killed_server_leaves_nothing_in_the_way_of_the_next(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    first = serve()
    files, models, text = content_of(first.adapters), models_of(first), poem(first.client)
    assert len(text) > 10
    streams = begin_poems(first, max_tokens=150)

    first.process.kill()
    assert first.process.wait(60) == -signal.SIGKILL
    for stream in streams:
        # A poem cut short must not look like a finished one.
        with pytest.raises((httpx2.TransportError, openai.APIConnectionError)):
            list(stream)

    with ThreadPoolExecutor(1) as pool:
        patient = first.client.with_options(max_retries=RETRIES)
        waiting: Future[str] = pool.submit(poem, patient)
        second = serve_in_place_of(first, serve)
        assert waiting.result() == text
    assert second.base_url == first.base_url
    assert models_of(second) == models
    assert content_of(first.adapters) == files
    # Only mlx's own store of compiled kernels, which the next server reads.
    assert {path.name for path in temporary.iterdir()} <= {"mlx"}


def test_a_server_told_to_stop_finishes_its_poems_and_hands_over_to_the_next(serve: Serve) -> None:
    first = serve()
    text = poem(first.client)
    streams = begin_poems(first, max_tokens=40)  # well within the time they get, on a busy machine

    first.process.send_signal(signal.SIGTERM)
    with ThreadPoolExecutor(1) as pool:
        patient = first.client.with_options(max_retries=RETRIES)
        waiting: Future[str] = pool.submit(poem, patient)
        for stream in streams:
            *_, last = stream
            assert last.choices[0].finish_reason == "length"
        assert first.process.wait(60) == 0
        serve_in_place_of(first, serve)
        assert waiting.result() == text
