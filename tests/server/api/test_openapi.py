"""The document tells what the server does, not what Litestar would do."""

from typing import Any

import pytest
from wire import Client


@pytest.fixture
def document(client: Client) -> Any:
    response = client.get("/schema/openapi.json")
    assert response.status_code == 200
    return response.json()


def test_the_body_of_a_chat_request_is_described(document: Any) -> None:
    operation = document["paths"]["/v1/chat/completions"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/ChatCompletionRequest"}
    fields = document["components"]["schemas"]["ChatCompletionRequest"]
    assert fields["required"] == ["messages", "model"]
    types = [part["type"] for part in fields["properties"]["temperature"]["oneOf"]]
    assert sorted(types) == ["null", "number"]


def test_errors_are_described_as_openais_envelope(document: Any) -> None:
    text = str(document["paths"])
    assert "ErrorResponse" in text
    assert "status_code" not in text


def test_an_unknown_path_below_the_schema_is_an_envelope_too(client: Client) -> None:
    for path in ("/schema/nothing", "/schema/nothing.json"):
        response = client.get(path)
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "unknown_url"
