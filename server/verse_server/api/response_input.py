"""What a `CreateResponse` asks for, as the chat that it is: items become messages, fields fields.

What is wrong is named as the request names it, not as the chat would.
"""

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from verse_server.api.errors import RequestError, translate
from verse_server.engine.errors import InvalidRequestError
from verse_server.protocol.chat import (
    ChatCompletionMessageParam,
    ChatCompletionRequest,
    JSONSchema,
    ResponseFormat,
    ResponseFormatJSONSchema,
)
from verse_server.protocol.responses import (
    MAX_ITEMS,
    AllowedToolsChoice,
    CreateResponse,
    FunctionTool,
    FunctionToolChoice,
    ItemText,
    ResponseFormatTextJSONSchema,
    ResponseFunctionCallOutput,
    ResponseFunctionToolCall,
    ResponseInputItem,
    ResponseInputText,
    ResponseItem,
    ResponseMessage,
    ResponseOutputText,
    ResponseToolChoice,
)
from verse_server.protocol.shared import ChatCompletionStreamOptions
from verse_server.protocol.tools import (
    AllowedTool,
    AllowedTools,
    ChatCompletionAllowedToolChoice,
    ChatCompletionMessageToolCallParam,
    ChatCompletionNamedToolChoice,
    ChatCompletionTool,
    FunctionCallParam,
    FunctionDefinition,
    ToolChoice,
    ToolChoiceFunction,
)

_LOGPROBS = "message.output_text.logprobs"
_FIELDS: Mapping[str, tuple[frozenset[str], tuple[str, ...]]] = {
    "message": (frozenset({"role", "content", "phase"}), ("role", "content")),
    "function_call": (
        frozenset({"call_id", "name", "arguments"}),
        ("call_id", "name", "arguments"),
    ),
    "function_call_output": (frozenset({"call_id", "output", "name"}), ("call_id", "output")),
    "reasoning": (frozenset({"summary", "content", "encrypted_content"}), ()),
    "item_reference": (frozenset[str](), ("id",)),
}
"""Of each type of item: the fields it may have beside `id` and `status`, and those it must have."""
_OF_ALL = frozenset({"type", "id", "status"})
_NAMES = {
    "messages": "input",
    "response_format": "text.format",
    "max_tokens": "max_output_tokens",
    "logprobs": "include",
}
"""What the chat's fields are called here."""
_SHARED = (
    *("model", "temperature", "top_p", "stream", "user", "seed", "adapters", "top_k", "min_p"),
    *("repetition_penalty", "frequency_penalty", "presence_penalty", "stop"),
    *("parallel_tool_calls", "metadata"),
)


def type_of(item: ResponseInputItem) -> str:
    """The type of an item that may leave it out."""
    if item.type is not None:
        return item.type
    is_reference = item.id is not None and item.role is None and item.content is None
    return "item_reference" if is_reference else "message"


def check_items(items: Iterable[ResponseInputItem]) -> None:
    """Refuse items whose fields do not go with their type.

    Raises:
        RequestError: 400 with `param`.
    """
    for number, item in enumerate(items):
        kind, at = type_of(item), f"input[{number}]"
        allowed, required = _FIELDS[kind]
        for name in ResponseInputItem.__struct_fields__:
            is_given = getattr(item, name) is not None
            if name in required and not is_given:
                raise RequestError(
                    f"Missing required parameter: '{at}.{name}'.",
                    param=f"{at}.{name}",
                    code="missing_required_parameter",
                )
            if is_given and name not in allowed | _OF_ALL:
                raise RequestError(
                    f"'{at}.{name}' is not for items of type '{kind}'; leave it out.",
                    param=f"{at}.{name}",
                )
        for name in ("content", "output"):
            _check_text(getattr(item, name), f"{at}.{name}")


def _check_text(text: ItemText | None, at: str) -> None:
    if text is None or isinstance(text, str):
        return
    for number, part in enumerate(text):
        name = "refusal" if part.type == "refusal" else "text"
        if getattr(part, name) is None:
            raise RequestError(
                f"Missing required parameter: '{at}[{number}].{name}'.",
                param=f"{at}[{number}].{name}",
                code="missing_required_parameter",
            )


def own_items(request: CreateResponse) -> list[ResponseInputItem]:
    """The items that a request brings itself; a text is a user's message.

    Raises:
        RequestError: it brings nothing, and goes on from nothing.
    """
    if request.input is None:
        if request.previous_response_id is None:
            raise RequestError(
                "Missing required parameter: 'input'.",
                param="input",
                code="missing_required_parameter",
            )
        return []
    if isinstance(request.input, str):
        return [ResponseInputItem(role="user", content=request.input)]
    return request.input


def resources(items: Iterable[ResponseInputItem]) -> list[ResponseItem]:
    """Items as they are stored and listed, each with an id. Thoughts are left out."""
    return [resource for item in items if (resource := _resource(item)) is not None]


def _resource(item: ResponseInputItem) -> ResponseItem | None:
    status = item.status or "completed"
    match type_of(item):
        case "message":
            role = item.role or "user"
            kind = ResponseOutputText if role == "assistant" else ResponseInputText
            parts = (kind(text=_plain(item.content)),)
            return ResponseMessage(id=_id(item, "msg"), role=role, status=status, content=parts)
        case "function_call":
            return ResponseFunctionToolCall(
                id=_id(item, "fc"),
                call_id=item.call_id or "",
                name=item.name or "",
                arguments=item.arguments or "",
                status=status,
            )
        case "function_call_output":
            return ResponseFunctionCallOutput(
                id=_id(item, "fco"),
                call_id=item.call_id or "",
                output=_plain(item.output),
                status=status,
            )
        case _:
            return None


