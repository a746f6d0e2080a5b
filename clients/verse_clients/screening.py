"""What is wrong with a poem: the one answer that generate, judge, curate and refine act on.

A `Finding` says what, and which other poem or characters it is about. What is done about it is the
command's own:

PoemMarker    generate marks poems and drops none
Screen        judge and refine leave a poem out for the first thing found
Inspector     curate shows what is found beside the poem
Guard         refine learns nothing that takes over from the poet's poems

Texts are compared by `verse.similarity`, which is exact: another known poem never hides a finding.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import msgspec

from verse.prompt import THEME_SLOT
from verse.records import Candidate, Poem
from verse.similarity import (
    NEAR,
    ContainmentIndex,
    CopyIndex,
    NearDuplicates,
    comparison_key,
    normalise,
    shingles,
)
from verse.thinking import holds_tag

Reason = Literal[
    "empty", "short", "truncated", "thought", "repeated", "prompt", "latin", "leak", "copy", "near",
    "opening", "share",
]  # fmt: skip
"""No text; too little of it; ended by the token limit; a model's thinking in it; a line or a run
again and again; words of the prompt in it; Latin words on a Chinese theme; too near the valid set,
a poem of the poet's or another one; its opening line or model-written poems have their share."""

MIN_CHARACTERS = 8
"""Of a poem that a judge is asked about."""
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


class Finding(NamedTuple):
    """One thing that is wrong with a poem."""

    reason: Reason
    other: str = ""
    """The poem it resembles: an id, or a name."""
    run: str = ""
    """The characters it is about: copied, repeated, or not its own."""
    ratio: float = 0.0
    """How alike the two are, or how much of the poem is taken over; 0 to 1."""
    is_blocking: bool = True
    """Whether the poem may not go on; a short copied run is only reported."""


Check = Callable[[Candidate], Finding | None]


class CopyLimits(NamedTuple):
    """When a copy is reported, and when it is kept from the judge.

    In the original project's honest poems the longest run was six characters.
    """

    warn: int = 8
    """Characters in a row that are worth reporting."""
    block: int = 13
    """Characters in a row that are too many."""
    share: float = 0.5
    """Of the poem, 0 to 1, that is too much, by either measure."""


class Limits(NamedTuple):
    """From when on two texts are too much alike."""

    copies: CopyLimits = CopyLimits()
    ratio: float = NEAR
    """Edit ratio from which two poems are nearly the same, 0 to 1; it also finds short ones."""


class CopyCheck:
    """Knows the training poems, and finds what a poem takes over from them.

    Two measures: the longest run of characters shared with one source, and how much of the poem is
    made of that source's pieces of four. The second finds a poem stitched from short lines.
    """

    def __init__(
        self,
        poems: Iterable[Poem] = (),
        limits: CopyLimits = CopyLimits(),  # noqa: B008
    ) -> None:
        """Know these poems by their themes."""
        self._limits = limits
        # A limit to block below that to warn would else pass over what it blocks.
        self._runs = CopyIndex(min(limits.warn, limits.block))
        self._pieces = ContainmentIndex()
        for poem in poems:
            self.add(f"《{poem.theme}》", poem.text)

    def add(self, source: str, text: str) -> None:
        """Make a training poem known under the name `source`."""
        self._runs.add(source, text)
        self._pieces.add(source, text)

    def find(self, text: str) -> Finding | None:
        """The worst copy in a poem; None if there is none worth reporting.

        Its `run` is in the poem's script, without punctuation, and empty if all are short.
        """
        copy = self._runs.find(text)
        stitched, share = self._pieces.find(text)
        if share >= self._limits.share and (copy is None or share > copy.share):
            # The run is given only if it comes from the source that is named.
            run = copy.run if copy is not None and copy.source == stitched else ""
            return Finding("copy", stitched, run, share)
        if copy is None:
            return None
        is_blocking = len(copy.run) >= self._limits.block or copy.share >= self._limits.share
        return Finding("copy", copy.source, copy.run, copy.share, is_blocking)

    def blocking(self, poem: Candidate) -> Finding | None:
        """The worst copy, if it is too much."""
        copy = self.find(poem.text)
        return copy if copy is not None and copy.is_blocking else None


