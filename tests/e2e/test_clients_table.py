"""The guide names the clients that the network suite runs, and no others."""

from pathlib import Path

from tests.e2e.clients import GUIDE, NODE_CLIENTS, PYTHON_CLIENTS, written

CLIENTS = (*PYTHON_CLIENTS, *NODE_CLIENTS)
CHECKS = Path(__file__).with_name("real_clients")


def test_the_guide_shows_the_table() -> None:
    text = GUIDE.read_text("utf-8")
    assert written(text) == text, "run `python -m tests.e2e.clients`"


def test_every_check_belongs_to_a_client_and_every_client_has_one() -> None:
    files = {path.name for path in CHECKS.iterdir() if path.is_file()}
    # The guide's examples, and clients that are generated from the OpenAPI document.
    others = {"example_checks.py", "generated_checks.py", "generated_checks.ts"}
    assert files - others == {client.checks for client in CLIENTS}


def test_every_requirement_is_pinned() -> None:
    for client in CLIENTS:
        separator = "@" if client.is_node else "=="
        assert all(separator in requirement[1:] for requirement in client.requirements), client
        assert client.version[0].isdigit()
    assert len({client.name for client in CLIENTS}) == len(CLIENTS)
