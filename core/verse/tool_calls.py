"""Calls of tools as text, in the form that Qwen's models write and read.

    <tool_call>
    {"name": "count_lines", "arguments": {"poem": "..."}}
    </tool_call>

Several may follow each other, and text may stand before them. What is no whole call is text:
nothing that a model wrote is ever dropped.
"""

from typing import Any, cast

import msgspec

CALL_OPENS = "<tool_call>"
CALL_CLOSES = "</tool_call>"
_RESULT_OPENS = "<tool_response>"
_RESULT_CLOSES = "</tool_response>"


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """One function with its arguments."""

    id: str = ""
    name: str
    arguments: str
    """JSON text; an object, if the model did what it should."""

    def arguments_as_object(self) -> Any:
        """As chat templates want them; the text itself where it is no JSON object."""
        try:
            decoded = msgspec.json.decode(self.arguments)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self.arguments
        return cast(Any, decoded) if isinstance(decoded, dict) else self.arguments


class _Written(msgspec.Struct, frozen=True):
    """What stands between the tags."""

    name: str
    arguments: msgspec.Raw = msgspec.Raw()
    parameters: msgspec.Raw = msgspec.Raw()
    """Some models' word for `arguments`."""


_decoder = msgspec.json.Decoder(_Written)
_text_decoder = msgspec.json.Decoder(str)


def write_call(call: ToolCall) -> str:
    """A call as a model would have written it."""
    name = msgspec.json.encode(call.name).decode()
    is_object = isinstance(call.arguments_as_object(), dict)
    arguments = call.arguments if is_object else msgspec.json.encode(call.arguments).decode()
    content = f'{{"name": {name}, "arguments": {arguments}}}'
    return f"{CALL_OPENS}\n{content}\n{CALL_CLOSES}"


def write_result(content: str) -> str:
    """What a tool gave back, as a user's turn would tell it."""
    return f"{_RESULT_OPENS}\n{content}\n{_RESULT_CLOSES}"


def read_call(written: str) -> ToolCall | None:
    """What stands between the tags as a call, without an id; None if it is none."""
    try:
        call = _decoder.decode(written)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    arguments = (bytes(call.arguments) or bytes(call.parameters)).decode() or "{}"
    if arguments.startswith('"'):  # some models send the JSON as a JSON string
        arguments = _text_decoder.decode(arguments)
    found = ToolCall(name=call.name, arguments=arguments)
    is_call = bool(call.name) and isinstance(found.arguments_as_object(), dict)
    return found if is_call else None


class ToolCallReader:
    """Tells calls from text in an answer that arrives in pieces.

    Text goes through as it comes. Held back are what may become an opening tag, blanks that may
    stand before one, and a call until it is whole.
    """

    def __init__(self) -> None:
        self._held = ""
        self._in_call = False
        self._num_calls = 0

    def push(self, text: str) -> list[str | ToolCall]:
        """Take a piece in; returns what it has made certain, in order."""
        self._held += text
        certain: list[str | ToolCall] = []
        while self._take(certain):
            pass
        return certain

    def flush(self) -> list[str | ToolCall]:
        """The answer has ended: a call may lack its closing tag, anything else is text."""
        held, self._held = self._held, ""
        if not self._in_call:
            # Blanks behind a call are of the form, not of the text.
            return [held] if held.strip() or (held and not self._num_calls) else []
        self._in_call = False
        call = read_call(held[held.index(CALL_OPENS) + len(CALL_OPENS) :])
        return [held] if call is None else [call]

    def _take(self, certain: list[str | ToolCall]) -> bool:
        """Take one text or call off what is held; False if more has to come first."""
        if self._in_call:
            return self._take_call(certain)
        start = self._held.find(CALL_OPENS)
        self._in_call = start >= 0
        if not self._in_call:
            start = _first_uncertain(self._held)
        text = self._held[:start]
        # Blanks before a call stay with it, in case that it is none.
        start = len(text.rstrip()) if self._in_call else start
        if self._held[:start]:
            certain.append(self._held[:start])
        self._held = self._held[start:]
        return self._in_call

    def _take_call(self, certain: list[str | ToolCall]) -> bool:
        begin = self._held.index(CALL_OPENS) + len(CALL_OPENS)
        end = self._held.find(CALL_CLOSES, begin)
        if end < 0:
            return False
        call = read_call(self._held[begin:end])
        end += len(CALL_CLOSES)
        certain.append(self._held[:end] if call is None else call)
        self._num_calls += call is not None
        self._held, self._in_call = self._held[end:], False
        return True


def _first_uncertain(text: str) -> int:
    """Where blanks or a beginning of the opening tag start that end a text; its length if none."""
    longest = min(len(text), len(CALL_OPENS) - 1)
    size = next((n for n in range(longest, 0, -1) if text.endswith(CALL_OPENS[:n])), 0)
    return len(text[: len(text) - size].rstrip())