class _Kept:
    """One collection of poems that nothing may take over from."""

    def __init__(self, reason: Reason, poems: Iterable[Poem], limits: Limits) -> None:
        self._reason: Reason = reason
        self._copies = CopyCheck(limits=limits.copies)
        self._near = NearDuplicates(limits.ratio)
        for number, poem in enumerate(poems, 1):
            name = f"《{poem.theme}》 ({number})"
            self._copies.add(name, poem.text)
            self._near.remember(name, poem.text)

    def find(self, text: str) -> Finding | None:
        if near := self._near.find(text):
            return Finding(self._reason, near.key, ratio=near.ratio)
        copy = self._copies.find(text)
        return copy._replace(reason=self._reason) if copy and copy.is_blocking else None


class Guard:
    """Says of a text whether it may be learned.

    A copy of the poet's poems teaches the model to recite; a leak from the valid set makes the
    valid loss a lie for all rounds to come.
    """

    def __init__(
        self,
        training: Iterable[Poem] = (),
        valid: Iterable[Poem] = (),
        limits: Limits = Limits(),  # noqa: B008
    ) -> None:
        """Know the poet's poems that are learned from, and those kept to measure with."""
        self._valid = _Kept("leak", valid, limits)
        self._training = _Kept("copy", training, limits)

    def find(self, text: str) -> Finding | None:
        """Why a text may not be learned; None if it may."""
        if not comparison_key(text):
            return Finding("empty")
        return self._valid.find(text) or self._training.find(text)


class Screen:
    """Looks at poems in the order they come; of several alike the first stays.

    Only poems that stay are remembered: one that is left out takes no other with it.
    """

    def __init__(self, *checks: Check, ratio: float = NEAR) -> None:
        """Look for what these checks find, in their order, and then for near-duplicates."""
        self._checks = checks
        self._seen = NearDuplicates(ratio)

    def know(self, name: str, text: str) -> None:
        """Know a poem that no other may be like."""
        self._seen.remember(name, text)

    def find(self, poem: Candidate, name: str = "") -> Finding | None:
        """The first thing that is wrong with a poem; others will know it by its name, or its id."""
        found = next(filter(None, (check(poem) for check in self._checks)), None)
        found = found or _as_finding(self._seen, poem.text)
        if found is None:
            self._seen.remember(name or poem.id, poem.text)
        return found


def judge_screen(training: Iterable[Poem] = (), min_characters: int = MIN_CHARACTERS) -> Screen:
    """What no judge needs to see: the measures are the poem's own, save for copies."""

    def too_short(poem: Candidate) -> Finding | None:
        return short(poem, min_characters)

    return Screen(
        *(too_short, truncated, thought, repeated, prompt_leak, latin_leak),
        *(CopyCheck(training).blocking, marked_before),
    )


def round_screen(guard: Guard, ratio: float) -> Screen:
    """What could not be learned anyway, so that nobody reads it."""

    def not_learnable(poem: Candidate) -> Finding | None:
        return guard.find(poem.text)

    return Screen(marked_before, truncated, thought, not_learnable, ratio=ratio)


class PoemMarker:
    """Marks poems in the order they come; the first of several alike is the one that stays.

    A poem that was cut off or blocked takes no whole one with it: nobody would see either.
    """

    def __init__(
        self,
        training: Iterable[Poem] = (),
        accepted: Iterable[Poem] = (),
        limits: Limits = Limits(),  # noqa: B008
    ) -> None:
        """Know the poems that must not be copied or repeated."""
        self._copies = CopyCheck(training, limits.copies)
        self._whole = NearDuplicates(limits.ratio)
        self._others = NearDuplicates(limits.ratio)
        """Cut off or blocked: only asked where no whole poem is alike, so that a thousand versions
        of one poem are held against the first."""
        self._whole.remember_all((poem.id, poem.text) for poem in accepted)

    @property
    def num_compared(self) -> int:
        """Texts that were compared in full so far: what marking cost."""
        return self._whole.num_compared + self._others.num_compared

    def remember(self, poem: Candidate) -> None:
        """Know a poem that was marked, by this run or an earlier one."""
        (self._whole if _is_whole(poem) else self._others).remember(poem.id, poem.text)

    def remember_all(self, poems: Sequence[Candidate]) -> None:
        """As `remember` of each, in a fraction of the time."""
        self._whole.remember_all((poem.id, poem.text) for poem in poems if _is_whole(poem))
        self._others.remember_all((poem.id, poem.text) for poem in poems if not _is_whole(poem))

    def marked(self, poem: Candidate) -> Candidate:
        """The poem with what speaks against it."""
        if short(poem, 1):
            return msgspec.structs.replace(poem, blocked="empty")
        if thought(poem):
            return msgspec.structs.replace(poem, blocked="thought")
        rival = self._whole.find(poem.text)
        near = rival or self._others.find(poem.text)
        copy = self._copies.find(poem.text)
        is_duplicate = rival is not None or (near is not None and truncated(poem) is not None)
        is_copy = copy is not None and copy.is_blocking
        marked = msgspec.structs.replace(
            poem,
            duplicate_of=near.key if near else None,
            copied_from=copy.other if copy else None,
            copied_run=copy.run if copy else "",
            blocked="copy" if is_copy else "duplicate" if is_duplicate else None,
        )
        self.remember(marked)
        return marked


