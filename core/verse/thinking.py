"""What a model thought before its answer, and the answer alone.

Many models think aloud before they answer. Servers should keep the thought apart and often do not;
then both arrive in one text. The rule is the same for all of them: everything up to the last
closing tag is thought, also when no opening tag was sent, since many chat templates write that one
themselves. A thought that does not end leaves no answer. A tag further on in a text decides
nothing: `holds_tag` finds it, and whoever reads the text marks it.
"""

import re
from typing import NamedTuple


class _Tag(NamedTuple):
    """How one family of models marks its thoughts, as two regular expressions."""

    opening: str
    closing: str


def _named(name: str) -> _Tag:
    return _Tag(rf"(?i:<{name}\s?>)", rf"(?i:</{name}\s?>)")


_FINAL_CHANNEL = r"<\|channel\|>\s*final[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"
_TAGS = (
    _named("think"),  # DeepSeek, Qwen, GLM, MiniMax, Kimi K2 and most others
    _named("thinking"),
    _named("thought"),  # EXAONE
    _named("reasoning"),
    _named("seed:think"),  # Seed-OSS
    _named("longcat_think"),
    _Tag(r"\[THINK\]", r"\[/THINK\]"),  # Magistral
    _Tag("◁think▷", "◁/think▷"),  # Kimi-VL
    _Tag(r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),  # Command A
    _Tag(r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),  # Sky-T1, OpenThinker
    _Tag(r"<\|channel>thought", r"<channel\|>"),  # Gemma
    # Harmony (gpt-oss): each channel but `final` is thought or talk to tools.
    _Tag(r"<\|channel\|>(?!\s*final)", _FINAL_CHANNEL),
    # The same where a server dropped the special tokens and kept the words between them.
    _Tag(r"(?<!\w)analysis(?=[A-Z\u3400-\u9fff])", r"(?<=[^\s\w])assistantfinal"),
)
_ANY_OPENING = "|".join(tag.opening for tag in _TAGS)
_ANY_CLOSING = "|".join(tag.closing for tag in _TAGS)
_CLOSING = re.compile(_ANY_CLOSING)
_TAG = re.compile(f"{_ANY_OPENING}|{_ANY_CLOSING}")
_OPENS = re.compile(rf"(?:\s|<\|\w+\|>|assistant)*?(?:{_ANY_OPENING})")
"""A thought at the beginning, behind nothing but the marks of a turn."""
_BLANK_LINES = re.compile(r"(?:[^\S\n]*\n)+")
_HARMONY_END = re.compile(r"<\|(?:end|return|call|start)\|>")


class SplitReply(NamedTuple):
    """What a model sent, without its thought."""

    answer: str
    """As it was sent, without the blank lines behind a thought; empty if that did not end."""
    is_open: bool
    """Whether the model was still thinking when it stopped."""


def split_thought(reply: str) -> SplitReply:
    """Take what a model thought off its answer."""
    closings = list(_CLOSING.finditer(reply))
    answer = reply
    if closings:
        blank = _BLANK_LINES.match(reply, closings[-1].end())
        answer = reply[blank.end() if blank else closings[-1].end() :]
        if closings[-1][0].startswith("<|channel|>"):
            answer = _HARMONY_END.split(answer, maxsplit=1)[0]
    is_open = _OPENS.match(answer) is not None
    return SplitReply("" if is_open else answer, is_open)


def holds_tag(text: str) -> bool:
    """Whether a tag of a thought stands anywhere in a text."""
    return _TAG.search(text) is not None
