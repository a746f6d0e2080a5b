"""What `verse serve` prints once it is ready: every figure is the engine's."""

import shlex
from pathlib import Path

import msgspec
import pytest
from fake_engine import ADAPTER, BASE

from verse import terminal
from verse_server.banner import show_ready
from verse_server.config import EngineConfig, ServerConfig
from verse_server.engine.types import BaseInfo, ModelInfo, SamplingParams

INFO = BaseInfo(
    id=BASE.id,
    context_length=4096,
    vocab_size=8192,
    dtype="bfloat16",
    bytes=1_234_567_890,
    created=0,
    sampling=SamplingParams(temperature=0.7, top_k=20),
)


def printed(
    capsys: pytest.CaptureFixture[str], config: ServerConfig, *models: ModelInfo, port: int = 8001
) -> list[str]:
    console = terminal.console(width=100)
    show_ready(console, config, port, INFO, list(models), ["broken: the weights are truncated"])
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_it_shows_where_the_server_is_and_what_it_serves(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = printed(capsys, ServerConfig(), BASE, ADAPTER)
    facts = {name: rest.strip() for name, _, rest in (line.partition(" ") for line in lines[:8])}
    assert facts == {
        "address": "http://127.0.0.1:8001/v1",
        "page": "http://127.0.0.1:8001/",
        "base": "verse-tiny",
        "dtype": "bfloat16",
        "weights": "1,235 MB",
        "context": "4096 tokens",
        "sampling": "temperature 0.7, top_k 20",
        "adapters": "xuzhimo",
    }
    assert lines[8] == "warning: broken: the weights are truncated"


def test_the_line_to_try_asks_the_first_adapter_or_the_base(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for models, asked in (((BASE, ADAPTER), "xuzhimo"), ((BASE,), "verse-tiny")):
        words = shlex.split(printed(capsys, ServerConfig(api_key="k"), *models)[-1])
        assert words[:2] == ["curl", "http://127.0.0.1:8001/v1/chat/completions"]
        assert "Authorization: Bearer $VERSE_API_KEY" in words
        assert msgspec.json.decode(words[-1])["model"] == asked


@pytest.mark.parametrize(
    ("config", "warned", "reached"),
    [
        (ServerConfig(), False, "http://127.0.0.1:8001"),
        (ServerConfig(host="::1"), False, "http://[::1]:8001"),
        (ServerConfig(host="0.0.0.0"), True, "http://127.0.0.1:8001"),
        (ServerConfig(host="0.0.0.0", api_key="k"), False, "http://127.0.0.1:8001"),
        (ServerConfig(host="10.0.0.7"), True, "http://10.0.0.7:8001"),
    ],
)
def test_an_open_address_without_a_key_is_warned_of(
    capsys: pytest.CaptureFixture[str], config: ServerConfig, warned: bool, reached: str
) -> None:
    lines = printed(capsys, config, BASE)
    assert any("--api-key" in line for line in lines) is warned
    assert f"{reached}/v1/chat/completions" in lines[-1]


def test_an_empty_adapters_folder_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    config = ServerConfig(engine=EngineConfig(adapters=Path("mine")))
    assert any(line.endswith("none in mine") for line in printed(capsys, config, BASE))
