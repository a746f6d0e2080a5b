"""A model's answer down to its poem: what chat models put around one is taken off.

Only what stands before and behind the poem goes; within it no character changes but spaces at the
ends of lines. Leading spaces of lines are the poet's.
"""

import re
from typing import NamedTuple

from verse.thinking import split_thought

_SPECIAL = r"<\|[a-z_]+\|>|</?s>|<eos>|<end_of_turn>"
_ROLE = r"\n(?:user|assistant|system)[ \t]*(?:\n|$)"
_END = re.compile(f"(?:{_SPECIAL}|{_ROLE}).*", re.DOTALL)
"""Where a model that missed the end of the poem goes on with the next turn."""
_OPENING_SPECIAL = re.compile(rf"(?:\s*(?:{_SPECIAL})(?:user|assistant|system)?(?:[ \t]*\n)?)+")
_FENCE_OPEN = re.compile(r"\s*(?:```|~~~)[\w-]*[ \t]*\n")
_FENCE_CLOSE = re.compile(r"\n[ \t]*(?:```|~~~).*", re.DOTALL)
_YES = r"(?:好的|当然可以|当然|没问题|可以的?|sure|certainly|of course)"
_GREETING = re.compile(
    rf"\s*(?:{_YES}[，,。.！!：:~ ]*"
    rf"|(?:{_YES}|以下|下面|这里?是|[为根][您你据]|here)[^\n]*(?:诗|作品|主题|poem)[^\n]*[:：]"
    rf"|{_YES}[，,！! ][^\n]*(?:[为给][您你]|诗|poem)[^\n]*[。！!.])[ \t]*\n",
    re.IGNORECASE,
)
_MARKED_TITLE = re.compile(
    r"\s*(?:#{1,6}[ \t][^\n]*|\*\*[^\n*]+\*\*|《[^\n》]*》|(?:标题|题目|诗名|title)[:：][^\n]*)"
    r"[ \t]*\n",
    re.IGNORECASE,
)
_RULE = re.compile(r"\s*(?:-{3,}|\*{3,}|={3,})[ \t]*\n")
_AFTERWORD = re.compile(
    r"\n[ \t]*(?:\n|(?:-{3,}|\*{3,}|={3,})[ \t]*\n)\s*"
    r"(?:希望[您你]|如果[您你](?:需要|想|还)|[（(]?注[:：]|[【（(]?(?:赏析|解析|注释|创作说明|诗歌解读)|"
    r"(?:这首|本)诗(?:通过|描|表达|以|歌颂|写|展|用|运)|(?:i )?hope (?:you|this)|let me know).*",
    re.DOTALL | re.IGNORECASE,
)


class Cleaned(NamedTuple):
    """A poem taken out of an answer."""

    text: str
    is_ended: bool
    """Whether the poem's end was found inside the answer: what came behind it does not count."""
    is_thought: bool = False
    """Whether the model never came to a poem: it was still thinking when it stopped."""


def clean(answer: str, theme: str) -> Cleaned:
    """Take the poem on a theme out of an answer. Cleaning a cleaned text changes nothing."""
    text, is_ended = answer.replace("\r\n", "\n").replace("\r", "\n"), False
    while True:
        text, is_open = split_thought(text)
        if is_open:
            return Cleaned("", is_ended, is_thought=True)
        shorter, ended = _once(text, theme)
        is_ended |= ended
        if shorter == text:
            return Cleaned(text, is_ended)
        text = shorter


def _once(text: str, theme: str) -> tuple[str, bool]:
    for opening in (_OPENING_SPECIAL, _RULE):
        text = _without_opening(text, opening)
    fence = _FENCE_OPEN.match(text)
    body = text[fence.end() :] if fence else text
    kept = _AFTERWORD.sub("", _END.sub("", body))
    kept = _FENCE_CLOSE.sub("", kept) if fence else kept
    return _trimmed(_without_title(_without_greeting(kept), theme)), kept != body


def _without_opening(text: str, pattern: re.Pattern[str]) -> str:
    found = pattern.match(text)
    return text[found.end() :] if found else text


def _without_greeting(text: str) -> str:
    """A greeting is a line of its own before a poem; a poem that is nothing else stays."""
    found = _GREETING.match(text)
    return text[found.end() :] if found and text[found.end() :].strip() else text


def _without_title(text: str, theme: str) -> str:
    """A marked title goes; a bare first line goes if it is the theme and a blank line follows."""
    found = _MARKED_TITLE.match(text)
    if found and text[found.end() :].strip():
        return text[found.end() :]
    first, _, rest = text.lstrip("\n").partition("\n")
    is_title = first.strip() == theme.strip() and rest.startswith("\n") and rest.strip()
    return rest if is_title else text


def _trimmed(text: str) -> str:
    lines = [line.rstrip() for line in text.split("\n")]
    return "\n".join(lines).strip("\n")
