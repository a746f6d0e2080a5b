"""ChatML as a string: the `text` rows of the original project, and those of Qwen's own template.

The grammar, with one character where the two differ (a space there, a newline here):

    row   = turn { gap turn } [ gap ]
    turn  = "<|im_start|>" role separator content "<|im_end|>"
    gap   = spaces or newlines, or nothing
    role  = "system" | "user" | "assistant"
    separator = one space or one newline

Only that one character belongs to the frame: what follows, line breaks and leading spaces
included, is content. No content holds a mark. Anything else is refused.
"""

import re

from verse.prompt import Message, Role

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


def parse(text: str) -> list[Message]:
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
