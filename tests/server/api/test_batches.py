"""`/v1/batches`: a file of requests is checked, answered once each, and what is done survives."""

import json
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine
from litestar import Litestar
from litestar.testing import TestClient
from live import wait_until
from openai.types import Batch
from wire import ADDRESS

from verse_server.app import create_app
from verse_server.config import EngineConfig, ServerConfig
from verse_server.engine.errors import (
    DeadlineExceededError,
    EngineClosedError,
    GenerationFailedError,
)
from verse_server.state.batches import BatchStore, RowResult
from verse_server.state.errors import StorageFullError
from verse_server.state.folder import ServerState

CHAT = "/v1/chat/completions"
ENDED = ("completed", "failed", "cancelled")
Client = TestClient[Litestar]


@contextmanager
def serving(engine: FakeEngine, folder: Path) -> Generator[Client, None, None]:
    """A server with `--jobs`; leaving it is a stop, entering it again a restart."""
    state = ServerState(folder / "state")
    config = ServerConfig(
        jobs=True, state=folder / "state", engine=EngineConfig(max_batch=4), store=True
    )
    try:
        app = create_app(engine, config, state)
        with TestClient[Litestar](app, base_url=ADDRESS) as client:
            yield client
    finally:
        state.close()


@pytest.fixture
def client(engine: FakeEngine, tmp_path: Path) -> Iterator[Client]:
    with serving(engine, tmp_path) as client:
        yield client


def row(number: int, url: str = CHAT, **fields: Any) -> dict[str, Any]:
    body = {"model": "xuzhimo", "messages": [{"role": "user", "content": "河"}]}
    return {"custom_id": f"poem-{number}", "method": "POST", "url": url, "body": body | fields}


def upload(client: Client, rows: list[Any], purpose: str = "batch") -> str:
    lines = [r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in rows]
    answer = client.post(
        "/v1/files",
        files={"file": ("rows.jsonl", "\n".join(lines).encode())},
        data={"purpose": purpose},
    )
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def begin(client: Client, rows: list[Any], endpoint: str = CHAT, **fields: Any) -> Any:
    asked = {"endpoint": endpoint, "completion_window": "24h", **fields}
    file = fields.get("input_file_id") or upload(client, rows)
    answer = client.post("/v1/batches", json=asked | {"input_file_id": file})
    assert answer.status_code == 200, answer.text
    return answer.json()


