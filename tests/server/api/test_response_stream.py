"""A streamed response: OpenAI's events in OpenAI's order, numbered, with their names."""

import json
from pathlib import Path
from typing import Any

from fake_engine import FakeEngine
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter
from test_responses import JUDGE, POEM, RESPONSES, ask, body
from wire import Client, Connect

from verse_server.config import ServerConfig
from verse_server.engine.errors import GenerationFailedError, QueueFullError

OF_A_TEXT = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.delta",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]
_known = TypeAdapter[Any](ResponseStreamEvent)


def events(client: Client, **fields: Any) -> list[Any]:
    answer = client.post(RESPONSES, json=body(stream=True, **fields))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    found: list[Any] = []
    for frame in answer.text.strip().split("\n\n"):
        name, data = frame.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        _known.validate_python(event)
        found.append(event)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def streamed(engine: FakeEngine, connect: Connect, folder: Path, **fields: Any) -> list[Any]:
    client = connect(engine, ServerConfig(state=folder))
    return events(client, **fields)


def test_a_text_grows_event_by_event(connect: Connect, tmp_path: Path) -> None:
    found = streamed(FakeEngine(), connect, tmp_path)
    assert [event["type"] for event in found] == OF_A_TEXT
    deltas = [event["delta"] for event in found if event["type"].endswith("text.delta")]
    assert "".join(deltas) == POEM
    last = found[-1]["response"]
    assert last["output"] == [found[-2]["item"]]
    assert last["output"][0]["content"][0]["text"] == POEM
    assert found[0]["response"]["id"] == last["id"]
    assert last["usage"]["total_tokens"] == 5


def test_the_last_event_is_the_whole_answer_but_for_its_ids(
    connect: Connect, tmp_path: Path
) -> None:
    def plain(response: Any) -> Any:
        items = [{**item, "id": ""} for item in response["output"]]
        times = dict.fromkeys(("id", "created_at", "completed_at"), "")
        return {**response, **times, "output": items}

    client = connect(FakeEngine(), ServerConfig(state=tmp_path))
    whole, last = ask(client, top_logprobs=2), events(client, top_logprobs=2)[-1]
    assert plain(last["response"]) == plain(whole)


def test_a_call_grows_event_by_event(connect: Connect, tmp_path: Path) -> None:
    engine = FakeEngine(['{"mood": ', '"静"}'])
    found = streamed(engine, connect, tmp_path, tools=[JUDGE], tool_choice="required")
    assert [event["type"].removeprefix("response.") for event in found[2:]] == [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    done = found[-3]
    assert (done["name"], done["arguments"]) == ("judge", '{"mood": "静"}')
    assert found[-1]["response"]["output"][0]["arguments"] == done["arguments"]


def test_words_and_then_a_call_are_two_items(connect: Connect, tmp_path: Path) -> None:
    call = '<tool_call>\n{"name": "judge", "arguments": {"mood": "静"}}\n</tool_call>'
    engine = FakeEngine(["好，", call], knows_tools=True)
    found = streamed(engine, connect, tmp_path, tools=[JUDGE])
    output = found[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["message", "function_call"]
    indices = [event["output_index"] for event in found if "output_index" in event]
    assert indices == sorted(indices)
    assert set(indices) == {0, 1}


def test_an_answer_without_any_text_is_an_empty_message(connect: Connect, tmp_path: Path) -> None:
    found = streamed(FakeEngine([""]), connect, tmp_path)
    assert found[-1]["response"]["output"][0]["content"][0]["text"] == ""


def test_an_answer_that_is_cut_off_ends_as_incomplete(connect: Connect, tmp_path: Path) -> None:
    found = streamed(FakeEngine(finish_reason="length"), connect, tmp_path)
    assert found[-1]["type"] == "response.incomplete"
    assert found[-2]["item"]["status"] == "incomplete"
    assert found[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


def test_an_engine_that_breaks_ends_it_as_failed(connect: Connect, tmp_path: Path) -> None:
    engine = FakeEngine(late_error=GenerationFailedError("The engine broke."))
    failed, error = streamed(engine, connect, tmp_path)[-2:]
    assert failed["type"] == "response.failed"
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"] == {"code": "server_error", "message": "The engine broke."}
    assert error["type"] == "error"
    assert error["code"] == error["error"]["code"] == "generation_failed"


def test_what_is_refused_before_the_first_token_is_an_http_error(
    connect: Connect, tmp_path: Path
) -> None:
    engine = FakeEngine(first_error=QueueFullError(7, 2))
    client = connect(engine, ServerConfig(state=tmp_path))
    answer = client.post(RESPONSES, json=body(stream=True))
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "2"
