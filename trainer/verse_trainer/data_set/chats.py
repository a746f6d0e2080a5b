"""Chats as sources of poems: what WeChat and its like write when a conversation is exported.

A message begins with a line of its sender and the time, in either order, or as `张三：` alone.
Those lines go, and so do `[图片]`, notes of the program and quotations. Of the messages those of
several lines may be poems; shorter ones are left out. In a chat of several people nobody can tell
who is the poet: each sender's texts are doubted under his name, unless the user says which they
are (`--sender`). What has no title is called by its first line.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from verse.poem_files.pieces import Found, LeftOut, Taken
from verse.poem_files.reading import ContentError, ReadOptions, decode
from verse.poem_files.text_files import read_text
from verse.records import Poem

_SUFFIXES = (".txt", ".md", ".log", "")
_DATE = (
    r"(?:\d{4}\s?[-/.年]\s?\d{1,2}\s?[-/.月]\s?\d{1,2}日?|\d{1,2}[-/月]\d{1,2}日?"
    r"|昨天|今天|星期[一二三四五六日天])"
)
_CLOCK = (
    r"(?:(?:凌晨|早上|上午|中午|下午|晚上|[AaPp][Mm])\s*)?"
    r"\d{1,2}:\d{2}(?::\d{2})?(?:\s*[AaPp][Mm])?"
)
_TIME = rf"[\[(（]?(?:{_DATE}[T,，\s]*(?:星期.\s*)?)?{_CLOCK}[\])）]?"
_NAME = r"[^\s\[\]:：][^\n:：]{0,30}?"
_NAME_FIRST = re.compile(rf"(?P<name>{_NAME})(?:[:：])?[\s　]+{_TIME}\s*")
_TIME_FIRST = re.compile(
    rf"{_TIME}\s*[-–]?\s+['\"]?(?P<name>{_NAME})['\"]?\s*(?:[:：][\s　]*(?P<text>.*))?"
)
_NAME_ALONE = re.compile(r"(?P<name>[^\s:：，。！？、]{1,20})[:：]\s*")
_NOTHING_SAID = re.compile(
    r"\s*(?:\[(?:图片|语音|视频|动画表情|表情|表情包|链接|位置|文件|红包|微信红包|转账|名片|小程序|聊天记录|音乐|收藏|"
    r"视频号|语音通话|视频通话|引用|Photo|Image|Video|Sticker|Voice|Link|File|Location)[^\]\n]{0,200}\]"
    r"|.{0,40}(?:撤回了一条消息|拍了拍.{0,40}|加入了群聊|修改群名为.{0,40}|领取了.{0,20}红包)"
    r"|以上是打招呼的内容|(?:[-—–=_]\s?){3,}.{0,40}(?:[-—–=_]\s?){3,}|(?:[-—–=_]\s?){5,})\s*"
)
_QUOTATION = re.compile(r"\s*「.{0,30}[:：]")
_QUOTATION_END = re.compile(r"\s*(?:[-—–]\s?){4,}\s*")
_LONG = 300
"""Characters of a line that is no note of the program."""
_MIN_TIMED = 2
_MIN_NAMED = 3
_MAX_TITLE_CHARACTERS = 15
_KIND = "poems in a chat"
_NO_TITLE = "\0"
"""What a text is called until its first line gives it a name: nothing that stands in a file."""


class ChatMessage(msgspec.Struct, frozen=True):
    """What one person sent at once."""

    sender: str
    line: int
    """Of the first line of the text, counted from 1."""
    lines: tuple[str, ...]


def read_chat(content: bytes, path: Path, options: ReadOptions) -> list[Found] | None:
    """The poems of an exported chat; None if the file is none."""
    if path.suffix.lower() not in _SUFFIXES:
        return None
    try:
        decoded = decode(content, options.encoding)
    except ContentError:
        return None  # whoever reads it as text says what is wrong
    messages = messages_of(decoded.text.split("\n"))
    return None if messages is None else list(_found(messages, path, options.sender))


def messages_of(lines: Sequence[str]) -> list[ChatMessage] | None:
    """The messages of a chat, with what is no text taken out; None if the lines are no chat."""
    heads = _heads(lines)
    if heads is None:
        return None
    ends = [*(index for index, _, _ in heads[1:]), len(lines)]
    return [
        _message(sender, index, [text, *lines[index + 1 : end]])
        for (index, sender, text), end in zip(heads, ends, strict=True)
    ]


def _heads(lines: Sequence[str]) -> list[tuple[int, str, str]] | None:
    """Of each message the index of its first line, its sender, and what follows in that line."""
    timed = list(_matching(lines, (_NAME_FIRST, _TIME_FIRST)))
    said = [i for i, line in enumerate(lines) if line.strip() and not _says_nothing(line)]
    first = said[0] if said else 0
    if len(timed) >= _MIN_TIMED and timed[0][0] <= first:
        return timed
    named = [
        head
        for head in _matching(lines, (_NAME_ALONE,))
        if head[0] == first or not lines[head[0] - 1].strip()
    ]
    is_chat = len(named) >= _MIN_NAMED and named[0][0] == first
    return named if is_chat and len({name for _, name, _ in named}) < len(named) else None


def _matching(
    lines: Sequence[str], patterns: Sequence[re.Pattern[str]]
) -> Iterator[tuple[int, str, str]]:
    for index, line in enumerate(lines):
        for pattern in patterns:
            if head := pattern.fullmatch(line.strip("\ufeff\u200e ")):
                yield index, head["name"].strip(), head.groupdict().get("text") or ""
                break


def _says_nothing(line: str) -> bool:
    return len(line) < _LONG and _NOTHING_SAID.fullmatch(line) is not None


def _message(sender: str, index: int, lines: Sequence[str]) -> ChatMessage:
    kept: list[str] = []
    in_quotation = False
    for line in lines:
        if _QUOTATION.match(line) and not any(text.strip() for text in kept):
            in_quotation = "」" not in line
            kept.append("")
        elif in_quotation or _says_nothing(line) or _QUOTATION_END.fullmatch(line[:_LONG]):
            in_quotation = in_quotation and "」" not in line
            kept.append("")
        else:
            kept.append(line)
    return ChatMessage(sender, index + 1, tuple(kept))


def _found(messages: Sequence[ChatMessage], path: Path, poet: str | None) -> Iterator[Found]:
    is_alone = len({message.sender for message in messages}) == 1
    for message in messages:
        said = [line for line in message.lines if line.strip()]
        if not said:
            continue
        if len(said) == 1:
            yield LeftOut(path=path, line=message.line, reason="too short for a poem")
        elif poet is not None and message.sender != poet:
            yield LeftOut(path=path, line=message.line, reason="sent by others")
        else:
            doubt = "" if is_alone or poet is not None else f"{message.sender} sent it"
            yield from _poems(message, path, doubt)


def _poems(message: ChatMessage, path: Path, doubt: str) -> Iterator[Found]:
    text = "\n".join(message.lines).strip("\n")
    first, _, rest = text.partition("\n")
    first = first.strip()
    if len(first) <= _MAX_TITLE_CHARACTERS and rest.startswith("\n") and "《" not in first:
        text = f"《{first}》\n{rest}"
    for piece in read_text(text, path, kind=_KIND, name=_NO_TITLE):
        yield _moved(piece, message, doubt)


def _moved(piece: Found, message: ChatMessage, doubt: str) -> Found:
    num_blank = next((i for i, text in enumerate(message.lines) if text.strip()), 0)
    line = piece.line + message.line + num_blank - 1
    if not isinstance(piece, Taken):
        return msgspec.structs.replace(piece, line=line)
    poem = piece.poem
    first = poem.text.strip().partition("\n")[0].strip(" 　，。！？、；：,.")
    poem = Poem(
        theme=first if poem.theme == _NO_TITLE else poem.theme,
        text=poem.text,
        source=f"{piece.path}:{line}",
        author=poem.author or message.sender,
        date=poem.date,
    )
    return msgspec.structs.replace(
        piece, line=line, poem=poem, kind=_KIND, doubt=doubt or piece.doubt
    )