class Inspector:
    """Finds what to show beside poems; keep one, so that new poems meet the old ones."""

    def __init__(self, training: Iterable[Poem] = ()) -> None:
        """Know the training poems that must not be copied."""
        self._copies = CopyCheck(training)
        self._seen = NearDuplicates()

    def findings(self, poems: Iterable[Candidate]) -> Iterator[tuple[str, Finding]]:
        """Each finding with the id of its poem; of two that are alike, both have one."""
        for poem in poems:
            for found in filter(None, (truncated(poem), thought(poem))):
                yield poem.id, found
            if near := self._seen.add(poem.id, poem.text):
                yield poem.id, Finding("near", near.key, ratio=near.ratio)
                yield near.key, Finding("near", poem.id, ratio=near.ratio)
            if copy := self._copies.find(poem.text):
                yield poem.id, copy


def short(poem: Candidate, min_characters: int) -> Finding | None:
    """No text, or too little."""
    length = len(normalise(poem.text))
    if length >= min_characters:
        return None
    return Finding("short" if length else "empty")


def truncated(poem: Candidate) -> Finding | None:
    """Ended by the token limit."""
    return Finding("truncated") if poem.finish_reason == "length" else None


def thought(poem: Candidate) -> Finding | None:
    """A tag of a model's thinking is left in it."""
    return Finding("thought") if holds_tag(poem.text) else None


def marked_before(poem: Candidate) -> Finding | None:
    """What `verse generate` blocked, whose limits may be others."""
    if poem.blocked is None:
        return None
    reason: Reason = "near" if poem.blocked == "duplicate" else poem.blocked
    return Finding(reason, poem.duplicate_of or poem.copied_from or "", poem.copied_run)


def repeated(poem: Candidate) -> Finding | None:
    """A line that makes up half of the poem, or a run that goes round; a refrain does neither."""
    lines = [line for raw in poem.text.splitlines() if (line := normalise(raw))]
    line, count = Counter(lines).most_common(1)[0] if lines else ("", 0)
    if count >= _MIN_REPEATS and 2 * count >= len(lines):
        return Finding("repeated", run=line)
    loop = _LOOP.search(normalise(poem.text))
    return Finding("repeated", run=loop[0]) if loop else None


def prompt_leak(poem: Candidate) -> Finding | None:
    """Words of a chat, or of the poem's own prompt."""
    leak = _LEAK.search(poem.text)
    if leak:
        return Finding("prompt", run=leak[0].strip())
    around = [normalise(part) for part in (poem.variant or "").split(THEME_SLOT)]
    runs = {
        run for part in around if len(part) >= _LEAKED_RUN for run in shingles(part, _LEAKED_RUN)
    }
    text = normalise(poem.text)
    shared = min((run for run in runs if run in text), default="")
    return Finding("prompt", run=shared) if shared else None


def latin_leak(poem: Candidate) -> Finding | None:
    """Latin words in an answer to a Chinese theme; an English theme may have an English poem."""
    if _LATIN_WORD.search(poem.theme) or not _CHINESE.search(poem.theme):
        return None
    words, chinese = len(_LATIN_WORD.findall(poem.text)), len(_CHINESE.findall(poem.text))
    return Finding("latin") if words > _LATIN_SHARE * (words + chinese) else None


def _is_whole(poem: Candidate) -> bool:
    return poem.blocked is None and truncated(poem) is None


def _as_finding(seen: NearDuplicates, text: str) -> Finding | None:
    near = seen.find(text)
    return near and Finding("near", near.key, ratio=near.ratio)
