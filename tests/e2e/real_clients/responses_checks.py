"""The Responses API by the openai SDK for Python.

`OPENAI_BASE_URL` and `OPENAI_API_KEY` name the server.
"""

import asyncio
import json
import time
from typing import Any, Literal

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, ConfigDict, Field


class Verdict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    mood: Literal["静", "悲", "喜"]
    score: int = Field(ge=0, le=10)


SEED = {"seed": 3}
JUDGE: Any = {
    "type": "function",
    "name": "judge",
    "strict": True,
    "parameters": Verdict.model_json_schema(),
}


def poem(**fields: Any) -> dict[str, Any]:
    return {"model": "xuzhimo", "input": "河", "extra_body": SEED, **fields}


def test_a_response_is_what_a_chat_writes() -> None:
    with OpenAI(max_retries=0) as client:
        response = client.responses.create(**poem(max_output_tokens=16))
        chat = client.chat.completions.create(
            model="xuzhimo",
            messages=[{"role": "user", "content": "河"}],
            max_tokens=16,
            extra_body=SEED,
        )
        assert response.output_text == chat.choices[0].message.content
        assert response.usage is not None
        assert chat.usage is not None
        assert response.usage.total_tokens == chat.usage.total_tokens
        assert response.status == "incomplete"


def test_a_stream_and_its_helper_have_the_same_text_and_a_conversation_goes_on() -> None:
    async def work() -> None:
        async with AsyncOpenAI(max_retries=0) as client:
            whole = await client.responses.create(**poem(extra_body={**SEED, "stop": "\n"}))
            stream = await client.responses.create(
                **poem(extra_body={**SEED, "stop": "\n"}), stream=True
            )
            events = [event async for event in stream]
            deltas = [e.delta for e in events if e.type == "response.output_text.delta"]
            assert "".join(deltas) == whole.output_text
            assert [event.sequence_number for event in events] == list(range(len(events)))
            helped = client.responses.stream(**poem(extra_body={**SEED, "stop": "\n"}))
            async with helped as helper:
                final = await helper.get_final_response()
            assert final.output_text == whole.output_text
            again = await client.responses.create(
                **poem(input="再写一首", previous_response_id=final.id)
            )
            assert again.usage is not None
            assert whole.usage is not None
            assert again.usage.input_tokens > whole.usage.input_tokens

    asyncio.run(work())


def test_a_schema_is_parsed_whole_and_streamed() -> None:
    with OpenAI(max_retries=0) as client:
        parsed = client.responses.parse(**poem(text_format=Verdict))
        assert isinstance(parsed.output_parsed, Verdict)
        with client.responses.stream(**poem(text_format=Verdict)) as events:
            final = events.get_final_response()
        assert final.output_parsed == parsed.output_parsed


def test_a_function_is_called_and_told_its_result() -> None:
    with OpenAI(max_retries=0) as client:
        asked = poem(tools=[JUDGE], tool_choice={"type": "function", "name": "judge"})
        first = client.responses.create(**asked)
        call = first.output[0]
        assert call.type == "function_call"
        Verdict.model_validate_json(call.arguments)
        with client.responses.stream(**asked) as events:
            streamed = events.get_final_response().output[0]
        assert streamed.type == "function_call"
        assert json.loads(streamed.arguments) == json.loads(call.arguments)
        result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "四行"}
        told = client.responses.create(
            **poem(input=[result], previous_response_id=first.id, tools=[JUDGE], tool_choice="none")
        )
        assert told.output_text
        turns: Any = [{"role": "user", "content": "河"}, *first.output, result]
        assert client.responses.create(**poem(input=turns)).output_text


def test_stored_responses_are_found_listed_and_deleted() -> None:
    with OpenAI(max_retries=0) as client:
        first = client.responses.create(
            **poem(top_logprobs=2, include=["message.output_text.logprobs"])
        )
        found = client.responses.retrieve(first.id)
        assert found.model_dump() == first.model_dump()
        second = client.responses.create(**poem(previous_response_id=first.id))
        items = list(client.responses.input_items.list(second.id, limit=1))
        assert [item.type for item in items] == ["message"] * 3
        client.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(first.id)
        kept = client.responses.create(**poem(store=False))
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(kept.id)


def test_what_is_not_supported_is_named() -> None:
    with OpenAI(max_retries=0) as client:
        for fields in ({"background": True}, {"tools": [{"type": "web_search"}]}):
            with pytest.raises(openai.BadRequestError) as caught:
                client.responses.create(**poem(**fields))
            assert caught.value.param in ("background", "tools[0].type")


def test_a_batch_of_responses_is_answered_and_another_one_cancelled() -> None:
    rows = [
        {
            "custom_id": f"poem-{number}",
            "method": "POST",
            "url": "/v1/responses",
            "body": {"model": "xuzhimo", "input": "河", "seed": number, "max_output_tokens": 400},
        }
        for number in range(40)
    ]
    lines = "\n".join(json.dumps(row) for row in rows).encode()
    with OpenAI(max_retries=0) as client:
        file = client.files.create(file=("rows.jsonl", lines), purpose="batch")
        first, second = (
            client.batches.create(
                input_file_id=file.id, endpoint="/v1/responses", completion_window="24h"
            )
            for _ in range(2)
        )
        assert client.batches.cancel(second.id).status == "cancelling"
        for id_, status in ((first.id, "completed"), (second.id, "cancelled")):
            while (batch := client.batches.retrieve(id_)).status not in (status, "failed"):
                time.sleep(0.1)
            assert batch.status == status
        assert {first.id, second.id} <= {batch.id for batch in client.batches.list(limit=1)}
        output = client.batches.retrieve(first.id).output_file_id
        assert output is not None
        results = [json.loads(line) for line in client.files.content(output).text.splitlines()]
        assert [result["custom_id"] for result in results] == [row["custom_id"] for row in rows]
        assert all(result["response"]["body"]["output"] for result in results)
