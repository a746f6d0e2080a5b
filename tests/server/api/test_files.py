"""`/v1/files`: uploads stream to the disk, and whatever is wrong with one leaves nothing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine
from litestar import Litestar
from litestar.testing import TestClient
from wire import ADDRESS, Client

from verse_server.api import uploads
from verse_server.app import create_app
from verse_server.config import ServerConfig
from verse_server.state.folder import ServerState

ROW = b'{"messages": []}\n'


@pytest.fixture
def state(tmp_path: Path) -> Iterator[ServerState]:
    opened = ServerState(tmp_path / "state")
    yield opened
    opened.close()


@pytest.fixture
def client(engine: FakeEngine, state: ServerState) -> Iterator[TestClient[Litestar]]:
    app = create_app(engine, ServerConfig(jobs=True), state)
    with TestClient[Litestar](app, base_url=ADDRESS) as made:
        yield made


def upload(client: Client, data: bytes = ROW, name: str = "a.jsonl", **fields: Any) -> Any:
    fields = fields or {"purpose": "fine-tune"}
    return client.post("/v1/files", files={"file": (name, data)}, data=fields)


def refused(response: Any, status: int, state: ServerState) -> str:
    """The message; and nothing is left."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert list((state.folder / "files").iterdir()) == []
    return error["message"]


def test_a_file_comes_back_as_it_was_sent(client: Client) -> None:
    data = bytes(range(256)) * 20_000  # several pieces
    file = upload(client, data, "诗 1.jsonl").json()
    assert file["object"] == "file"
    assert (file["bytes"], file["filename"]) == (len(data), "诗 1.jsonl")
    assert (file["purpose"], file["status"]) == ("fine-tune", "processed")
    assert "expires_at" not in file
    assert client.get(f"/v1/files/{file['id']}").json() == file
    content = client.get(f"/v1/files/{file['id']}/content")
    assert content.content == data
    assert content.headers["content-disposition"].endswith("UTF-8''%E8%AF%97%201.jsonl")


def test_files_are_listed_a_page_at_a_time(client: Client) -> None:
    ids = [upload(client, name=f"{number}").json()["id"] for number in range(3)]
    upload(client, purpose="batch")
    page = client.get("/v1/files?purpose=fine-tune&limit=2").json()
    assert [file["id"] for file in page["data"]] == [ids[2], ids[1]]
    assert (page["first_id"], page["last_id"], page["has_more"]) == (ids[2], ids[1], True)
    rest = client.get(f"/v1/files?purpose=fine-tune&after={ids[1]}&order=desc").json()
    assert [file["id"] for file in rest["data"]] == [ids[0]]
    assert not rest["has_more"]


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=10001", "order=up", "after=no"])
def test_a_query_that_means_nothing_is_refused_by_name(client: Client, query: str) -> None:
    response = client.get(f"/v1/files?{query}")
    assert response.status_code in (400, 404)
    assert response.json()["error"]["param"] == query.partition("=")[0]


def test_a_deleted_file_is_not_found(client: Client, state: ServerState) -> None:
    id_ = upload(client).json()["id"]
    assert client.delete(f"/v1/files/{id_}").json() == {
        "id": id_,
        "object": "file",
        "deleted": True,
    }
    for path in (f"/v1/files/{id_}", f"/v1/files/{id_}/content"):
        assert "no file" in refused(client.get(path), 404, state)
    refused(client.delete(f"/v1/files/{id_}"), 404, state)


def test_options_names_all_methods_of_a_path(client: Client) -> None:
    for path, allowed in {
        "": "GET, HEAD, OPTIONS, POST",
        "/a": "DELETE, GET, HEAD, OPTIONS",
    }.items():
        assert client.options(f"/v1/files{path}").headers["allow"] == allowed


def test_an_upload_may_expire(client: Client) -> None:
    fields = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    file = upload(client, ROW, "a", purpose="batch", **fields).json()
    assert file["expires_at"] == file["created_at"] + 3600


