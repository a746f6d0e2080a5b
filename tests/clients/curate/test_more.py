"""Asking a server for more poems: over a real socket on this machine."""

import json
import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.clients.curate.conftest import make_items
from verse.errors import UserError
from verse.prompt import Message
from verse.records import Candidate
from verse_clients.curate.items import Item
from verse_clients.curate.more import More, Written, more_file, read_more
from verse_clients.openai_client import Server, ServerError


class FakeServer(ThreadingHTTPServer):
    """Speaks as much of the API as the client needs, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.models = ["verse-tiny", "hushi"]
        self.status = 200
        self.text = "新写的\n诗"

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    @property
    def fake(self) -> FakeServer:
        assert isinstance(self.server, FakeServer)
        return self.server

    def do_GET(self) -> None:
        models = [{"id": name, "object": "model", "created": 0, "owned_by": "me"}
                  for name in self.fake.models]  # fmt: skip
        self.answer({"object": "list", "data": models})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.fake.asked.append(body)
        self.fake.keys.append(self.headers["Authorization"])
        if self.fake.status != 200:
            self.answer({"error": {"message": "no such model", "type": "x", "code": "y"}})
            return
        message = {"role": "assistant", "content": self.fake.text}
        self.answer({
            "id": "1", "object": "chat.completion", "created": 0, "model": body["model"],
            "system_fingerprint": "fp_1",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
        })  # fmt: skip

    def answer(self, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(self.fake.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    thread = threading.Thread(target=fake.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield fake
    fake.shutdown()
    fake.server_close()
    thread.join()


def more(server: FakeServer, folder: Path, model: str | None = None) -> More:
    return More(
        lambda: Server(server.base_url), folder / "decisions.more.jsonl", model, random.Random(1)
    )


def ask(writer: More, like: Item) -> Written:
    got: list[Written] = []
    arrived = threading.Event()

    def report(written: Written) -> None:
        got.append(written)
        arrived.set()

    assert writer.ask(like, report)
    assert arrived.wait(20)
    return got[0]


def test_two_poems_on_the_theme_are_written_by_the_poems_own_adapter(
    server: FakeServer, tmp_path: Path
) -> None:
    written = ask(more(server, tmp_path), make_items(2)[1])
    assert [body["model"] for body in server.asked] == ["hushi@80", "hushi@80"]
    assert [body["messages"][-1]["content"] for body in server.asked] == ["河", "河"]
    assert len({body["seed"] for body in server.asked}) == 2
    assert [poem.text for poem in written.poems] == ["新写的\n诗"] * 2
    assert len({poem.id for poem in written.poems}) == 2
    assert written.poems[0].digest == "fp_1"
    assert written.poems[0].completion_tokens == 5
    assert written.poems[0].server == server.base_url


def test_a_model_asked_for_by_name_writes_instead(server: FakeServer, tmp_path: Path) -> None:
    written = ask(more(server, tmp_path, "libai"), make_items(1)[0])
    assert {body["model"] for body in server.asked} == {"libai"}
    assert written.poems[0].adapter == "libai"


def test_a_poem_of_the_base_is_followed_by_the_servers_first_model(
    server: FakeServer, tmp_path: Path
) -> None:
    ask(more(server, tmp_path), Item(candidate=Candidate(theme="雨", text="雨")))
    assert {body["model"] for body in server.asked} == {"verse-tiny"}


def test_a_prompt_variant_is_used_again(server: FakeServer, tmp_path: Path) -> None:
    like = Item(candidate=Candidate(theme="雨", text="雨", variant="写一首关于{theme}的诗"))
    ask(more(server, tmp_path), like)
    assert server.asked[0]["messages"][-1]["content"] == "写一首关于雨的诗"


def test_new_poems_are_kept_beside_the_journal(server: FakeServer, tmp_path: Path) -> None:
    journal = tmp_path / "decisions.jsonl"
    written = ask(more(server, tmp_path), make_items(1)[0])
    assert more_file(journal).exists()
    kept = read_more(journal, 7)
    assert [item.candidate for item in kept] == list(written.poems)
    assert [item.number for item in kept] == [7, 8]


def test_a_server_that_is_down_is_told_in_one_sentence(tmp_path: Path) -> None:
    writer = More(lambda: Server("http://127.0.0.1:9/v1"), tmp_path / "more.jsonl")
    written = ask(writer, make_items(1)[0])
    assert written.problem == "No server answers at http://127.0.0.1:9/v1."
    assert written.poems == ()


def test_a_server_that_refuses_is_told_in_one_sentence(server: FakeServer, tmp_path: Path) -> None:
    server.status = 404
    written = ask(more(server, tmp_path), make_items(1)[0])
    assert written.problem.startswith(f"{server.base_url} answered 404: ")
    assert "no such model" in written.problem


def test_a_server_that_writes_nothing_is_told(server: FakeServer, tmp_path: Path) -> None:
    server.text = " \n"
    written = ask(more(server, tmp_path), make_items(1)[0])
    assert written.problem == f"{server.base_url} wrote nothing on 雨."


def test_a_second_request_waits_for_the_first(tmp_path: Path) -> None:
    release, asked = threading.Event(), threading.Event()

    def connect() -> Server:
        asked.set()
        release.wait(20)
        return Server("http://127.0.0.1:9/v1")

    writer = More(connect, tmp_path / "more.jsonl")
    done = threading.Event()
    assert writer.ask(make_items(1)[0], lambda _: done.set())
    assert asked.wait(20)
    assert not writer.ask(make_items(1)[0], lambda _: None)
    release.set()
    assert done.wait(20)


def test_the_key_and_the_address_come_from_the_environment(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    client = Server()
    answer = client.write("hushi", [Message("user", "雨")], temperature=0.5)
    client.close()
    assert answer.text == "新写的\n诗"
    assert server.keys == ["Bearer sk-test"]
    assert server.asked[0]["temperature"] == 0.5
    assert "seed" not in server.asked[0]


def test_a_wrong_key_is_told_in_one_sentence(server: FakeServer) -> None:
    server.status = 401
    client = Server(server.base_url)
    with pytest.raises(ServerError, match="does not accept the API key"):
        client.write("hushi", [Message("user", "雨")])
    client.close()
    assert issubclass(ServerError, UserError)
