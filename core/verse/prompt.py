"""How messages become token ids: one `render` that trainer and server share.

A poem is written well only in the frame it was trained in, so the frame is a contract, recorded
beside each adapter as `prompt.json`. Three formats:

- `chat`: the model's own chat template, thinking off. The default.
- `seed-chatml`: ChatML with a space wherever Qwen's template has a newline, nothing after
  `assistant`, and an answer that begins with a space. The original project's adapters were trained
  in it.
- `seed-generate`: that string, sent as the user turn of the real template under Qwen's default
  system message. The original project's poems were made with it.

Themes and poems are text. What looks like a special token inside them is encoded as the characters
it consists of.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, cast

import msgspec

from verse.tool_calls import ToolCall, ToolCallReader, write_call, write_result

_NO_TEMPLATE = (
    "The model's tokenizer has no chat template: copy chat_template.jinja into its folder, or "
    "continue plain texts with /v1/completions."
)
POEM_SYSTEM = "用户会给出一个主题，请按照给定的主题，切实准确简洁且情感丰富地写一首现代诗"
QWEN_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
THEME_SLOT = "{theme}"
"""Stands for the theme in a prompt variant."""

Role = Literal["system", "user", "assistant"]
FormatName = Literal["chat", "seed-chatml", "seed-generate"]


class PromptError(ValueError):
    """The messages cannot be put into this format; the text says why."""


class Message(msgspec.Struct, frozen=True):
    """One turn of a conversation."""

    role: Role
    content: str


class ToolCallMessage(Message, frozen=True, kw_only=True):
    """An assistant's turn that called tools; `content` is what it said besides."""

    calls: tuple[ToolCall, ...]


class ToolResultMessage(Message, frozen=True, kw_only=True):
    """What a tool gave back. It is a user's turn for templates that know no tools."""

    call_id: str


Tool = Mapping[str, Any]
"""A function in OpenAI's form, as chat templates take it: `{"type": "function", ...}`."""


