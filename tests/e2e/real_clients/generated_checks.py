"""The client that openapi-python-client made of the server's own document: all of it answers."""

# pyright: reportMissingImports=false
import os

from verse_client import AuthenticatedClient
from verse_client.api.chat import v1_chat_completions_create as chat
from verse_client.api.completions import v1_completions_create as completions
from verse_client.api.models import v1_models_get_list as models
from verse_client.api.tokenizer import tokenize_tokenize as tokenize
from verse_client.models import (
    ChatCompletionMessageParam,
    ChatCompletionMessageParamRole,
    ChatCompletionRequest,
    CompletionRequest,
    ErrorResponse,
    ResponseFormatJSONObject,
    ResponseFormatJSONObjectType,
    TokenizeRequest,
)

CLIENT = AuthenticatedClient(
    base_url=os.environ["OPENAI_BASE_URL"].removesuffix("/v1"),
    token=os.environ["OPENAI_API_KEY"],
    timeout=120,
)
RIVER = [ChatCompletionMessageParam(role=ChatCompletionMessageParamRole.USER, content="河")]


def test_a_chat_is_answered_and_every_part_of_the_answer_is_read() -> None:
    body = ChatCompletionRequest(
        model="xuzhimo", messages=RIVER, max_tokens=20, seed=1, logprobs=True, top_logprobs=2, n=2
    )
    answer = chat.sync(client=CLIENT, body=body)
    assert len(answer.choices) == 2
    choice = answer.choices[0]
    assert choice.message.content
    assert choice.logprobs.content[0].top_logprobs[1].logprob < 0
    assert answer.usage.completion_tokens > 0


def test_a_form_can_be_asked_for() -> None:
    wanted = ResponseFormatJSONObject(type_=ResponseFormatJSONObjectType.JSON_OBJECT)
    body = ChatCompletionRequest(model="base", messages=RIVER, max_tokens=8, response_format=wanted)
    assert chat.sync(client=CLIENT, body=body).choices[0].message.content.startswith("{")


def test_a_refusal_is_read_too() -> None:
    body = ChatCompletionRequest(model="base", messages=RIVER, temperature=3)
    refused = chat.sync_detailed(client=CLIENT, body=body)
    assert refused.status_code == 400
    assert isinstance(refused.parsed, ErrorResponse)
    assert refused.parsed.error.code == "decimal_above_max_value"


def test_texts_are_continued() -> None:
    body = CompletionRequest(model="libai", prompt=["床前", "月"], max_tokens=5, logprobs=1)
    answer = completions.sync(client=CLIENT, body=body)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.choices[0].logprobs.tokens


def test_models_and_tokens_are_listed() -> None:
    listed = models.sync(client=CLIENT)
    assert {"xuzhimo", "verse-tiny"} <= {model.id for model in listed.data}
    counted = tokenize.sync(client=CLIENT, body=TokenizeRequest(prompt="河水"))
    assert counted.count == len(counted.tokens) > 0
