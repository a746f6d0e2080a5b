r"""Rows of conversations to learn from, as mlx-lm has them: a question and its answer are a poem.

A row is in one of four shapes, told apart as mlx-lm does it, by their keys:

{"messages": [{"role": ..., "content": ...}, ...]}      several turns allowed; with `weight` 0, as
                                                         OpenAI has it, one is read, not learned
{"prompt": ..., "completion": ...}                       a question and an answer; texts or turns
{"text": "<|im_start|>system ...<|im_end|> ..."}         ChatML
{"text": "TITLE\n<|end|>\nPOEM"}                          a title above its poem

ChatML may be that of the original project, or of Qwen's own template. Its grammar, with one
character where the two differ (a space there, a newline here):

    row   = turn { gap turn } [ gap ]
    turn  = "<|im_start|>" role separator content "<|im_end|>"
    gap   = spaces or newlines, or nothing
    role  = "system" | "user" | "assistant"
    separator = one space or one newline

Only that one character belongs to the frame: what follows, line breaks and leading spaces
included, is content. No content holds a mark. Anything else is refused.
"""

import re
from collections.abc import Collection
from typing import Literal

import msgspec

from verse.prompt import Message, Role
from verse.records import Origin, TrainingExample

ConversationShape = Literal["messages", "completion", "seed", "chatml", "titled"]

_TITLE_END = "\n<|end|>"
_LINE_ENDS = re.compile(r"\r\n?")


class ShapeError(ValueError):
    """The row is not of a known shape, or broken; says in what way."""


class _Completion(msgspec.Struct, frozen=True, kw_only=True):
    prompt: str | tuple[Message, ...]
    completion: str | tuple[Message, ...]
    source: str = ""
    origin: Origin = "poet"


class _Turn(msgspec.Struct, frozen=True):
    role: str
    weight: float | None = None


class _Turns(msgspec.Struct, frozen=True):
    messages: tuple[_Turn, ...]