class PromptFormat(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What `prompt.json` holds: the frame an adapter was trained in."""

    format: FormatName = "chat"
    system: str | None = None
    """Used when the messages bring no system message of their own."""
    stop: tuple[str, ...] = ()
    """Ends an answer, besides the tokenizer's own end tokens."""
    template_sha256: str | None = None
    """Hash of the chat template it was trained with; None where the frame needs no template."""

    @property
    def answer_prefix(self) -> str:
        """What stands between the frame and the answer proper."""
        return " " if self.format == "seed-chatml" else ""

    def with_system(self, messages: Sequence[Message]) -> list[Message]:
        """The messages, led by the recorded system message if they have none."""
        if self.system is None or any(m.role == "system" for m in messages):
            return list(messages)
        return [Message("system", self.system), *messages]


class FrameOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the frame around a conversation ends, and what its template is told."""

    add_generation_prompt: bool = False
    """Open an assistant's turn at the end, for the model to write."""
    continue_final_message: bool = False
    """Leave the last message open, which is an assistant's, for the model to go on with."""
    variables: dict[str, Any] = {}
    """For the model's own template; those that it does not read change nothing."""


OPEN_ANSWER = FrameOptions(add_generation_prompt=True)
"""What a chat asks for, unless it says otherwise."""


class Rendered(msgspec.Struct, frozen=True):
    """Token ids, and which of them the assistant wrote (its end token included)."""

    token_ids: tuple[int, ...]
    mask: tuple[bool, ...]


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that rendering needs."""

    def get_added_vocab(self) -> dict[str, int]:
        """Special and added tokens with their ids."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Text to token ids."""
        ...

    def apply_chat_template(
        self, conversation: list[dict[str, Any]], **kwargs: Any
    ) -> Any:  # str with tokenize=False
        """The model's own frame around a conversation."""
        ...


class _Marks(msgspec.Struct, frozen=True):
    """Three characters that occur in no message; they pass the chat template and are cut out."""

    open: str
    """An answer begins."""
    close: str
    """An answer ends; the special token that follows still belongs to it."""
    cut: str
    """Breaks a look-alike of a special token in two."""

    @classmethod
    def absent_from(cls, texts: Sequence[str]) -> "_Marks":
        # Plane 15 is for private use: no text carries these, and templates do not touch them.
        usual = [chr(code) for code in range(0xF0000, 0xF0003)]
        if not any(mark in text for text in texts for mark in usual):
            return cls(*usual)
        used = set[str]().union(*texts)
        free = (chr(code) for code in range(0xF0000, 0xFFFFE) if chr(code) not in used)
        return cls(next(free), next(free), next(free))


def render(
    messages: Sequence[Message],
    prompt_format: PromptFormat,
    tokenizer: Tokenizer,
    options: FrameOptions | None = None,
    *,
    add_generation_prompt: bool = False,
    tools: Sequence[Tool] | None = None,
) -> Rendered:
    """Encode a conversation in one of the three formats.

    The ids of a training row begin with exactly the ids the server would send for its messages
    without the answer.

    Args:
        messages: The turns. No system message is added here; see `PromptFormat.with_system`.
        prompt_format: The frame; only `format` is read.
        tokenizer: A Hugging Face tokenizer, not mlx-lm's wrapper.
        options: How the frame ends, and what its template is told.
        add_generation_prompt: In short for the option of this name.
        tools: For a chat template that knows tools (see `template_knows_tools`): those that may be
            called. None shows calls and results of earlier turns as text, in Qwen's form.

    Raises:
        PromptError: there are no messages, there is none to go on with, or the chat template
            refuses or changes them.
    """
    options = options or FrameOptions(add_generation_prompt=add_generation_prompt)
    specials = _specials(tokenizer)
    look_alike = _any_of(specials)
    shown = list(tools or ()) if prompt_format.format == "chat" else []
    native = tools is not None and prompt_format.format == "chat"
    turns = list(messages) if native else [_without_tools(m) for m in messages]
    turns, options = _with_open_end(turns, options)
    given = _json_text([shown, options.variables])
    marks = _Marks.absent_from([*map(_all_text, turns), given])

    def guard(text: str) -> str:
        return _cut_apart(text, look_alike, marks.cut)

    turns = [_guarded(m, guard) for m in turns]
    shown = [_mapped(tool, guard) for tool in shown]
    variables = {name: _mapped(value, guard) for name, value in options.variables.items()}
    options = msgspec.structs.replace(options, variables=variables)
    text = _frame(turns, shown, prompt_format, tokenizer, marks, options)
    if options.continue_final_message:
        text = text[: text.rindex(marks.close)]
    return _encode(text, specials, look_alike, marks, tokenizer)


def _with_open_end(
    messages: list[Message], options: FrameOptions
) -> tuple[list[Message], FrameOptions]:
    """Going on with an answer that has not begun is to begin one."""
    if not messages:
        raise PromptError("There are no messages to render.")
    if not options.continue_final_message:
        return messages, options
    last = messages[-1]
    if not _is_answer(last):
        raise PromptError("The last message to be continued must be an assistant's.")
    if last.content:
        return messages, options
    begun = msgspec.structs.replace(
        options, add_generation_prompt=True, continue_final_message=False
    )
    return _with_open_end(messages[:-1], begun)


def template_knows_tools(tokenizer: Tokenizer) -> bool:
    """Whether a chat template shows tools, their results, and calls in a form we can read.

    Found by trying, since templates that know tools have nothing else in common.
    """
    call = ToolCall(id="call_1", name="probe_tool", arguments='{"probe_key":"probe_value"}')
    function = {"name": call.name, "description": "probe_use", "parameters": {"type": "object"}}
    turns = [
        Message("user", "probe"),
        ToolCallMessage("assistant", "", calls=(call,)),
        ToolResultMessage("user", "probe_result", call_id=call.id),
    ]
    tool = {"type": "function", "function": function}
    conversation = [_for_template(turn, None) for turn in turns]
    try:
        text = _apply_template(conversation, [tool], tokenizer, OPEN_ANSWER)
    except PromptError:
        return False
    reader = ToolCallReader()
    calls = [part for part in reader.push(text) if isinstance(part, ToolCall)]
    same = [c for c in calls if c.arguments_as_object() == call.arguments_as_object()]
    return "probe_use" in text and "probe_result" in text and len(same) == 1


def fill_variant(variant: str | None, theme: str) -> str:
    """What a user's turn says; None, or a variant with no place for it, is the theme alone."""
    if variant is None or THEME_SLOT not in variant:
        return theme
    return variant.replace(THEME_SLOT, theme)


def _specials(tokenizer: Tokenizer) -> dict[str, int]:
    """The tokens that are no text. Added characters and spaces are: some tokenizers have those."""
    added = tokenizer.get_added_vocab()
    return {token: token_id for token, token_id in added.items() if len(token.strip()) > 1}


def _any_of(tokens: dict[str, int]) -> re.Pattern[str]:
    """A pattern for any of them, the longest first; it never matches if there are none."""
    ordered = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(re.escape(token) for token in ordered) or r"(?!)")


