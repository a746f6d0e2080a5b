"""Poems side by side, asked of a small server that answers what it was asked."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from verse import cli
from verse_clients.errors import InputError
from verse_clients.side_by_side import ThemeRow, as_markdown, read_themes


class Answering(ThreadingHTTPServer):
    """Keeps what it was asked; answers with the model, the theme and the seed."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.refusal: tuple[int, bytes] | None = None
        self.finish_reason = "stop"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A request that was given up is no news."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Answering  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_POST(self) -> None:
        assert self.path == "/v1/chat/completions"
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        self.server.keys.append(self.headers["Authorization"])
        status, answer = self.server.refusal or (200, self._completion(body))
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def _completion(self, body: dict[str, Any]) -> bytes:
        theme = body["messages"][0]["content"]
        text = f"\n{body['model']}写{theme}\n第{body['seed']}首"
        choices = [
            {"message": {"content": f"{text}之{i}"}, "finish_reason": self.server.finish_reason}
            for i in range(body["n"])
        ]
        return json.dumps({"choices": choices}).encode()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Answering]:
    with Answering() as answering:
        thread = threading.Thread(target=answering.serve_forever)
        thread.start()
        yield answering
        answering.shutdown()
        thread.join()


def compare(server: Answering, *arguments: str) -> int:
    return cli.main(["adapters", "compare", *arguments, "--base-url", server.url])


def test_every_model_writes_on_every_theme_with_one_seed_per_theme(
    server: Answering, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(server, "a@85", "b:0.6+c", "--themes", "河,母亲", "--seed", "7", "-n", "2") == 0
    asked = {(b["model"], b["messages"][0]["content"], b["seed"], b["n"]) for b in server.asked}
    assert asked == {
        ("a@85", "河", 7, 2),
        ("b:0.6+c", "河", 7, 2),
        ("a@85", "母亲", 8, 2),
        ("b:0.6+c", "母亲", 8, 2),
    }
    assert all("temperature" not in body and "max_tokens" not in body for body in server.asked)
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert any("a@85写河" in line and "b:0.6+c写河" in line for line in lines)
    assert any(line.count("第8首之1") == 2 for line in lines)


def test_options_and_key_reach_the_server(
    server: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    options = ("--themes", "河", "--temperature", "0.5", "--max-tokens", "9")
    assert compare(server, "a", *options) == 0
    assert (server.asked[0]["temperature"], server.asked[0]["max_tokens"]) == (0.5, 9)
    assert server.keys == ["Bearer secret"]


def test_a_file_of_themes_and_a_markdown_file(
    server: Answering, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "themes.txt").write_text("河\n\n母亲\n河\n", encoding="utf-8")
    server.finish_reason = "length"
    output = tmp_path / "poems.md"
    arguments = ("a_1", "b", "--themes", str(tmp_path / "themes.txt"), "-o", str(output))
    assert compare(server, *arguments) == 0
    assert capsys.readouterr().out == f"{output}\n"
    text = output.read_text("utf-8")
    assert text.count("\n## ") == 2
    assert "| a\\_1 | b |" in text
    assert "| a\\_1写河<br>第0首之0<br>\\[cut off" in text
    assert compare(server, *arguments) == 2
    assert "already exists" in capsys.readouterr().err
    assert len(server.asked) == 4


@pytest.mark.parametrize(
    ("refusal", "sentence"),
    [
        ((401, b"{}"), "wants an API key; set OPENAI_API_KEY or give --api-key"),
        ((404, b'{"error": {"message": "There is no model a."}}'), "There is no model a."),
        ((502, b"<html>"), "answered 502"),
        ((200, b"<html>"), "no chat completion"),
        ((200, b'{"choices": [{"message": {"content": null}}]}'), "no chat completion"),
    ],
)
def test_what_the_server_refuses_is_one_sentence(
    server: Answering,
    capsys: pytest.CaptureFixture[str],
    refusal: tuple[int, bytes],
    sentence: str,
) -> None:
    server.refusal = refusal
    assert compare(server, "a", "b", "--themes", "河,母亲") == 2
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_a_server_that_is_down_is_one_sentence(
    server: Answering, capsys: pytest.CaptureFixture[str]
) -> None:
    url = server.url
    server.server_close()
    assert cli.main(["adapters", "compare", "a", "--themes", "河", "--base-url", url]) == 2
    assert "No server answers at" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host/v1", "http://[::1", ""])
def test_an_address_that_is_none_is_one_sentence(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["adapters", "compare", "a", "--themes", "河", "--base-url", url]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_themes_may_have_a_chinese_comma_and_must_be_there() -> None:
    assert read_themes("河，母亲, 灯,河") == ("河", "母亲", "灯")
    assert read_themes("字" * 5000) == ("字" * 5000,)
    with pytest.raises(InputError, match="no theme"):
        read_themes(" , ")


def test_a_file_of_themes_that_is_not_utf_8_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "themes.txt"
    file.write_bytes("河\n母亲\n".encode("gbk"))
    with pytest.raises(InputError, match="is not UTF-8"):
        read_themes(str(file))


def test_no_poem_moves_the_terminal(server: Answering, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(server, "a", "--themes", "河\x1b[2J\u202e") == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "\u202e" not in printed
    assert "河\\u001b[2J\\u202e" in printed
    text = as_markdown(["m"], [ThemeRow("\x1b[2J", 0, (("\x9b1m",),))])
    assert "\x1b" not in text
    assert "\x9b" not in text


def test_no_poem_becomes_markup() -> None:
    row = ThemeRow("a|b", 0, (("<b>*\n| x",), ()))
    text = as_markdown(["m", "n"], [row])
    assert "a\\|b" in text
    assert "| &lt;b&gt;\\*<br>\\| x |  |" in text
