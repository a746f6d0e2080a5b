"""One question to a judge: what it gets to see, and the key under which its answer is kept.

A judge sees theme and text, nothing else. The poems stand between markers with a word that no text
of the question contains, and bear letters that mean nothing; both follow from the texts, so the
same question is the same on every machine.
"""

import hashlib
import random
from collections.abc import Sequence

import msgspec

from verse.prompt import Message
from verse.records import Candidate, Poem, content_id
from verse_clients.judge.prompt_files import Kind, PromptFile, fill

_LETTERS = "CDFGHJKLMNPQRTVWXYZ"
"""Neither A and B, which read like marks, nor vowels, nor S, which reads like 5."""
_MARK_DIGITS = 6
MAX_BATCH = len(_LETTERS)


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


class Manner(msgspec.Struct, frozen=True, kw_only=True):
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


def key_of(question: Question, judge: str, server: str, manner: Manner, identity: str = "") -> str:
    """Hash of all that can change the answer: 32 hex digits.

    In which form the answer is asked for (`dialect`) is no part of it: the server decides that.
    `identity` counts only if it says something: answers to the name alone keep their keys.
    """
    words = [(message.role, message.content) for message in question.messages]
    parts = [judge, server, question.prompt, words, msgspec.structs.astuple(manner)]
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
