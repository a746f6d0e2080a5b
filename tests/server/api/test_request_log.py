"""One line per request, and nothing in it that is nobody's business."""

import logging

import pytest
from fake_engine import FakeEngine
from wire import CHAT, Client, Connect, chat_body

from verse_server.config import ServerConfig


@pytest.fixture(autouse=True)
def at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="verse_server")


def test_a_line_has_method_path_status_model_and_tokens(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    response = client.post(CHAT, json=chat_body(stream=True))
    (line,) = caplog.messages
    assert line.startswith(f"POST {CHAT} 200 ")
    assert response.headers["x-request-id"] in line
    assert line.endswith("model='xuzhimo' tokens=1+4")


def test_a_line_names_the_error(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    client.post(CHAT, json=chat_body(model="nobody"))
    assert caplog.messages[0].endswith("error=model_not_found")


def test_no_text_and_no_key_is_logged(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client = connect(FakeEngine(), ServerConfig(api_key="sesame"))
    for key in ("sesame", "wrong-key"):
        client.post(CHAT, json=chat_body(), headers={"authorization": f"Bearer {key}"})
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("verse_server")]
    assert len(ours) == 2
    assert not any(word in line for line in ours for word in ("sesame", "wrong-key", "河", "走"))


def test_a_path_cannot_forge_a_line(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    client.get("/nope%0aGET /forged 200")
    assert len(caplog.messages) == 1
    assert "\n" not in caplog.messages[0]


@pytest.mark.parametrize("harmful", ["%1b[2J", "%C2%9b2J", "%E2%80%AE", "%07", "%0d"])
def test_a_path_holds_nothing_that_a_terminal_would_obey(
    client: Client, caplog: pytest.LogCaptureFixture, harmful: str
) -> None:
    client.get(f"/nope{harmful}")
    (line,) = caplog.messages
    assert line.isprintable()
    assert "/nope" in line


def test_probes_do_not_fill_the_log(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    client.get("/health")
    assert caplog.messages == []
