"""Asking a server for more poems: over a real socket on this machine."""

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.curate.conftest import make_items
from tests.clients.fake_openai import Failure, FakeOpenAI, Reply, Script
from verse import UserError
from verse.prompt import Message
from verse.records import Candidate
from verse_clients.curate.more import More, Written, more_file, read_more
from verse_clients.decisions.sources import Item
from verse_clients.errors import ServerError
from verse_clients.openai_client import Server

TEXT = "新写的\n诗"


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI(script=Script(write=lambda _: TEXT, strict_models=False)) as fake:
        yield fake


def more(server: FakeOpenAI, folder: Path, model: str | None = None) -> More:
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
    assert arrived.wait(60)
    return got[0]


def test_two_poems_on_the_theme_are_written_by_the_poems_own_adapter(
    server: FakeOpenAI, tmp_path: Path
) -> None:
    written = ask(more(server, tmp_path), make_items(2, mixed=True)[1])
    assert [body["model"] for body in server.asked] == ["hushi@80", "hushi@80"]
    assert [body["messages"][-1]["content"] for body in server.asked] == ["河", "河"]
    assert len({body["seed"] for body in server.asked}) == 2
    assert [poem.text for poem in written.poems] == [TEXT] * 2
    assert len({poem.id for poem in written.poems}) == 2
    assert written.poems[0].digest == "fp-hushi@80"
    assert written.poems[0].completion_tokens == 11
    assert written.poems[0].server == server.base_url


def test_a_model_asked_for_by_name_writes_instead(server: FakeOpenAI, tmp_path: Path) -> None:
    written = ask(more(server, tmp_path, "libai"), make_items(1)[0])
    assert {body["model"] for body in server.asked} == {"libai"}
    assert written.poems[0].adapter == "libai"


def test_a_poem_of_the_base_is_followed_by_the_servers_first_model(
    server: FakeOpenAI, tmp_path: Path
) -> None:
    ask(more(server, tmp_path), Item(candidate=Candidate(theme="雨", text="雨")))
    assert {body["model"] for body in server.asked} == {"verse-tiny"}


def test_a_prompt_variant_is_used_again(server: FakeOpenAI, tmp_path: Path) -> None:
    like = Item(candidate=Candidate(theme="雨", text="雨", variant="写一首关于{theme}的诗"))
    ask(more(server, tmp_path), like)
    assert server.asked[0]["messages"][-1]["content"] == "写一首关于雨的诗"


def test_new_poems_are_kept_beside_the_journal(server: FakeOpenAI, tmp_path: Path) -> None:
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


def test_a_server_that_refuses_is_told_in_one_sentence(server: FakeOpenAI, tmp_path: Path) -> None:
    server.fail(Failure(404, "no such model", "model_not_found"))
    written = ask(more(server, tmp_path), make_items(1)[0])
    assert written.problem.startswith(f"{server.base_url} answered 404: ")
    assert "no such model" in written.problem


def test_a_server_that_writes_nothing_is_told(server: FakeOpenAI, tmp_path: Path) -> None:
    server.script.write = lambda _: " \n"
    written = ask(more(server, tmp_path), make_items(1)[0])
    assert written.problem == f"{server.base_url} returned no poem on 雨."


def test_a_second_request_waits_for_the_first(tmp_path: Path) -> None:
    release, asked = threading.Event(), threading.Event()

    def connect() -> Server:
        asked.set()
        release.wait(60)
        return Server("http://127.0.0.1:9/v1")

    writer = More(connect, tmp_path / "more.jsonl")
    done = threading.Event()
    assert writer.ask(make_items(1)[0], lambda _: done.set())
    assert asked.wait(60)
    assert not writer.ask(make_items(1)[0], lambda _: None)
    release.set()
    assert done.wait(60)


def test_the_key_and_the_address_come_from_the_environment(
    server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    client = Server()
    answer = client.write("hushi", [Message("user", "雨")], temperature=0.5)
    client.close()
    assert answer.text == TEXT
    assert server.headers[0]["authorization"] == "Bearer sk-test"
    assert server.asked[0]["temperature"] == 0.5
    assert "seed" not in server.asked[0]


def test_a_wrong_key_is_told_in_one_sentence(server: FakeOpenAI) -> None:
    server.script.key = "sk-right"
    client = Server(server.base_url, "sk-wrong")
    with pytest.raises(ServerError, match="does not accept the API key"):
        client.write("hushi", [Message("user", "雨")])
    client.close()
    assert issubclass(ServerError, UserError)


def test_a_thought_is_taken_off_and_a_poem_with_a_tag_left_in_it_is_marked(
    server: FakeOpenAI, tmp_path: Path
) -> None:
    server.fail(Reply(f"想一想\n</think>\n\n{TEXT}"), Reply("河\n<think>水"))
    written = ask(more(server, tmp_path), make_items(1)[0])
    assert [(poem.text, poem.blocked) for poem in written.poems] == [
        (TEXT, None), ("河\n<think>水", "thought"),
    ]  # fmt: skip
    assert written.poems[0].raw == f"想一想\n</think>\n\n{TEXT}"


def test_thoughts_without_a_poem_are_no_poems(server: FakeOpenAI, tmp_path: Path) -> None:
    server.script.write = lambda _: Reply(f"<think>\n{TEXT}", "length")
    written = ask(more(server, tmp_path), make_items(1)[0])
    assert written.poems == ()
    assert written.problem == f"{server.base_url} sent thoughts and no poem on 雨."


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_in_the_thread_is_told_and_the_next_request_is_taken(tmp_path: Path) -> None:
    def connect() -> Server:
        raise AssertionError("a fault of ours")

    writer = More(connect, tmp_path / "decisions.more.jsonl")
    for _ in range(2):
        written = ask(writer, make_items(1)[0])
        assert written.problem == "Something went wrong; no poems came."
        end = time.monotonic() + 20
        while writer.is_busy and time.monotonic() < end:
            time.sleep(0.01)
