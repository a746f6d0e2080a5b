"""A server that is killed over and over while it answers a batch: nothing is lost, nothing twice.

Nor is a stored response.

`VERSE_KILLS=50 pytest tests/e2e/test_batch_kills.py` kills it more often; the moments are random.
"""

import json
import os
import random
import time
from pathlib import Path

import pytest
from openai import OpenAIError
from openai.types import Batch

from tests.e2e.conftest import Served, copy_of_examples, start

pytestmark = pytest.mark.slow

NUM_KILLS = int(os.environ.get("VERSE_KILLS", "2"))
NUM_ROWS = 40 * NUM_KILLS
ENDED = ("completed", "failed", "cancelled")


def rows() -> bytes:
    chat = "/v1/chat/completions"
    return b"\n".join(
        json.dumps({
            "custom_id": f"poem-{number}",
            "method": "POST",
            "url": chat,
            "body": {
                "model": ("xuzhimo", "hushi")[number % 2],
                "messages": [{"role": "user", "content": "河"}],
                "seed": number,
                "max_tokens": 24,
            },
        }).encode()
        for number in range(NUM_ROWS)
    )  # fmt: skip


def test_each_row_of_a_batch_has_one_answer_however_often_its_server_is_killed(
    tmp_path: Path,
) -> None:
    chance = random.Random()
    adapters, options = copy_of_examples(tmp_path / "adapters"), ("--jobs",)
    served = start(adapters, *options)
    file = served.client.files.create(file=("rows.jsonl", rows()), purpose="batch")
    id_ = served.client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    ).id
    stored = served.client.responses.create(model="xuzhimo", input="河", max_output_tokens=12)
    counts: list[int] = []
    for _ in range(NUM_KILLS):
        time.sleep(chance.uniform(0.0, 1.5))
        served.process.kill()
        served.stop()
        served = start(adapters, *options)
        counts.append(completed(served.client.batches.retrieve(id_)))
    try:
        check_results(served, id_, counts)
        assert served.client.responses.retrieve(stored.id) == stored
        again = served.client.responses.create(
            model="xuzhimo", input="月", previous_response_id=stored.id, max_output_tokens=12
        )
        assert again.output_text
    finally:
        served.stop()


def check_results(served: Served, id_: str, counts: list[int]) -> None:
    assert counts == sorted(counts), "what was counted once stays counted"
    batch = ended(served, id_)
    assert batch.status == "completed"
    assert completed(batch) == NUM_ROWS
    assert batch.output_file_id is not None
    text = served.client.files.content(batch.output_file_id).text
    found = [json.loads(line) for line in text.splitlines()]
    assert [row["custom_id"] for row in found] == [f"poem-{n}" for n in range(NUM_ROWS)]
    assert all(row["response"]["body"]["choices"][0]["message"]["content"] for row in found)
    assert len(served.client.files.list(purpose="batch_output").data) == 1


def completed(batch: Batch) -> int:
    return batch.request_counts.completed if batch.request_counts else 0


def ended(served: Served, id_: str) -> Batch:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            batch = served.client.batches.retrieve(id_)
        except OpenAIError:  # a busy machine
            continue
        if batch.status in ENDED:
            return batch
        time.sleep(0.1)
    pytest.fail("the batch did not end")
