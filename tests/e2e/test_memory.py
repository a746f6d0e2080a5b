"""What the process holds once the rush is over. Minutes long, so only with `-m perf`."""

import random
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from openai import OpenAIError

from tests.e2e.conftest import EXAMPLES, Served

_REST_SECONDS = 20.0


def resident_bytes(served: Served) -> float:
    """All of it, the prefix cache included, which is to be full."""
    address = served.base_url.removesuffix("/v1") + "/metrics"
    with urllib.request.urlopen(address) as answer:
        lines = [line.split() for line in answer.read().decode().splitlines()]
    values = {line[0]: float(line[1]) for line in lines if len(line) == 2}
    return values["process_resident_memory_bytes"]


def ask(served: Served, number: int) -> None:
    """One of many kinds: adapters, blends, lengths, schemas, wrong ones, whole and streamed."""
    draw = random.Random(number)
    one, other = draw.sample(EXAMPLES, 2)
    schema = {"type": "object", "properties": {"a": {"enum": list(range(number % 9 + 1))}}}
    body: dict[str, Any] = {
        "model": draw.choice([one, "base", f"{one}:0.5+{other}:0.5", "nobody"]),
        "messages": [{"role": "user", "content": "河" * draw.choice([1, 20, 200])}],
        "max_tokens": draw.choice([1, 20, 100]),
        "n": draw.choice([1, 1, 4]),
    }
    if number % 7 == 0:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "a", "schema": schema},
        }
    with suppress(OpenAIError):
        if number % 2:
            list(served.client.chat.completions.create(**body, stream=True))
        else:
            served.client.chat.completions.create(**body)


def run(served: Served, numbers: range) -> float:
    """Resident bytes after so many requests, 32 at a time, and a rest."""
    with ThreadPoolExecutor(32) as threads:
        list(threads.map(partial(ask, served), numbers))
    time.sleep(_REST_SECONDS)
    return resident_bytes(served)


@pytest.mark.perf
def test_after_1200_mixed_requests_and_a_rest_memory_is_as_after_the_first_50(
    served: Served,
) -> None:
    first = run(served, range(50))
    last = run(served, range(50, 1250))
    assert last <= 1.5 * first, f"{last / 1e6:.0f} MB after {first / 1e6:.0f} MB"
