"""What a page of another site can send unasked changes nothing, by whatever endpoint.

All endpoints of the document, on a server with `--jobs` and with something to change behind each.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine
from litestar import Litestar
from litestar.testing import TestClient
from wire import ADDRESS, Client

from verse_server.app import create_app
from verse_server.config import EngineConfig, ServerConfig
from verse_server.serving import make_runner
from verse_server.state.folder import ServerState

UPLOAD = "/v1/files"
TYPELESS: tuple[dict[str, str], ...] = ({}, {"content-type": "text/plain"})
"""Of bodies that no browser asks about first: a Blob without a type, and a text."""
FROM_A_PAGE = (
    {"origin": "https://evil.example", "sec-fetch-site": "cross-site"},
    {"origin": "null", "sec-fetch-site": "cross-site"},
    {"origin": "https://evil.example"},
    {"sec-fetch-site": "cross-site"},
)
FORM: Any = {
    "files": {"file": ("poems.jsonl", b"{}")},
    "data": {"purpose": "fine-tune"},
}


@dataclass
class Server:
    """With something to change behind every endpoint."""

    client: Client
    engine: FakeEngine
    journal: Path
    ids: dict[str, str] = field(default_factory=dict[str, str])
    """By the name of their parameter."""

    def state(self) -> Any:
        """What an endpoint could have changed."""
        lists = ("files", "fine_tuning/jobs", "batches")
        return (
            *([one["id"] for one in self.get(f"{name}?limit=100")["data"]] for name in lists),
            self.get(f"fine_tuning/jobs/{self.ids['fine_tuning_job_id']}"),
            self.get(f"responses/{self.ids['response_id']}"),
            *(self.journal.exists(), len(self.engine.requests), self.engine.adapters.state),
        )

    def get(self, path: str) -> Any:
        answer = self.client.get(f"/v1/{path}")
        assert answer.status_code == 200, path
        return answer.json()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("page")
    engine, journal = FakeEngine(), folder / "decisions.jsonl"
    config = ServerConfig(
        engine=EngineConfig(adapters=folder / "adapters"), jobs=True, decisions=journal
    )
    state = ServerState(folder / "state")
    app = create_app(engine, config, state, make_runner(engine, config, state))
    with TestClient[Litestar](app, base_url=ADDRESS) as client:
        yield Server(client, engine, journal, things(client))
    state.close()


def things(client: Client) -> dict[str, str]:
    file = client.post(UPLOAD, **FORM).json()["id"]
    rows = {"file": ("rows.jsonl", b'{"custom_id": "a"}')}
    batch_file = client.post(UPLOAD, files=rows, data={"purpose": "batch"}).json()["id"]
    batch = {
        "input_file_id": batch_file,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    job = {"model": "verse-tiny", "training_file": file}
    answer = client.post("/v1/responses", json={"model": "xuzhimo", "input": "河"})
    return {
        "file_id": file,
        "batch_id": client.post("/v1/batches", json=batch).json()["id"],
        "fine_tuning_job_id": client.post("/v1/fine_tuning/jobs", json=job).json()["id"],
        "response_id": answer.json()["id"],
        "model_id": "xuzhimo",
        "name": "xuzhimo",
        "number": "1",
    }


@pytest.fixture(scope="module")
def changing(server: Server) -> list[tuple[str, str]]:
    """Method and path of all that may change something."""
    paths = server.client.get("/schema/openapi.json").json()["paths"]
    found = [
        (method, re.sub(r"{(\w+)}", lambda match: server.ids[match[1]], path))
        for path, item in paths.items()
        for method in item
        if method not in ("get", "head")
    ]
    assert len(found) >= 20
    return found


@pytest.mark.parametrize("headers", FROM_A_PAGE)
def test_what_a_browser_sends_for_another_page_is_refused(
    server: Server, changing: list[tuple[str, str]], headers: dict[str, str]
) -> None:
    before = server.state()
    for method, path in changing:
        form: Any = FORM if path == UPLOAD else {"content": b'{"model": "xuzhimo"}'}
        for typed in ({}, {"content-type": "application/json"}):
            sent = headers if path == UPLOAD else {**headers, **typed}
            answer = server.client.request(method, path, headers=sent, **form)
            refusal = answer.status_code, answer.json()["error"]["code"]
            assert refusal == (403, "origin_not_allowed"), (method, path)
    assert server.state() == before


@pytest.mark.parametrize("headers", TYPELESS)
def test_a_body_without_the_type_that_browsers_ask_about_is_refused_whoever_sends_it(
    server: Server, changing: list[tuple[str, str]], headers: dict[str, str]
) -> None:
    before = server.state()
    for path in (path for method, path in changing if method == "post"):
        for body in (b'{"model": "xuzhimo", "lora_name": "xuzhimo"}', iter([b"{", b"}"])):
            answer = server.client.post(path, content=body, headers=headers)
            refusal = answer.status_code, answer.json()["error"]["code"]
            assert refusal == (400, "unsupported_content_type"), path
    assert server.state() == before


def test_what_needs_no_body_may_come_without_one(server: Server) -> None:
    """As the SDKs send it: with no body, or with an empty one that calls itself JSON."""
    client, ids = server.client, server.ids
    job = f"/v1/fine_tuning/jobs/{ids['fine_tuning_job_id']}"
    assert client.post(f"{job}/pause").status_code == 409  # it has not been queued yet
    answer = client.post(f"{job}/cancel", headers={"content-type": "application/json"})
    assert answer.status_code == 200
    assert client.post(f"/v1/batches/{ids['batch_id']}/cancel", json={}).status_code in (200, 409)
