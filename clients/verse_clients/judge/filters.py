"""What is left out before a judge is asked: no model is needed to see it.

Nothing is dropped: a poem that is left out stays in the output, with the first reason that applies.
The measures are the poem's own; only likeness and copies look at other poems.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from verse.records import Candidate, Poem
from verse.similarity import NearDuplicates, normalise, shingles
from verse.thinking import holds_tag
from verse_clients.copies import CopyCheck
from verse_clients.prompt_variant import PLACE

Reason = Literal[
    "empty", "short", "truncated", "thought", "repeated", "prompt", "latin", "copy", "near"
]  # fmt: skip

MIN_CHARACTERS = 8
_MIN_REPEATS = 3
_LOOP = re.compile(r"(.{1,12}?)\1{4,}")
"""The same run of characters five times in a row: a model that went round in circles."""
_LEAK = re.compile(
    r"<\|[a-z_]+\|>|</?s>|^(?:user|assistant|system|用户|助手)\s*[:：]?\s*$"
    r"|作为(?:一[个名])?(?:AI|人工智能|语言模型)|as an ai\b|language model"
    r"|(?:写|创作)一首[^\n]{0,20}诗",
    re.IGNORECASE | re.MULTILINE,
)
_LATIN_WORD = re.compile(r"[A-Za-z]+")
_CHINESE = re.compile(r"[\u3400-\u9fff]")
_LATIN_SHARE = 0.1
"""Of words, where a Chinese character counts as one."""
_LEAKED_RUN = 6
"""Characters in a row that a poem shares with the words around the theme in its prompt."""


class Filtered(msgspec.Struct, frozen=True, kw_only=True):
    """Why a poem was left out."""

    reason: Reason
    detail: str = ""
    """The line, the run, or the other poem it is about."""


class Filters:
    """Looks at poems in the order they come; of several alike the first stays."""

    def __init__(
        self, training: Iterable[Poem] = (), *, min_characters: int = MIN_CHARACTERS
    ) -> None:
        """Know the poems that must not be copied."""
        self._min_characters = min_characters
        self._copies = CopyCheck()
        self._seen = NearDuplicates()
        for poem in training:
            self._copies.add(f"《{poem.theme}》", poem.text)

    def look(self, poem: Candidate) -> Filtered | None:
        """The first reason to leave a poem out; None if a judge should see it."""
        if len(normalise(poem.text)) < self._min_characters:
            return _found("short" if normalise(poem.text) else "empty")
        for check in _CHECKS:
            if found := check(poem):
                return found
        return self._copied(poem) or self._near(poem)

    def _copied(self, poem: Candidate) -> Filtered | None:
        copy = self._copies.find(poem.text)
        if copy is not None and copy.is_blocked:
            return _found("copy", f"{copy.source} {copy.run}".strip())
        return _found("copy", poem.copied_from or "") if poem.blocked == "copy" else None

    def _near(self, poem: Candidate) -> Filtered | None:
        # Only poems that stay are remembered: one that is left out takes no other with it.
        twin = self._seen.add(poem.id, poem.text)
        if twin is not None:
            return _found("near", twin.key)
        return _found("near", poem.duplicate_of or "") if poem.blocked == "duplicate" else None


def _truncated(poem: Candidate) -> Filtered | None:
    return _found("truncated") if poem.finish_reason == "length" else None


def _thought(poem: Candidate) -> Filtered | None:
    return _found("thought") if holds_tag(poem.text) else None


def _repeated(poem: Candidate) -> Filtered | None:
    """A line that makes up half of the poem, or a run that goes round; a refrain does neither."""
    lines = [line for raw in poem.text.splitlines() if (line := normalise(raw))]
    line, count = Counter(lines).most_common(1)[0]
    if count >= _MIN_REPEATS and 2 * count >= len(lines):
        return _found("repeated", line)
    loop = _LOOP.search(normalise(poem.text))
    return _found("repeated", loop[0]) if loop else None


def _prompt_leak(poem: Candidate) -> Filtered | None:
    leak = _LEAK.search(poem.text)
    if leak:
        return _found("prompt", leak[0].strip())
    around = [normalise(part) for part in (poem.variant or "").split(PLACE)]
    runs = {
        run for part in around if len(part) >= _LEAKED_RUN for run in shingles(part, _LEAKED_RUN)
    }
    text = normalise(poem.text)
    shared = min((run for run in runs if run in text), default="")
    return _found("prompt", shared) if shared else None


def _latin_leak(poem: Candidate) -> Filtered | None:
    """Latin words in an answer to a Chinese theme; an English theme may have an English poem."""
    if _LATIN_WORD.search(poem.theme) or not _CHINESE.search(poem.theme):
        return None
    words, chinese = len(_LATIN_WORD.findall(poem.text)), len(_CHINESE.findall(poem.text))
    return _found("latin") if words > _LATIN_SHARE * (words + chinese) else None


def _found(reason: Reason, detail: str = "") -> Filtered:
    return Filtered(reason=reason, detail=detail)


_CHECKS: tuple[Callable[[Candidate], Filtered | None], ...] = (
    _truncated,
    _thought,
    _repeated,
    _prompt_leak,
    _latin_leak,
)