PATHS = [
    *("../../etc/passwd", "/etc/passwd", "a/b.jsonl", ".."),
    *("poems\\a.jsonl", "C:\\a.jsonl", "\\\\poems\\a.jsonl"),
]


@pytest.mark.parametrize("name", PATHS)
def test_a_name_that_is_a_path_is_refused(client: Client, state: ServerState, name: str) -> None:
    assert "name" in refused(upload(client, name=name), 400, state)


def test_a_quote_in_a_name_is_no_path(client: Client) -> None:
    assert upload(client, name='a "b".jsonl').json()["filename"] == 'a "b".jsonl'


@pytest.mark.parametrize("purpose", ["assistants", "", "fine_tune", "batch_output"])
def test_a_wrong_purpose_is_refused(client: Client, state: ServerState, purpose: str) -> None:
    assert "'fine-tune' or 'batch'" in refused(upload(client, purpose=purpose), 400, state)


def test_an_empty_file_is_refused(client: Client, state: ServerState) -> None:
    assert refused(upload(client, b""), 400, state) == "The file is empty."


def test_fields_in_any_order_are_checked(client: Client, state: ServerState) -> None:
    def form(*parts: tuple[str, str]) -> Any:
        body = "".join(
            f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in parts
        )
        body = body.replace('name="file"', 'name="file"; filename="a"') + "--b--\r\n"
        headers = {"content-type": "multipart/form-data; boundary=b"}
        return client.post("/v1/files", content=body.encode(), headers=headers)

    refused(form(("file", "x"), ("purpose", "wrong")), 400, state)
    refused(form(("file", "x")), 400, state)
    refused(form(("purpose", "batch")), 400, state)
    refused(form(("file", "x"), ("file", "y"), ("purpose", "batch")), 400, state)
    refused(form(("purpose", "batch"), ("purpose", "batch"), ("file", "x")), 400, state)
    refused(form(("purpose", "x" * 2000), ("file", "x")), 400, state)
    refused(form(("colour", "red"), ("file", "x")), 400, state)
    assert form(("file", "x"), ("purpose", "batch")).status_code == 200


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=b", b""),
        ("multipart/form-data; boundary=b", b"no form at all, and not short either"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nhalf',
        ),
    ],
)
def test_what_is_no_whole_form_is_refused(
    client: Client, state: ServerState, content_type: str, body: bytes
) -> None:
    headers = {"content-type": content_type}
    refused(client.post("/v1/files", content=body, headers=headers), 400, state)


def test_a_file_over_the_limit_is_refused(
    client: Client, state: ServerState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "MAX_FILE_BYTES", 3 << 20)
    assert "3 MB is the most" in refused(upload(client, b"x" * (3 << 20) + b"x"), 413, state)
    assert upload(client, b"x" * (3 << 20)).status_code == 200


def test_a_length_over_the_limit_is_refused_before_it_comes(
    client: Client, state: ServerState
) -> None:
    headers = {
        "content-type": "multipart/form-data; boundary=b",
        "content-length": str(513 << 20),
    }
    response = client.post("/v1/files", content=b"--b", headers=headers)
    assert "512 MB is the most" in refused(response, 413, state)


def test_a_disk_that_is_full_keeps_nothing(
    client: Client, state: ServerState, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("verse_server.state.files.os.fsync", full)
    response = upload(client)
    assert "could not store" in refused(response, 507, state)
    assert response.headers["x-should-retry"] == "false"


def test_without_jobs_every_route_says_how_to_switch_them_on(engine: FakeEngine) -> None:
    app = create_app(engine, ServerConfig())
    with TestClient[Litestar](app, base_url=ADDRESS) as client:
        answers = [client.get("/v1/files"), upload(client), client.delete("/v1/files/x")]
    for answer in answers:
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "jobs_disabled"
        assert "verse serve --jobs" in answer.json()["error"]["message"]


def test_the_key_is_asked_for_first(engine: FakeEngine) -> None:
    app = create_app(engine, ServerConfig(api_key="sesame"))
    with TestClient(app, base_url=ADDRESS) as client:
        assert client.get("/v1/files").status_code == 401