def wait(client: Client, id_: str, until: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + 60
    while not until(batch := client.get(f"/v1/batches/{id_}").json()):
        assert time.monotonic() < deadline, batch
        time.sleep(0.01)
    return batch


def ended(client: Client, id_: str) -> Any:
    batch = wait(client, id_, lambda batch: batch["status"] in ENDED)
    Batch.model_validate(batch)
    return batch


def results(client: Client, batch: Any, name: str = "output_file_id") -> list[Any]:
    if name not in batch:
        return []
    content = client.get(f"/v1/files/{batch[name]}/content")
    return [json.loads(line) for line in content.text.splitlines()]


def ids(rows: list[Any]) -> list[str]:
    return [row["custom_id"] for row in rows]


def test_each_row_is_answered_as_its_endpoint_would(client: Client, engine: FakeEngine) -> None:
    begun = begin(client, [row(n, seed=n) for n in range(20)], metadata={"round": "3"})
    assert (begun["status"], begun["metadata"]) == ("validating", {"round": "3"})
    batch = ended(client, begun["id"])
    assert batch["request_counts"] == {"total": 20, "completed": 20, "failed": 0}
    assert "error_file_id" not in batch
    found = results(client, batch)
    assert ids(found) == [f"poem-{n}" for n in range(20)]
    assert {result["response"]["status_code"] for result in found} == {200}
    answer = found[0]["response"]["body"]
    plain = client.post(CHAT, json=row(0)["body"]).json()
    assert answer["choices"] == plain["choices"]
    assert batch["usage"]["output_tokens"] == 20 * plain["usage"]["completion_tokens"]
    *asked, _ = engine.requests
    assert all(request.is_batch and request.client == batch["id"] for request in asked)
    assert not any(request.streamed for request in asked)


@pytest.mark.parametrize(
    ("endpoint", "fields", "kind"),
    [
        ("/v1/completions", {"prompt": "河"}, "text_completion"),
        ("/v1/responses", {"input": "河"}, "response"),
    ],
)
def test_the_other_endpoints_are_answered_too(
    client: Client, endpoint: str, fields: dict[str, str], kind: str
) -> None:
    asked = row(0, endpoint) | {"body": {"model": "xuzhimo", **fields}}
    batch = ended(client, begin(client, [asked], endpoint)["id"])
    (result,) = results(client, batch)
    assert result["response"]["body"]["object"] == kind
    assert batch["usage"]["output_tokens"] == 4
    if kind == "response":
        assert not result["response"]["body"]["store"]


def test_a_row_that_cannot_be_answered_is_in_the_error_file(client: Client) -> None:
    rows = [row(0), row(1, temperature=9), row(2)]
    batch = ended(client, begin(client, rows)["id"])
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    assert ids(results(client, batch)) == ["poem-0", "poem-2"]
    (failed,) = results(client, batch, "error_file_id")
    assert failed["custom_id"] == "poem-1"
    assert failed["response"]["status_code"] == 400
    assert failed["response"]["body"]["error"]["param"] == "temperature"


def problems(client: Client, rows: list[Any]) -> list[tuple[str, int | None]]:
    batch = ended(client, begin(client, rows)["id"])
    assert batch["status"] == "failed"
    assert "output_file_id" not in batch
    assert all(error["message"] for error in batch["errors"]["data"])
    return [(error["code"], error["line"]) for error in batch["errors"]["data"]]


def test_what_is_wrong_with_a_file_is_told_by_line_and_nothing_runs(
    client: Client, engine: FakeEngine
) -> None:
    nameless = {key: value for key, value in row(0).items() if key != "custom_id"}
    rows = [
        row(0),
        row(0),
        row(1, "/v1/nowhere"),
        row(2, "/v1/completions"),
        "",
        "no JSON",
        "[]",
        nameless,
        row(3) | {"custom_id": 3},
        row(4) | {"custom_id": ""},
        row(5) | {"method": "GET"},
        row(6) | {"body": {}},
        row(7, stream=True),
        '{"custom_id": "\\ud800", "method": "POST"}',
    ]
    assert problems(client, rows) == [
        ("duplicate_custom_id", 2),
        ("invalid_url", 3),
        ("invalid_url", 4),
        ("invalid_json_line", 6),
        ("invalid_json_line", 7),
        ("missing_required_parameter", 8),
        ("invalid_type", 9),
        ("invalid_custom_id", 10),
        ("invalid_method", 11),
        ("invalid_request", 12),
        ("invalid_request", 13),
        ("invalid_json_line", 14),
    ]
    assert engine.requests == []


def test_a_model_that_is_not_there_is_told_once(client: Client) -> None:
    rows = [row(0), row(1, model="nobody"), row(2, model="nobody"), row(3, model="broken")]
    assert problems(client, rows) == [("model_not_found", 2), ("adapter_incompatible", 4)]


def test_a_file_without_requests_fails(client: Client) -> None:
    assert problems(client, [" "]) == [("empty_file", None)]


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"input_file_id": "file-0"}, 404, "input_file_id"),
        ({"endpoint": "/v1/embeddings"}, 400, "endpoint"),
        ({"completion_window": "1h"}, 400, "completion_window"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, 400, "output_expires"),
        ({"nonsense": 1}, 400, "nonsense"),
    ],
)
def test_what_is_wrong_with_a_request_is_named(
    client: Client, fields: dict[str, Any], status: int, param: str
) -> None:
    asked = {"input_file_id": upload(client, [row(0)]), "endpoint": CHAT} | fields
    answer = client.post("/v1/batches", json={"completion_window": "24h"} | asked)
    assert answer.status_code == status
    assert answer.json()["error"]["param"].startswith(param)
    assert client.get("/v1/batches").json()["data"] == []


def test_a_file_for_training_is_refused(client: Client) -> None:
    file = upload(client, [row(0)], "fine-tune")
    asked = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
    assert "purpose" in client.post("/v1/batches", json=asked).json()["error"]["message"]


def test_batches_are_listed_and_an_unknown_one_is_404(client: Client) -> None:
    made = [begin(client, [row(0)])["id"] for _ in range(3)]
    page = client.get("/v1/batches", params={"limit": 2}).json()
    assert [batch["id"] for batch in page["data"]] == made[:0:-1]
    assert page["has_more"]
    rest = client.get("/v1/batches", params={"after": page["last_id"]}).json()
    assert [batch["id"] for batch in rest["data"]] == made[:1]
    for method, path in (("GET", "batch_0"), ("POST", "batch_0/cancel")):
        assert client.request(method, f"/v1/batches/{path}").status_code == 404


