"""`verse generate` with several servers: the same poems as with one, whatever becomes of one."""

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients.fake_openai import FakeOpenAI, model
from tests.clients.generate.conftest import poems_in, texts
from verse import cli

PLAN = ("generate", "--themes", "themes.txt", "-a", "hushi,base", "--checkpoints", "published,80")


@pytest.fixture
def other() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as server:
        yield server


def generate(*servers: FakeOpenAI | str, options: tuple[str, ...] = ()) -> int:
    urls = [each if isinstance(each, str) else each.base_url for each in servers]
    return cli.main([*PLAN, *options, *(word for url in urls for word in ("--base-url", url))])


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)


def unused_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return f"http://127.0.0.1:{sock.getsockname()[1]}/v1"


def test_two_servers_write_what_one_does_and_each_poem_tells_whose_it_is(
    fake: FakeOpenAI, other: FakeOpenAI
) -> None:
    assert generate(fake, options=("-n", "3", "-o", "one.jsonl")) == 0
    fake.asked.clear()
    for server in (fake, other):
        server.script.seconds = 0.005
    assert generate(fake, other, options=("-n", "3", "-o", "two.jsonl")) == 0
    one, two = poems_in("one.jsonl"), poems_in("two.jsonl")
    assert len(one) == len(two) == fake.num_calls + other.num_calls
    assert texts(one) == texts(two)
    assert {poem.id for poem in one} == {poem.id for poem in two}
    written = Counter(poem.server for poem in two)
    assert written == {fake.base_url: fake.num_calls, other.base_url: other.num_calls}
    assert min(written.values()) > 3


def test_a_server_that_dies_in_the_middle_costs_nothing(
    fake: FakeOpenAI, other: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    other.script.gate, other.script.free_calls = threading.Event(), 5
    fake.script.seconds = 0.01

    def kill_it() -> None:
        until(lambda: other.answered >= 5)
        other.stop()

    killer = threading.Thread(target=kill_it)
    killer.start()
    assert generate(fake, other, options=("-n", "4", "--concurrency", "4")) == 0
    killer.join()
    poems = poems_in("poems.jsonl")
    assert len(poems) == len({poem.seed for poem in poems}) == 9 * 4
    assert Counter(poem.server for poem in poems)[other.base_url] == 5
    said = capfd.readouterr().err
    assert f"No server answers at {other.base_url}. Others do its share" in said


def test_one_that_is_down_is_named_and_the_others_write(
    fake: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    address = unused_address()
    assert generate(address, fake) == 0
    assert len(poems_in("poems.jsonl")) == 9
    assert f"No server answers at {address}. Others do its share" in capfd.readouterr().err


def test_one_that_comes_late_joins(fake: FakeOpenAI) -> None:
    """The first server answers no more until the other has: nothing here depends on time."""
    port = int(unused_address().split(":")[2].removesuffix("/v1"))
    gate = fake.script.gate = threading.Event()
    fake.script.free_calls = 10
    late: list[FakeOpenAI] = []

    def come() -> None:
        until(lambda: fake.answered >= 5)
        late.append(FakeOpenAI(port).__enter__())
        until(lambda: late[0].answered >= 4)
        fake.script.gate = None
        gate.set()

    comer = threading.Thread(target=come)
    comer.start()
    address = f"http://127.0.0.1:{port}/v1"
    assert generate(fake, address, options=("-n", "3", "--concurrency", "2")) == 0
    comer.join()
    late[0].stop()
    poems = poems_in("poems.jsonl")
    assert len(poems) == len({poem.seed for poem in poems}) == 9 * 3
    assert Counter(poem.server for poem in poems)[address] == late[0].answered


def test_all_down_is_one_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    one, two = unused_address(), unused_address()
    assert generate(one, two, options=("--wait", "0")) == 2
    said = capfd.readouterr().err.strip().splitlines()
    assert said[-1].endswith(f"None of the servers answers: {one}, {two}.")
    assert not Path("poems.jsonl").exists()


@pytest.mark.parametrize("is_base", [False, True])
def test_servers_with_different_weights_are_refused_before_anything_is_written(
    fake: FakeOpenAI, other: FakeOpenAI, capfd: pytest.CaptureFixture[str], is_base: bool
) -> None:
    name, place = ("verse-tiny", 0) if is_base else ("hushi", 1)
    for server, digest in ((fake, "a" * 64), (other, "b" * 64)):
        server.script.models[place] = model(
            name, *(() if is_base else (80, 160)), parent=None if is_base else "verse-tiny"
        ) | {"digest": digest}
    assert generate(fake, other) == 2
    said = capfd.readouterr().err
    shown = "base" if is_base else "hushi"
    assert f"{other.base_url} has another {shown!r} than {fake.base_url}" in said
    assert "Give all servers the same files." in said
    assert not Path("poems.jsonl").exists()
    assert fake.num_calls == other.num_calls == 0


def test_the_same_server_twice_is_refused(
    fake: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    assert generate(fake, fake.base_url + "/") == 2
    assert "is given twice; name each server once." in capfd.readouterr().err


def test_an_address_that_is_none_is_refused(
    fake: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    assert generate(fake, "localhost:8000") == 2
    assert "'localhost:8000' is no address of a server" in capfd.readouterr().err


def test_a_batch_goes_to_one_server(
    fake: FakeOpenAI, other: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    assert generate(fake, other, options=("--batch",)) == 2
    assert "--batch gives the whole plan to one server" in capfd.readouterr().err


def test_the_addresses_may_stand_in_the_environment(
    fake: FakeOpenAI, other: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"{fake.base_url} {other.base_url}")
    for server in (fake, other):
        server.script.seconds = 0.01
    assert generate(options=("-n", "4")) == 0
    assert {poem.server for poem in poems_in("poems.jsonl")} == {fake.base_url, other.base_url}