def _id(item: ResponseInputItem, prefix: str) -> str:
    return item.id or new_id(prefix)


def new_id(prefix: str) -> str:
    """An id that nothing else has: `msg_...`, `resp_...`."""
    return f"{prefix}_{uuid.uuid4().hex}"


def _plain(text: ItemText | None) -> str:
    if text is None or isinstance(text, str):
        return text or ""
    return "".join(part.refusal or part.text or "" for part in text)


def chat_request(request: CreateResponse, items: Sequence[ResponseItem]) -> ChatCompletionRequest:
    """The chat that is asked for.

    Args:
        request: What was sent.
        items: The conversation: what was stored before, and what the request brings.

    Raises:
        RequestError: there are no messages, or too many.
    """
    messages = [*_messages(request.instructions, items)]
    if not items or len(messages) > MAX_ITEMS:
        bound = f"at most {MAX_ITEMS} items" if items else "at least one item"
        raise RequestError(f"A conversation has {bound}; send 'input' so.", param="input")
    num_top = request.top_logprobs or 0
    choice = request.tool_choice
    shared: dict[str, Any] = {name: getattr(request, name) for name in _SHARED}
    return ChatCompletionRequest(
        **shared,
        messages=messages,
        max_completion_tokens=request.max_output_tokens,
        logprobs=num_top > 0 or _LOGPROBS in (request.include or ()),
        top_logprobs=num_top,
        response_format=_format(request),
        tools=None if request.tools is None else [*map(_tool, request.tools)],
        tool_choice=None if choice is None else _tool_choice(choice),
        reasoning_effort=None if request.reasoning is None else request.reasoning.effort,
        stream_options=ChatCompletionStreamOptions(include_usage=True) if request.stream else None,
    )


def _messages(
    instructions: str | None, items: Iterable[ResponseItem]
) -> Iterator[ChatCompletionMessageParam]:
    if instructions is not None:
        yield ChatCompletionMessageParam(role="system", content=instructions)
    said: ResponseMessage | None = None
    calls: list[ResponseFunctionToolCall] = []
    for item in items:
        if isinstance(item, ResponseFunctionToolCall):
            calls.append(item)
            continue
        yield from _assistant(said, calls)
        said, calls = None, []
        match item:
            case ResponseMessage(role="assistant"):
                said = item
            case ResponseMessage():
                yield ChatCompletionMessageParam(role=item.role, content=_text_of(item))
            case ResponseFunctionCallOutput():
                yield ChatCompletionMessageParam(
                    role="tool", content=item.output, tool_call_id=item.call_id
                )
    yield from _assistant(said, calls)


def _assistant(
    said: ResponseMessage | None, calls: Sequence[ResponseFunctionToolCall]
) -> Iterator[ChatCompletionMessageParam]:
    """A chat has what was said and what was called right after it in one message."""
    if said is None and not calls:
        return
    made = [
        ChatCompletionMessageToolCallParam(
            id=call.call_id,
            type="function",
            function=FunctionCallParam(name=call.name, arguments=call.arguments),
        )
        for call in calls
    ]
    text = "" if said is None else _text_of(said)
    yield ChatCompletionMessageParam(role="assistant", content=text, tool_calls=made or None)


def _text_of(message: ResponseMessage) -> str:
    return "".join(part.text for part in message.content)


def _format(request: CreateResponse) -> ResponseFormat | None:
    wanted = None if request.text is None else request.text.format
    if not isinstance(wanted, ResponseFormatTextJSONSchema):
        return wanted
    schema = JSONSchema(name=wanted.name, schema=wanted.schema, strict=wanted.strict)
    return ResponseFormatJSONSchema(json_schema=schema)


def _tool(tool: FunctionTool) -> ChatCompletionTool:
    function = FunctionDefinition(
        name=tool.name,
        description=tool.description,
        parameters=tool.parameters,
        strict=tool.strict,
    )
    return ChatCompletionTool(type="function", function=function)


def _tool_choice(choice: ResponseToolChoice) -> ToolChoice:
    match choice:
        case FunctionToolChoice():
            return ChatCompletionNamedToolChoice(function=ToolChoiceFunction(name=choice.name))
        case AllowedToolsChoice():
            tools = [
                AllowedTool(type="function", function=ToolChoiceFunction(name=tool.name))
                for tool in choice.tools
            ]
            return ChatCompletionAllowedToolChoice(
                allowed_tools=AllowedTools(mode=choice.mode, tools=tools)
            )
        case _:
            return choice


def renamed(error: RequestError | InvalidRequestError) -> RequestError:
    """A complaint about the chat in the words of the request that it was made of."""
    failure = translate(error)
    message, param = failure.message, failure.param
    message = message.replace("your messages", "your input").replace("of the messages", "of it")
    for chat, response in _NAMES.items():
        message = message.replace(f"'{chat}'", f"'{response}'")
    return RequestError(
        message,
        param=_NAMES.get(param or "", param),
        code=failure.code or "invalid_value",
        status=failure.status,
        headers=failure.headers,
    )