def _cut_apart(content: str, look_alike: re.Pattern[str], cut: str) -> str:
    """Put `cut` after the first character of everything that would be parsed as a special token."""
    cut_content = look_alike.sub(lambda match: match[0][0] + cut + match[0][1:], content)
    # What is left of one look-alike may complete another; each round cuts, so this ends.
    return cut_content if cut_content == content else _cut_apart(cut_content, look_alike, cut)


def _without_tools(message: Message) -> Message:
    """A turn for a frame that knows no tools: calls and results become text."""
    if isinstance(message, ToolCallMessage):
        written = [write_call(call) for call in message.calls]
        return Message("assistant", "\n".join([message.content, *written]).lstrip("\n"))
    if isinstance(message, ToolResultMessage):
        return Message("user", write_result(message.content))
    return message


def _all_text(message: Message) -> str:
    calls = message.calls if isinstance(message, ToolCallMessage) else ()
    return message.content + _json_text([(c.name, c.arguments_as_object()) for c in calls])


def _json_text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _guarded(message: Message, guard: Callable[[str], str]) -> Message:
    content = guard(message.content)
    if not isinstance(message, ToolCallMessage):
        return msgspec.structs.replace(message, content=content)
    calls = tuple(
        msgspec.structs.replace(
            call,
            name=guard(call.name),
            arguments=_guarded_arguments(call, guard),
        )
        for call in message.calls
    )
    return msgspec.structs.replace(message, content=content, calls=calls)


