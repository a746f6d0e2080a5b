"""The judge's instructions, and one question made of them.

Instructions are files with a version in their name, in Chinese and English. A changed file gets a
new number, so that answers to the old one are never taken for answers to the new one. What a file
may hold is its sections, each behind a line `<!-- name -->`:

    system      the instructions
    examples    a sentence before poems of the poet's own
    example     one of those
    poem        one poem to judge
    user        the question around the poems

A judge sees theme and text, nothing else. The poems stand between markers with a word that no text
of the question contains, and bear letters that mean nothing; both follow from the texts, so the
same question is the same on every machine.
"""

import hashlib
import random
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Literal

import msgspec

from verse.prompt import Message
from verse.records import Candidate, Poem, content_id

Kind = Literal["rubric", "ranking"]
Language = Literal["zh", "en"]

VERSION = 1
LIKELY_ANSWER: dict[Kind, int] = {"rubric": 220, "ranking": 260}
"""Tokens that judges without hidden reasoning write."""
_SECTION = re.compile(r"^<!-- (\w+) -->\n", re.MULTILINE)
_FIELD = re.compile(r"\{(\w+)\}")


_LETTERS = "CDFGHJKLMNPQRTVWXYZ"
"""Neither A and B, which read like marks, nor vowels, nor S, which reads like 5."""
_MARK_DIGITS = 6
MAX_BATCH = len(_LETTERS)


class PromptFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file, by its sections."""

    name: str
    """As in `Judgment.prompt`, such as `rubric-zh-1`."""
    kind: Kind
    system: str
    examples: str
    example: str
    poem: str
    user: str


@cache
def read_prompt(kind: Kind, language: Language) -> PromptFile:
    """The newest instructions of a kind."""
    name = f"{kind}-{language}-{VERSION}"
    text = files("verse_clients.judge").joinpath("prompts", f"{name}.md").read_text("utf-8")
    parts = _SECTION.split(text)[1:]
    sections = {key: value.strip("\n") for key, value in zip(parts[::2], parts[1::2], strict=True)}
    return msgspec.convert({"name": name, "kind": kind, **sections}, PromptFile)


def fill(template: str, **fields: str) -> str:
    """Put fields into a template in one pass: braces inside a poem stay what they are."""
    return _FIELD.sub(lambda found: fields[found[1]], template)


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a judge."""

    kind: Kind
    prompt: str
    """Name and version of the instructions."""
    messages: tuple[Message, ...]
    candidates: tuple[str, ...]
    """Ids, in the order in which the poems are shown."""
    labels: tuple[str, ...]
    """What the judge calls them."""


class JudgeSampling(msgspec.Struct, frozen=True, kw_only=True):
    """How a judge is asked; all of it may change the answer."""

    temperature: float | None = 0.0
    """None leaves it to the server."""
    max_tokens: int = 1500
    """Of an answer, thinking included."""


def make_question(
    prompt: PromptFile,
    candidates: Sequence[Candidate],
    examples: Sequence[Poem] = (),
) -> Question:
    """Ask about one poem (rubric) or the order of several (ranking), in the order given."""
    texts = [part for poem in (*candidates, *examples) for part in (poem.theme, poem.text)]
    mark = _mark(texts)
    labels = tuple(random.Random(mark).sample(_LETTERS, len(candidates)))
    shown = [
        fill(prompt.poem, label=label, mark=mark, theme=poem.theme, text=poem.text)
        for label, poem in zip(labels, candidates, strict=True)
    ]
    user = fill(
        prompt.user,
        mark=mark,
        count=str(len(candidates)),
        labels=", ".join(labels),
        poems="\n\n".join(shown),
    )
    return Question(
        kind=prompt.kind,
        prompt=prompt.name,
        messages=(Message("system", _system(prompt, examples)), Message("user", user)),
        candidates=tuple(candidate.id for candidate in candidates),
        labels=labels,
    )


def key_of(
    question: Question, judge: str, server: str, sampling: JudgeSampling, identity: str = ""
) -> str:
    """Hash of all that can change the answer: 32 hex digits.

    In which form the answer is asked for (`dialect`) is no part of it: the server decides that.
    `identity` counts only if it says something: answers to the name alone keep their keys.
    """
    words = [(message.role, message.content) for message in question.messages]
    parts = [judge, server, question.prompt, words, msgspec.structs.astuple(sampling)]
    parts += [identity] if identity else []
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]


def _system(prompt: PromptFile, examples: Sequence[Poem]) -> str:
    """The part that is the same for all poems stands first: servers then compute it once."""
    if not examples:
        return prompt.system
    mark = _mark([part for poem in examples for part in (poem.theme, poem.text)])
    shown = [fill(prompt.example, mark=mark, theme=e.theme, text=e.text) for e in examples]
    return "\n\n".join([prompt.system, prompt.examples, *shown])


def _mark(texts: Sequence[str]) -> str:
    """A word that stands in none of the texts."""
    turn = 0
    while True:
        mark = content_id("mark", turn, *texts)[:_MARK_DIGITS]
        if not any(mark in text for text in texts):
            return mark
        turn += 1
