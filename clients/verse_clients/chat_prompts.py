"""Whole chat prompts, as people type them for `mlx_lm.generate`: turns between ChatML's marks.

A server is sent their turns. It frames them as the adapter was trained, so the same prompt is right
for every prompt format. The marks of the last turn may be missing, and a space may stand where
Qwen's template has a newline: the original project wrote both.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from verse.poem_files.conversations import END, START
from verse.prompt import THEME_SLOT, Message, Role, fill_variant
from verse_clients.errors import InputError

_TURN = re.compile(
    rf"{re.escape(START)}(?P<role>system|user|assistant)(?:[ \n]|$)?"
    rf"(?P<content>.*?)(?:{re.escape(END)}|(?={re.escape(START)})|$)",
    re.DOTALL,
)
_NEXT_PROMPT = re.compile(rf"\n\s*(?={re.escape(START)}system)")


class Prompt(NamedTuple):
    """What one poem is asked for with."""

    theme: str
    variant: str | None
    """None is the theme alone."""


def is_chat_prompt(text: str) -> bool:
    """Whether it has turns of its own."""
    return START in text


def prompts(text: str) -> Iterator[Prompt]:
    """Themes with blanks between them, or whole prompts, each from `system` on a line of its own.

    Raises:
        InputError: a prompt asks for nothing.
    """
    if not is_chat_prompt(text):
        yield from (Prompt(word, None) for word in text.split())
        return
    for whole in _NEXT_PROMPT.split(text):
        yield _chat_prompt(whole.strip())


def messages(variant: str | None, theme: str) -> list[Message]:
    """The turns to send for a theme: those of a whole prompt, or the user's alone."""
    if variant is None or not is_chat_prompt(variant):
        return [Message("user", fill_variant(variant, theme))]
    return [Message(role, content.replace(THEME_SLOT, theme)) for role, content in _turns(variant)]


def _chat_prompt(text: str) -> Prompt:
    asked = [turn for turn in _TURN.finditer(text) if turn["role"] == "user"]
    theme = _unescaped(asked[-1]["content"]).strip() if asked else ""
    if not theme:
        raise InputError(f"This prompt has no user turn that says a theme: {text[:60]!r}.")
    start, end = asked[-1].span("content")
    content = text[start:end]
    content = content.replace(theme, THEME_SLOT, 1) if theme in content else THEME_SLOT
    return Prompt(theme, text[:start] + content + text[end:])


def _turns(text: str) -> Iterator[tuple[Role, str]]:
    """Those that say something: an assistant's empty one only shows whose turn it is."""
    for turn in _TURN.finditer(text):
        if content := _unescaped(turn["content"]):
            yield turn["role"], content  # pyright: ignore[reportReturnType]


def _unescaped(content: str) -> str:
    r"""A typed `\n` is a line break, as `mlx_lm.generate` takes it."""
    return content.replace("\\n", "\n").replace("\\t", "\t")
