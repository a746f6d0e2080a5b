"""The judge's instructions: files with a version in their name, in Chinese and English.

A changed file gets a new number, so that answers to the old one are never taken for answers to the
new one. What a file may hold is its sections, each behind a line `<!-- name -->`:

    system      the instructions
    examples    a sentence before poems of the poet's own
    example     one of those
    poem        one poem to judge
    user        the question around the poems
"""

import re
from functools import cache
from importlib.resources import files
from typing import Literal

import msgspec

Kind = Literal["rubric", "ranking"]
Language = Literal["zh", "en"]

VERSION = 1
_SECTION = re.compile(r"^<!-- (\w+) -->\n", re.MULTILINE)
_FIELD = re.compile(r"\{(\w+)\}")


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
