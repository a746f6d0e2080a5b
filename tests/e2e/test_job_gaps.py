"""What a training takes from a stream: the median gap between its tokens, with and without one."""

import statistics
import time
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.e2e.conftest import ROOT, Serve

pytestmark = pytest.mark.perf

RIVER: Any = [{"role": "user", "content": "河"}]
ENDLESS: Any = {"logit_bias": {"0": -100, "1": -100, "2": -100}}
MOST = 2.0
"""Times the gap without a training; two processes on two cores share memory and caches."""


def gaps(client: OpenAI, seconds: float) -> list[float]:
    """Between the pieces of streams that follow each other."""
    found: list[float] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        last = None
        stream = client.chat.completions.create(
            model="base", messages=RIVER, stream=True, max_tokens=300, **ENDLESS
        )
        for _ in stream:
            now = time.monotonic()
            if last is not None:
                found.append(now - last)
            last = now
    return found


def test_a_training_leaves_a_stream_its_turn(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    client = serve("--jobs", adapters=tmp_path / "mine" / "adapters").client
    gaps(client, 2)
    alone = statistics.median(gaps(client, 8))
    file = client.files.create(file=ROOT / "data" / "poems.jsonl", purpose="fine-tune")
    extra: Any = {"verse": {"iters": 5000, "steps_per_report": 1}}
    job = client.fine_tuning.jobs.create(
        training_file=file.id, model="verse-tiny", extra_body=extra
    )
    deadline = time.monotonic() + 60
    while not any(
        event.type == "metrics" for event in client.fine_tuning.jobs.list_events(job.id).data
    ):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    beside = statistics.median(gaps(client, 8))
    client.fine_tuning.jobs.cancel(job.id)
    print(f"median gap: {alone * 1e3:.2f} ms alone, {beside * 1e3:.2f} ms beside")  # noqa: T201
    assert beside <= MOST * alone
