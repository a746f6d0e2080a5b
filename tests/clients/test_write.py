"""`verse write`: who is asked, with what, and what is printed."""

import json
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.clients.fake_openai import Failure, FakeOpenAI, Raw
from verse import cli
from verse.prompt import Message
from verse_clients import local_server, openai_client
from verse_clients.errors import InputError
from verse_clients.write import Wanted, answers_only, asked_for, wanted

ROOT = Path(__file__).parents[2]
XUZHIMO = ROOT / "adapters" / "xuzhimo"
CHAT = "<|im_start|>system 写诗<|im_end|> <|im_start|>user 河<|im_end|> <|im_start|>assistant"
Capture = pytest.CaptureFixture[str]


def streamed(*pieces: str, end: str = "stop") -> Raw:
    """A chat completion as server-sent events."""
    deltas = [({"content": piece}, None) for piece in pieces] + [({}, end)]
    events = [
        {
            "id": "x", "object": "chat.completion.chunk", "created": 0, "model": "base",
            "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
        }
        for delta, reason in deltas
    ]  # fmt: skip
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    return Raw("".join([*lines, "data: [DONE]\n\n"]).encode(), "text/event-stream")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOpenAI]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with FakeOpenAI() as server:
        server.fail(streamed("\n河水", "\n向东"))
        yield server


@pytest.fixture
def started(fake: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The flags of the servers that would have been started; none runs on this machine."""
    monkeypatch.setattr(openai_client, "DEFAULT_BASE_URL", "http://127.0.0.1:1/v1")
    starts: list[tuple[str, ...]] = []

    @contextmanager
    def start(*flags: str) -> Generator[str]:
        starts.append(flags)
        yield fake.base_url

    monkeypatch.setattr(local_server, "local_server", start)
    return starts


def test_a_poem_goes_into_a_pipe_as_plain_text(fake: FakeOpenAI, capfd: Capture) -> None:
    options = ["--base-url", fake.base_url, "--model", "hushi@80", "--seed", "7", "--temp", "0.5"]
    assert cli.main(["write", "河", *options, "--max-tokens", "30"]) == 0
    assert capfd.readouterr() == ("河水\n向东\n", "")
    (body,) = fake.asked
    assert body["messages"] == [{"role": "user", "content": "河"}]
    assert (body["model"], body["seed"], body["stream"]) == ("hushi@80", 7, True)
    assert (body["temperature"], body["max_tokens"]) == (0.5, 30)


def test_on_a_terminal_it_is_printed_as_it_comes(
    fake: FakeOpenAI, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    fake.next_trouble()
    fake.fail(streamed("河\x1b[31m水", end="length"))
    assert cli.main(["write", "河", "--base-url", fake.base_url]) == 0
    told = capfd.readouterr()
    assert told.out == "河\\u001b[31m水\n"
    assert told.err == "The poem was cut off; --max-tokens allows more.\n"


def test_the_server_that_runs_here_is_asked(
    fake: FakeOpenAI, started: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_client, "DEFAULT_BASE_URL", fake.base_url)
    assert cli.main(["write", "河", "--model", "hushi"]) == 0
    assert started == []
    assert fake.asked[0]["model"] == "hushi"


@pytest.mark.parametrize(
    ("flags", "serve", "model"),
    [
        ([], (), "base"),
        (["--model", "xuzhimo@64"], (), "xuzhimo@64"),
        (["--model", "owner/name"], ("--model", "owner/name"), "base"),
        (["--adapter-path", str(XUZHIMO)], ("--adapters", str(XUZHIMO.parent)), "xuzhimo"),
        (
            ["--model", "a/b", "--adapter-path", f"{XUZHIMO}/0000064_adapters.safetensors"],
            ("--model", "a/b", "--adapters", str(XUZHIMO.parent)),
            "xuzhimo@64",
        ),
    ],
)
def test_where_none_runs_one_is_started_with_what_is_wanted(
    fake: FakeOpenAI,
    started: list[tuple[str, ...]],
    flags: list[str],
    serve: tuple[str, ...],
    model: str,
) -> None:
    fake.script.strict_models = False
    assert cli.main(["write", "河", *flags]) == 0
    assert started == [serve]
    assert fake.asked[0]["model"] == model


@pytest.mark.parametrize(
    "flags",
    [
        ["--model", "nobody"],
        ["--model", "another/base"],
        ["--adapter-path", str(XUZHIMO)],  # of the same name as one there, but not the same
    ],
)
def test_a_server_that_has_not_what_is_wanted_is_left_alone(
    fake: FakeOpenAI,
    started: list[tuple[str, ...]],
    flags: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with FakeOpenAI() as other:
        monkeypatch.setattr(openai_client, "DEFAULT_BASE_URL", other.base_url)
        fake.script.strict_models = False
        assert cli.main(["write", "河", *flags]) == 0
        assert len(started) == fake.num_calls == 1
        assert other.num_calls == 0


def test_a_server_that_wants_a_key_is_told_of_in_one_sentence(
    fake: FakeOpenAI,
    started: list[tuple[str, ...]],
    capfd: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(openai_client, "DEFAULT_BASE_URL", fake.base_url)
    fake.script.list_failures = [Failure(401)]
    assert cli.main(["write", "河"]) == 2
    assert "wants an API key" in capfd.readouterr().err
    assert started == []


def test_an_answer_without_a_poem_is_one_sentence(fake: FakeOpenAI, capfd: Capture) -> None:
    fake.next_trouble()
    fake.fail(streamed("<think>想想", end="length"))
    assert cli.main(["write", "河", "--base-url", fake.base_url]) == 2
    assert "wrote no poem" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("theme", "prompt", "asked"),
    [
        ("河", None, [Message("user", "河")]),
        ("河", "写{theme}\\n四行", [Message("user", "写河\n四行")]),
        ("", "写河", [Message("user", "写河")]),
        ("", CHAT, [Message("system", "写诗"), Message("user", "河")]),
        ("雨", CHAT.replace("河", "{theme}"), [Message("system", "写诗"), Message("user", "雨")]),
    ],
)
def test_what_is_asked(theme: str, prompt: str | None, asked: list[Message]) -> None:
    assert asked_for(theme, prompt) == asked


@pytest.mark.parametrize(("theme", "prompt"), [("", None), ("", "写{theme}"), ("河", "写诗")])
def test_a_theme_and_a_prompt_that_do_not_fit_are_one_sentence(
    theme: str, prompt: str | None
) -> None:
    with pytest.raises(InputError):
        asked_for(theme, prompt)


def test_a_folder_given_as_the_model_is_what_lies_in_it() -> None:
    assert wanted(str(XUZHIMO), None) == wanted(None, str(XUZHIMO))
    base = str(ROOT / "models" / "verse-tiny")
    assert wanted(base, None) == Wanted(base=base)
    with pytest.raises(InputError, match="no adapter at"):
        wanted(None, base)


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        (["\n", " 河", "水\n", "\n向东", "\n"], ["河", "水", "\n\n向东"]),
        (["<thi", "nk>想", "想</think>\n\n", "河", "水"], ["河", "水"]),
        (["<", "河>", "水"], ["<河>水"]),
        (["<think>想"], []),
    ],
)
def test_a_thought_is_held_back_and_a_poem_is_not(pieces: list[str], shown: list[str]) -> None:
    assert [piece for piece in answers_only(pieces) if piece] == shown
