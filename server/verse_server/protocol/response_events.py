"""The events of a streamed response, named as OpenAI names them.

    response.created, response.in_progress
    response.output_item.added          a message
        response.content_part.added
        response.output_text.delta      ...
        response.output_text.done
        response.content_part.done
    response.output_item.done
    response.output_item.added          a call
        response.function_call_arguments.delta      ...
        response.function_call_arguments.done
    response.output_item.done
    response.completed, or response.incomplete, or response.failed and error

An event's tag is its `type` and, in the stream, its name.
"""

import msgspec

from verse_server.protocol.chat import ChatCompletionTokenLogprob
from verse_server.protocol.responses import OutputItem, Response, ResponseOutputText
from verse_server.protocol.shared import ErrorObject


class NumberedEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """What all of them have."""

    sequence_number: int
    """Counts the events of one stream from 0."""


class ResponseCreatedEvent(NumberedEvent, frozen=True, kw_only=True, tag="response.created"):
    """The answer has begun."""

    response: Response


class ResponseInProgressEvent(NumberedEvent, frozen=True, kw_only=True, tag="response.in_progress"):
    """It goes on."""

    response: Response


class ResponseOutputItemAddedEvent(
    NumberedEvent, frozen=True, kw_only=True, tag="response.output_item.added"
):
    """An item begins, empty."""

    output_index: int
    item: OutputItem


class ResponseOutputItemDoneEvent(
    NumberedEvent, frozen=True, kw_only=True, tag="response.output_item.done"
):
    """The whole item."""

    output_index: int
    item: OutputItem


class ItemEvent(NumberedEvent, frozen=True, kw_only=True):
    """Of one item."""

    item_id: str
    output_index: int


class ResponseContentPartAddedEvent(
    ItemEvent, frozen=True, kw_only=True, tag="response.content_part.added"
):
    """A message's text begins."""

    content_index: int = 0
    part: ResponseOutputText


class ResponseContentPartDoneEvent(
    ItemEvent, frozen=True, kw_only=True, tag="response.content_part.done"
):
    """A message's text is finished."""

    content_index: int = 0
    part: ResponseOutputText


class ResponseTextDeltaEvent(
    ItemEvent, frozen=True, kw_only=True, tag="response.output_text.delta"
):
    """The next piece of a text."""

    content_index: int = 0
    delta: str
    logprobs: tuple[ChatCompletionTokenLogprob, ...] = ()


class ResponseTextDoneEvent(ItemEvent, frozen=True, kw_only=True, tag="response.output_text.done"):
    """The whole text."""

    content_index: int = 0
    text: str
    logprobs: tuple[ChatCompletionTokenLogprob, ...] = ()


class ResponseFunctionCallArgumentsDeltaEvent(
    ItemEvent, frozen=True, kw_only=True, tag="response.function_call_arguments.delta"
):
    """The next piece of a call's arguments."""

    delta: str


class ResponseFunctionCallArgumentsDoneEvent(
    ItemEvent, frozen=True, kw_only=True, tag="response.function_call_arguments.done"
):
    """All of them."""

    name: str
    arguments: str


class ResponseCompletedEvent(NumberedEvent, frozen=True, kw_only=True, tag="response.completed"):
    """The whole answer."""

    response: Response


class ResponseIncompleteEvent(NumberedEvent, frozen=True, kw_only=True, tag="response.incomplete"):
    """The answer as far as `max_output_tokens` let it come."""

    response: Response


class ResponseFailedEvent(NumberedEvent, frozen=True, kw_only=True, tag="response.failed"):
    """What there is of an answer that cannot be finished, and why."""

    response: Response


class ResponseErrorEvent(NumberedEvent, frozen=True, kw_only=True, tag="error"):
    """Why, once more; SDKs raise an exception for it."""

    code: str | None
    message: str
    param: str | None
    error: ErrorObject


ResponseStreamEvent = (
    ResponseCreatedEvent
    | ResponseInProgressEvent
    | ResponseOutputItemAddedEvent
    | ResponseOutputItemDoneEvent
    | ResponseContentPartAddedEvent
    | ResponseContentPartDoneEvent
    | ResponseTextDeltaEvent
    | ResponseTextDoneEvent
    | ResponseFunctionCallArgumentsDeltaEvent
    | ResponseFunctionCallArgumentsDoneEvent
    | ResponseCompletedEvent
    | ResponseIncompleteEvent
    | ResponseFailedEvent
    | ResponseErrorEvent
)
