"""The document tells what the server does, not what Litestar would do."""

import json
import re
import threading
from functools import cache
from typing import Any

import pytest
from fake_engine import FakeEngine
from litestar import Litestar
from litestar.testing import TestClient
from wire import ADDRESS, Client, Connect

import verse_server.app
from verse_server.api import openapi
from verse_server.app import create_app
from verse_server.config import ServerConfig


@pytest.fixture(scope="module")
def document() -> Any:
    """Made once: Litestar takes a second or two for it."""
    app = create_app(FakeEngine(), ServerConfig())
    with TestClient[Litestar](app, base_url=ADDRESS) as client:
        response = client.get("/schema/openapi.json")
    assert response.status_code == 200
    return response.json()


def test_the_document_is_made_once_and_beside_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: list[str] = []

    def note(_: object) -> None:
        threads.append(threading.current_thread().name)

    monkeypatch.setattr(openapi.ChatOperation, "__post_init__", note)
    monkeypatch.setattr(openapi, "_open_objects", note)
    anew = cache(openapi.record_schemas.__wrapped__)
    for module in (openapi, verse_server.app):
        monkeypatch.setattr(module, "record_schemas", anew)
    app = create_app(FakeEngine(), ServerConfig())
    with TestClient[Litestar](app, base_url=ADDRESS) as client:
        first = client.get("/schema/openapi.json")
        monkeypatch.delattr(openapi, "record_schemas")
        assert client.get("/schema").content == first.content
    (thread,) = set(threads)
    assert thread.startswith("asyncio_")


@pytest.fixture(scope="module")
def schemas(document: Any) -> Any:
    return document["components"]["schemas"]


def chat_answers(document: Any) -> Any:
    return document["paths"]["/v1/chat/completions"]["post"]["responses"]


def test_the_body_of_a_chat_request_is_described(document: Any, schemas: Any) -> None:
    operation = document["paths"]["/v1/chat/completions"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/ChatCompletionRequest"}
    request = schemas["ChatCompletionRequest"]
    assert request["required"] == ["model", "messages"]
    assert request["additionalProperties"] is False


def test_every_record_that_is_named_is_described(document: Any, schemas: Any) -> None:
    named = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(document)))
    assert named <= set(schemas)
    assert {"Model", "Adapter", "Probe", "ChatCompletionChunk"} <= named


def test_bounds_are_described_wherever_they_are(schemas: Any) -> None:
    fields = schemas["CompletionRequest"]["properties"]
    number, null = fields["temperature"]["anyOf"]
    assert number == {"type": "number", "minimum": 0, "maximum": 2}
    assert null == {"type": "null"}
    assert fields["logit_bias"]["anyOf"][0]["additionalProperties"]["minimum"] == -100
    assert fields["stop"]["anyOf"][1]["items"]["minLength"] == 1


def test_a_parameter_that_is_not_supported_is_described_with_the_values_it_may_have(
    schemas: Any,
) -> None:
    fields = schemas["ChatCompletionRequest"]["properties"]
    null = {"type": "null"}
    assert fields["best_of"]["anyOf"] == [{"const": 1}, null]
    assert fields["function_call"]["anyOf"] == [{"const": "none"}, {"const": "auto"}, null]
    assert fields["web_search_options"]["anyOf"] == [null]
    assert fields["store"]["description"] == "Changes nothing: nothing is stored."


def test_generators_find_what_they_understand(schemas: Any) -> None:
    """openapi-python-client drops what has an enum of anything but strings, and openapi-typescript
    takes every field with a default for one that is always there."""
    text = json.dumps(schemas)
    assert '"default"' not in text
    for enum in re.findall(r'"enum": (\[[^\]]*\])', text):
        assert all(isinstance(value, str) for value in json.loads(enum)), enum
    for array in objects_of(schemas, "array"):
        assert "items" in array or "prefixItems" in array, array
    for node in objects_of([schema.get("properties", {}) for schema in schemas.values()], "object"):
        assert node.keys() & {"properties", "additionalProperties", "maxProperties"}, node
    assert schemas["ChatCompletionRequest"]["required"] == ["model", "messages"]
    assert schemas["CompletionRequest"]["required"] == ["model", "prompt"]


def objects_of(node: Any, kind: str) -> list[Any]:
    """All schemas of a type, wherever they are."""
    below = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    found = [inner for value in below for inner in objects_of(value, kind)]
    return [*found, node] if isinstance(node, dict) and node.get("type") == kind else found


def test_what_an_answer_always_carries_is_required(schemas: Any) -> None:
    assert "usage" in schemas["ChatCompletion"]["required"]
    assert "object" in schemas["ChatCompletion"]["required"]
    assert "usage" not in schemas["ChatCompletionChunk"]["required"]
    assert schemas["ErrorObject"]["required"] == ["message", "type", "param", "code"]


def test_a_stream_is_described_by_its_events(document: Any) -> None:
    content = chat_answers(document)["200"]["content"]
    assert set(content) == {"application/json", "text/event-stream"}
    done, record = content["text/event-stream"]["schema"]["properties"]["data"]["anyOf"]
    assert done == {"const": "[DONE]"}
    assert record["contentSchema"]["anyOf"] == [
        {"$ref": "#/components/schemas/ChatCompletionChunk"},
        {"$ref": "#/components/schemas/ErrorResponse"},
    ]


def test_errors_are_described_as_openais_envelope(document: Any) -> None:
    answers = chat_answers(document)
    assert set(answers) == {
        *("200", "400", "401", "404", "409", "413", "429", "500", "503", "504"),
    }
    assert "Retry-After" in answers["429"]["headers"]
    assert "shutting down, or the adapter" in answers["503"]["description"]
    assert "if one is at fault" in answers["400"]["description"]


def test_every_error_of_every_operation_is_an_envelope(document: Any) -> None:
    envelope = {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            for status, answer in operation["responses"].items():
                if status >= "400" and method != "head" and (path, status) != ("/health", "503"):
                    assert answer["content"] == {"application/json": envelope}, (path, status)


def test_every_operation_may_fail_and_carries_an_id(document: Any) -> None:
    for item in document["paths"].values():
        for method, operation in item.items():
            assert "500" in operation["responses"]
            for answer in operation["responses"].values():
                assert "x-request-id" in answer["headers"]
                assert ("content" in answer) == (method != "head")


def test_the_headers_of_a_request_are_described(document: Any) -> None:
    parameters = document["paths"]["/v1/completions"]["post"]["parameters"]
    names = {parameter["name"]: parameter["schema"] for parameter in parameters}
    assert names["x-verse-priority"]["enum"] == ["normal", "batch"]
    assert names["x-verse-deadline-seconds"]["exclusiveMinimum"] == 0


def test_a_key_is_described_where_it_is_asked_for(document: Any, connect: Connect) -> None:
    assert "security" not in str(document)
    client = connect(FakeEngine(), ServerConfig(api_key="open sesame"))
    text = client.get("/schema/openapi.json").json()
    assert text["components"]["securitySchemes"]["api_key"]["scheme"] == "bearer"
    assert text["paths"]["/v1/models"]["get"]["security"] == [{"api_key": []}]
    assert text["paths"]["/metrics"]["get"]["security"] == [{"api_key": []}]
    assert "security" not in text["paths"]["/health"]["get"]


def test_an_unknown_path_below_the_schema_is_an_envelope_too(client: Client) -> None:
    for path in ("/schema/nothing", "/schema/nothing.json"):
        response = client.get(path)
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "unknown_url"