class _Text(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    source: str = ""
    origin: Origin = "poet"


class Conversation(msgspec.Struct, frozen=True):
    """A row as messages, and the shape it came in."""

    example: TrainingExample
    shape: ConversationShape


def looks_like_conversation(keys: Collection[str]) -> bool:
    """Whether these keys promise a conversation; a text under a theme is a poem."""
    if "messages" in keys or {"prompt", "completion"} <= set(keys):
        return True
    return "text" in keys and "theme" not in keys and "title" not in keys


def decode_conversation(row: bytes | msgspec.Raw) -> Conversation:
    """Read one row of any of the shapes.

    Raises:
        ShapeError: the row is no conversation, or has no answer to learn.
        msgspec.DecodeError: the row is no JSON object, or a value has the wrong type.
    """
    keys = msgspec.json.decode(row, type=dict[str, msgspec.Raw])
    if keys.get("tools"):
        raise ShapeError("it uses tools, which a poem has no use for")
    if "messages" in keys:
        example = msgspec.json.decode(row, type=TrainingExample)
        if unlearned := _not_learned(msgspec.json.decode(row, type=_Turns).messages):
            example = msgspec.structs.replace(example, not_learned=unlearned)
        return _checked(Conversation(example, "messages"))
    if {"prompt", "completion"} <= keys.keys():
        return _from_completion(msgspec.json.decode(row, type=_Completion))
    if "text" in keys:
        return _from_text(msgspec.json.decode(row, type=_Text))
    raise ShapeError(f"its keys are {', '.join(keys) or 'none'}")


def _not_learned(turns: tuple[_Turn, ...]) -> tuple[int, ...]:
    """Indices of the turns of weight 0.

    Raises:
        ShapeError: a weight is neither 0 nor 1, or stands at another turn than an assistant's.
    """
    for number, turn in enumerate(turns, start=1):
        if turn.weight is not None and (turn.role != "assistant" or turn.weight not in (0, 1)):
            raise ShapeError(f"turn {number}: only an assistant's turn has a weight, 0 or 1")
    return tuple(index for index, turn in enumerate(turns) if turn.weight == 0)


def _from_completion(row: _Completion) -> Conversation:
    turns = (*_turns("user", row.prompt), *_turns("assistant", row.completion))
    example = TrainingExample(messages=turns, source=row.source, origin=row.origin)
    return Conversation(example, "completion")


def _turns(role: Role, said: str | tuple[Message, ...]) -> tuple[Message, ...]:
    """TRL also has turns on either side, which name their roles themselves."""
    return (Message(role, said),) if isinstance(said, str) else said


def _from_text(row: _Text) -> Conversation:
    text = _LINE_ENDS.sub("\n", row.text)
    is_titled = _TITLE_END in text and not text.lstrip().startswith(START)
    try:
        turns = _titled_turns(text) if is_titled else tuple(parse_chatml(text))
    except ChatmlError as error:
        raise ShapeError(f"its text is not a conversation: {error}") from error
    example = TrainingExample(messages=turns, source=row.source, origin=row.origin)
    if is_titled:
        return Conversation(example, "titled")
    return _checked(Conversation(example, "seed" if has_seed_frame(text) else "chatml"))


def _titled_turns(text: str) -> tuple[Message, ...]:
    """Title and poem.

    Raises:
        ShapeError: one of them is blank, or there are several.
    """
    title, _, poem = text.partition(_TITLE_END)
    title, poem = title.strip(), poem.rstrip().removesuffix("<|end|>")
    is_poem = poem.startswith("\n") and poem.strip() and "<|end|>" not in poem
    if not title or "\n" in title or not is_poem:
        raise ShapeError("its text is not a title, a line <|end|>, and a poem")
    return Message("user", title), Message("assistant", poem.strip("\n"))


def _checked(conversation: Conversation) -> Conversation:
    if not any(message.role == "assistant" for message in conversation.example.messages):
        raise ShapeError("it has no assistant's turn, so there is nothing to learn")
    return conversation


START = "<|im_start|>"
END = "<|im_end|>"

_ROLES: tuple[Role, ...] = ("system", "user", "assistant")
_TURN = re.compile(
    r"<\|im_start\|>(?P<role>[a-z]+)(?P<separator>[ \n])"
    r"(?P<content>(?:(?!<\|im_(?:start|end)\|>).)*)<\|im_end\|>\s*",
    re.DOTALL,
)


class ChatmlError(ValueError):
    """The text does not follow the grammar; says what is missing."""


def parse_chatml(text: str) -> list[Message]:
    """The turns of a ChatML string.

    Raises:
        ChatmlError: the text is no ChatML, or broken.
    """
    rest = text.replace("\r\n", "\n").lstrip()
    if not rest.startswith(START):
        raise ChatmlError(f"it does not begin with {START}")
    messages: list[Message] = []
    while rest:
        turn = _TURN.match(rest)
        if turn is None:
            raise ChatmlError(_problem(rest, len(messages) + 1))
        messages.append(Message(_role(turn["role"]), turn["content"]))
        rest = rest[turn.end() :]
    return messages


def has_seed_frame(text: str) -> bool:
    """Whether spaces stand where Qwen's template has newlines."""
    turn = _TURN.match(text.lstrip())
    return turn is not None and turn["separator"] == " "


def _role(name: str) -> Role:
    for role in _ROLES:
        if role == name:
            return role
    raise ChatmlError(f"{name!r} is not one of the roles {', '.join(_ROLES)}")


def _problem(rest: str, number: int) -> str:
    if not rest.startswith(START):
        return f"there is text outside the turns, before turn {number}"
    end, next_start = rest.find(END), rest.find(START, len(START))
    if end < 0 or 0 <= next_start < end:
        return f"turn {number} is not closed by {END}"
    return f"turn {number} does not read {START}ROLE CONTENT{END}"
