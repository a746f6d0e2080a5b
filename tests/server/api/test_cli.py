"""`verse serve`: options, variables, what is printed, exit codes."""

import gc
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from live import served_process
from typer.testing import CliRunner
from wire import CHAT, chat_body

from verse.cli import main
from verse_server import cli
from verse_server.acceptor import bind
from verse_server.cli import app
from verse_server.config import EngineConfig, ServerConfig
from verse_server.engine.errors import StartupError

runner = CliRunner()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[ServerConfig]:
    """The configs that the command would have started a server with."""
    configs: list[ServerConfig] = []

    def remember(config: ServerConfig) -> int:
        configs.append(config)
        return 0

    monkeypatch.setattr("verse_server.cli._start_and_run", remember)
    return configs


def test_the_defaults_are_those_of_the_config(started: list[ServerConfig]) -> None:
    assert runner.invoke(app, []).exit_code == 0
    assert started == [ServerConfig(decisions=Path("decisions.jsonl").absolute())]


EVERYTHING = ServerConfig(
    engine=EngineConfig(
        model="some/model", adapters=Path("mine"), max_batch=4, adapter_slots=2, poem_prompt=False
    ),
    host="0.0.0.0",
    port=0,
    store=False,
    api_key="sesame",
    cors_origins=("https://a.example", "http://localhost:3000"),
    allowed_hosts=("a.example", "b.example"),
    decisions=Path("kept.jsonl"),
)


def test_every_option_reaches_the_config(started: list[ServerConfig]) -> None:
    options = (
        "--model some/model --adapters mine --host 0.0.0.0 --port 0 --max-batch 4 "
        "--adapter-slots 2 --no-poem-prompt --no-store --api-key sesame "
        "--cors-origin https://a.example --cors-origin http://localhost:3000 "
        "--allowed-host a.example --allowed-host b.example --decisions kept.jsonl"
    )
    assert runner.invoke(app, options.split()).exit_code == 0
    assert started == [EVERYTHING]


def test_every_option_is_a_variable_too(started: list[ServerConfig]) -> None:
    variables = {
        "VERSE_MODEL": "some/model",
        "VERSE_ADAPTERS": "mine",
        "VERSE_HOST": "0.0.0.0",
        "VERSE_PORT": "0",
        "VERSE_MAX_BATCH": "4",
        "VERSE_ADAPTER_SLOTS": "2",
        "VERSE_NO_POEM_PROMPT": "1",
        "VERSE_NO_STORE": "1",
        "VERSE_CORS_ORIGIN": "https://a.example http://localhost:3000",
        "VERSE_ALLOWED_HOST": "a.example b.example",
        "VERSE_API_KEY": "sesame",
        "VERSE_DECISIONS": "kept.jsonl",
    }
    assert runner.invoke(app, [], env=variables).exit_code == 0
    assert started == [EVERYTHING]


def test_decisions_are_kept_beside_the_adapters_or_not_at_all(
    started: list[ServerConfig], tmp_path: Path
) -> None:
    runner.invoke(app, ["--adapters", str(tmp_path / "adapters")])
    runner.invoke(app, ["--no-decisions"])
    assert [config.decisions for config in started] == [tmp_path / "decisions.jsonl", None]


@pytest.mark.parametrize(
    "options",
    ["--port 70000", "--port x", "--max-batch 0", "--adapter-slots 0", "--nope", "--api-key ''"],
)
def test_a_wrong_option_is_exit_code_2(started: list[ServerConfig], options: str) -> None:
    assert runner.invoke(app, options.replace("''", " ").split(" ")).exit_code == 2
    assert started == []


def test_a_port_in_use_is_exit_code_2_and_one_sentence_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with bind("127.0.0.1", 0) as sock:
        exit_code = main(["serve", "--port", str(sock.getsockname()[1])])
    assert exit_code == 2
    assert re.fullmatch(r"Cannot listen on .*\.\n", capsys.readouterr().err)


def test_an_engine_that_cannot_start_is_exit_code_2_and_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class MlxEngine:
        @staticmethod
        def start(*_arguments: object) -> None:
            raise StartupError("The model folder 'x' does not exist.")

    module = ModuleType("verse_server.engine.engine")
    module.__dict__["MlxEngine"] = MlxEngine
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert main(["serve", "--port", "0", "--model", "x"]) == 2
    assert capsys.readouterr().err == "The model folder 'x' does not exist.\n"


def test_no_garbage_is_looked_for_while_a_server_starts_and_again_after_it_could_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    collecting: list[bool] = []

    class MlxEngine:
        @staticmethod
        def start(*_arguments: object) -> None:
            collecting.append(gc.isenabled())
            raise StartupError("The model folder 'x' does not exist.")

    module = ModuleType("verse_server.engine.engine")
    module.__dict__["MlxEngine"] = MlxEngine
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert main(["serve", "--port", "0", "--model", "x"]) == 2
    assert [*collecting, gc.isenabled()] == [False, True]


def test_help_is_quick_because_nothing_heavy_is_imported() -> None:
    check = (
        "import sys, verse_server.cli; "
        "print(*{'litestar', 'uvicorn', 'mlx', 'numpy', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_help_does_not_show_a_key_that_is_set() -> None:
    result = runner.invoke(app, ["--help"], env={"VERSE_API_KEY": "sesame"})
    assert result.exit_code == 0
    assert "sesame" not in result.output


def test_the_start_tells_where_and_what_and_how_to_try_it(tmp_path: Path) -> None:
    cli = ["--port", "0", "--api-key", "sesame"]
    with served_process(tmp_path, engine={"context_length": 512}, cli=cli) as server:
        headers = {"authorization": "Bearer sesame"}
        answer = httpx.post(server.address + CHAT, json=chat_body(), headers=headers)
        assert answer.status_code == 200
        server.signal(signal.SIGTERM)
        assert server.exit_code() == 0
        for words in ("verse-tiny", "float32", "40 MB", "temperature 1", "xuzhimo", "truncated"):
            assert words in server.out
        assert f"POST {CHAT} 200" in server.err
        assert "sesame" not in server.out + server.err


def test_the_printed_curl_line_can_be_pasted(tmp_path: Path) -> None:
    with served_process(tmp_path, engine={}, cli=["--port", "0"]) as server:
        line = next(line for line in server.out.splitlines() if line.startswith("curl "))
        *_, url, _, header, _, body = shlex.split(line)
        assert url == server.address + CHAT
        assert header == "Content-Type: application/json"
        assert json.loads(body) == chat_body()


def test_nobody_else_may_train_without_a_key(started: list[ServerConfig]) -> None:
    refused = runner.invoke(app, ["--jobs", "--host", "0.0.0.0"])
    assert refused.exit_code == 2
    assert "set --api-key too" in refused.output
    assert started == []
    assert runner.invoke(app, ["--jobs", "--host", "0.0.0.0", "--api-key", "k"]).exit_code == 0
    assert runner.invoke(app, ["--jobs", "--host", "127.0.0.1"]).exit_code == 0


def test_what_serves_is_imported_while_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imported_meanwhile.py").write_text("IS_WHOLE = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    deadline = time.monotonic() + 60
    with cli._imported_meanwhile("imported_meanwhile"):  # pyright: ignore[reportPrivateUsage]
        while not hasattr(sys.modules.get("imported_meanwhile"), "IS_WHOLE"):
            assert time.monotonic() < deadline
            time.sleep(0.001)
    del sys.modules["imported_meanwhile"]