def _guarded_arguments(call: ToolCall, guard: Callable[[str], str]) -> str:
    """Decoded first, because JSON can spell a special token with escapes."""
    arguments = call.arguments_as_object()
    return guard(arguments) if isinstance(arguments, str) else _json_text(_mapped(arguments, guard))


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """JSON with every text in it changed, names of fields too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        items = cast(Mapping[str, Any], value).items()
        return {change(key): _mapped(item, change) for key, item in items}
    if isinstance(value, list):
        return [_mapped(item, change) for item in cast(list[Any], value)]
    return value


def _frame(
    messages: Sequence[Message],
    tools: Sequence[Tool],
    prompt_format: PromptFormat,
    tokenizer: Tokenizer,
    marks: _Marks,
    options: FrameOptions,
) -> str:
    if prompt_format.format == "seed-chatml":
        return _seed_frame(messages, marks, options.add_generation_prompt)
    if prompt_format.format == "seed-generate":
        messages = _wrapped_again(messages, marks)
    conversation = [_for_template(m, marks) for m in messages]
    text = _apply_template(conversation, tools, tokenizer, options)
    kept = re.findall(f"{marks.open}|{marks.close}", text)
    if kept != [marks.open, marks.close] * sum(_is_answer(m) for m in messages):
        raise PromptError("The model's chat template does not keep the assistant's messages whole.")
    return text


def _is_answer(message: Message) -> bool:
    return message.role == "assistant" and not isinstance(message, ToolCallMessage)


def _for_template(message: Message, marks: _Marks | None) -> dict[str, Any]:
    """A turn as chat templates take it; answers are marked."""
    if isinstance(message, ToolResultMessage):
        return {"role": "tool", "content": message.content, "tool_call_id": message.call_id}
    if isinstance(message, ToolCallMessage):
        calls = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments_as_object()},
            }
            for call in message.calls
        ]
        return {"role": "assistant", "content": message.content, "tool_calls": calls}
    if marks is None or message.role != "assistant":
        return {"role": message.role, "content": message.content}
    return {"role": "assistant", "content": _marked(message.content, marks)}


def _apply_template(
    conversation: list[dict[str, Any]],
    tools: Sequence[Tool],
    tokenizer: Tokenizer,
    options: FrameOptions,
) -> str:
    try:
        text = tokenizer.apply_chat_template(
            conversation,
            tokenize=False,
            add_generation_prompt=options.add_generation_prompt,
            **{"enable_thinking": False, **options.variables},
            **({"tools": list(tools)} if tools else {}),
        )
    except Exception as error:  # jinja's own errors, and ValueError for a missing template
        if not getattr(tokenizer, "chat_template", True):
            raise PromptError(_NO_TEMPLATE) from error
        raise PromptError(f"The model's chat template refuses these messages: {error}") from error
    if not isinstance(text, str):
        raise PromptError("The model's chat template gave no text.")
    return text


def _marked(content: str, marks: _Marks) -> str:
    return f"{marks.open}{content}{marks.close}"


def _seed_frame(messages: Sequence[Message], marks: _Marks, add_generation_prompt: bool) -> str:
    turns = [
        f"<|im_start|>{m.role}"
        + (_marked(f" {m.content}", marks) if m.role == "assistant" else f" {m.content}")
        + "<|im_end|>"
        for m in messages
    ]
    return " ".join(turns + ["<|im_start|>assistant"] * add_generation_prompt)


def _wrapped_again(messages: Sequence[Message], marks: _Marks) -> list[Message]:
    """The seed string of everything before an answer becomes that answer's user turn."""
    wrapped = [Message("system", QWEN_SYSTEM)]
    asked: list[Message] = []
    for message in messages:
        if message.role == "assistant":
            wrapped += [Message("user", _seed_frame(asked, marks, True)), message]
            asked = []
        else:
            asked.append(message)
    if asked:
        wrapped.append(Message("user", _seed_frame(asked, marks, True)))
    return wrapped


def _encode(
    text: str,
    specials: dict[str, int],
    look_alike: re.Pattern[str],
    marks: _Marks,
    tokenizer: Tokenizer,
) -> Rendered:
    token_ids: list[int] = []
    mask: list[bool] = []
    answering = closing = False
    for piece in _pieces(text, look_alike, marks):
        if piece == marks.open:
            answering = True
        elif piece == marks.close:
            answering, closing = False, True
        elif piece != marks.cut:
            special = specials.get(piece)
            piece_ids = (
                tokenizer.encode(piece, add_special_tokens=False) if special is None else [special]
            )
            token_ids += piece_ids
            is_answer = answering or (closing and special is not None)
            mask += [is_answer] * len(piece_ids)
            closing = False
    return Rendered(tuple(token_ids), tuple(mask))


def _pieces(text: str, look_alike: re.Pattern[str], marks: _Marks) -> Iterator[str]:
    """Special tokens, marks, and the runs of plain text between them, in order."""
    # Nothing but literals, so that `re` looks for their first characters and skips the rest.
    boundary = re.compile(f"({look_alike.pattern}|{marks.open}|{marks.close}|{marks.cut})")
    return (piece for piece in boundary.split(text) if piece)