def test_a_cancelled_batch_keeps_what_is_done(engine: FakeEngine, tmp_path: Path) -> None:
    engine.seconds_per_chunk = 0.01
    with serving(engine, tmp_path) as client:
        id_ = begin(client, [row(n) for n in range(300)])["id"]
        behind = begin(client, [row(0)])["id"]
        wait(client, id_, lambda batch: batch["request_counts"]["completed"] > 0)
        cancelled = client.post(f"/v1/batches/{id_}/cancel")
        assert cancelled.json()["status"] == "cancelling"
        batch = ended(client, id_)
        assert batch["status"] == "cancelled"
        done = results(client, batch)
        assert 0 < len(done) == batch["request_counts"]["completed"] < 300
        assert client.post(f"/v1/batches/{id_}/cancel").status_code == 409
        assert ended(client, behind)["status"] == "completed"


def test_a_stopped_server_goes_on_and_asks_nothing_twice(tmp_path: Path) -> None:
    rows, num_asked = [row(n, seed=n) for n in range(200)], 0
    slow = FakeEngine(seconds_per_chunk=0.005)
    with serving(slow, tmp_path) as client:
        id_ = begin(client, rows)["id"]
        stopped = wait(client, id_, lambda batch: batch["request_counts"]["completed"] >= 10)
        assert stopped["status"] == "in_progress"
    num_asked = len(slow.requests)
    after = FakeEngine()
    with serving(after, tmp_path) as client:
        batch = ended(client, id_)
        assert batch["request_counts"]["completed"] == 200
        assert ids(results(client, batch)) == [f"poem-{n}" for n in range(200)]
    # What was under way when it stopped is asked again, and nothing else is.
    assert 0 <= num_asked + len(after.requests) - 200 <= 6


def test_the_upload_may_be_deleted_while_its_batch_runs(engine: FakeEngine, tmp_path: Path) -> None:
    engine.seconds_per_chunk = 0.01
    with serving(engine, tmp_path) as client:
        file = upload(client, [row(n) for n in range(40)])
        id_ = begin(client, [], input_file_id=file)["id"]
        assert client.delete(f"/v1/files/{file}").status_code == 200
        assert ended(client, id_)["request_counts"]["completed"] == 40
        folder = tmp_path / "state" / "batches"
        wait_until(lambda: not list(folder.iterdir()))


@pytest.mark.parametrize(
    ("error", "status"),
    [(DeadlineExceededError(1), 504), (GenerationFailedError("Numbers overflow."), 500)],
)
def test_what_fails_is_tried_a_few_times(
    error: Exception, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verse_server.api.batch_rows._BETWEEN_TRIES_SECONDS", 0)
    engine = FakeEngine(late_error=error)
    with serving(engine, tmp_path) as client:
        batch = ended(client, begin(client, [row(0)])["id"])
        (failed,) = results(client, batch, "error_file_id")
    assert failed["response"]["status_code"] == status
    assert len(engine.requests) == 3


def test_output_expires_as_asked(client: Client) -> None:
    expires = {"anchor": "created_at", "seconds": 3600}
    batch = ended(client, begin(client, [row(0)], output_expires_after=expires)["id"])
    file = client.get(f"/v1/files/{batch['output_file_id']}").json()
    assert file["purpose"] == "batch_output"
    assert file["expires_at"] - file["created_at"] in (3600, 3601)


def test_without_jobs_there_are_no_batches(engine: FakeEngine) -> None:
    with TestClient(create_app(engine, ServerConfig()), base_url=ADDRESS) as client:
        assert client.get("/v1/batches").status_code == 403


def test_a_base_that_is_away_for_a_while_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verse_server.api.batches._AGAIN_SECONDS", 0.01)
    engine = FakeEngine(first_error=EngineClosedError("The base is away; come back."))
    with serving(engine, tmp_path) as client:
        id_ = begin(client, [row(n) for n in range(10)])["id"]
        waiting = wait(client, id_, lambda batch: batch["status"] == "in_progress")
        time.sleep(0.1)
        assert waiting["request_counts"]["failed"] == 0
        engine.first_error = None
        assert ended(client, id_)["request_counts"] == {"total": 10, "completed": 10, "failed": 0}


def test_results_wait_for_a_disk_that_is_full(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verse_server.api.batches._AGAIN_SECONDS", 0.01)
    refusals = iter([StorageFullError("No space left on device")] * 3)
    add = BatchStore.add

    async def full(store: BatchStore, number: int, results: Sequence[RowResult]) -> None:
        if (error := next(refusals, None)) is not None:
            raise error
        await add(store, number, results)

    monkeypatch.setattr(BatchStore, "add", full)
    with serving(engine, tmp_path) as client:
        batch = ended(client, begin(client, [row(n) for n in range(10)])["id"])
    assert batch["request_counts"]["completed"] == len(engine.requests) == 10
