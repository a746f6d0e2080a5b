"""Tools on the wire: functions that a client has, and the calls an answer makes of them."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from verse_server.protocol.shared import RequestStruct

FunctionName = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class FunctionDefinition(RequestStruct, frozen=True):
    """A function that the client can call."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """JSON schema of the arguments, an object; left out, the function takes none."""
    strict: bool | None = None
    """Changes nothing: arguments of a call that must be made always follow the schema, and those of
    a call that the model chose to make are its own (`tool_choice: auto`)."""


class ChatCompletionTool(RequestStruct, frozen=True):
    """One of the client's tools; OpenAI's `custom` ones are not known here."""

    type: Literal["function"]
    function: FunctionDefinition


class ToolChoiceFunction(RequestStruct, frozen=True):
    """Names one of the functions."""

    name: FunctionName


class ChatCompletionNamedToolChoice(RequestStruct, frozen=True, tag_field="type", tag="function"):
    """The answer is a call of this function."""

    function: ToolChoiceFunction


class AllowedTool(RequestStruct, frozen=True):
    """Names one of `tools`."""

    type: Literal["function"]
    function: ToolChoiceFunction


class AllowedTools(RequestStruct, frozen=True):
    """Some of `tools`, and whether one has to be called."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[AllowedTool], Meta(min_length=1)]


class ChatCompletionAllowedToolChoice(
    RequestStruct, frozen=True, tag_field="type", tag="allowed_tools"
):
    """As if the request had brought these tools alone."""

    allowed_tools: AllowedTools


ToolChoice = (
    Literal["none", "auto", "required"]
    | ChatCompletionNamedToolChoice
    | ChatCompletionAllowedToolChoice
)


class FunctionCallParam(RequestStruct, frozen=True):
    """What was called in an earlier turn."""

    name: str
    arguments: str
    """JSON, as the answer had it."""


class ChatCompletionMessageToolCallParam(RequestStruct, frozen=True):
    """A call of an earlier turn, sent back as it came."""

    id: str
    type: Literal["function"]
    function: FunctionCallParam


class FunctionCall(msgspec.Struct, frozen=True, kw_only=True):
    """What is called; OpenAI calls it `Function`."""

    name: str
    arguments: str
    """JSON of an object."""


class ChatCompletionMessageToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call for the client to make."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class FunctionCallDelta(msgspec.Struct, frozen=True, kw_only=True):
    """What one chunk adds to a call: the name first, then the arguments piece by piece."""

    name: str | UnsetType = UNSET
    arguments: str


class ChoiceDeltaToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call in a stream; `id`, `type` and the name come with its first piece."""

    index: int
    """Which of the calls."""
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET
    function: FunctionCallDelta
