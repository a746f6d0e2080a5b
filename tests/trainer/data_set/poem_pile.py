"""Poems that are unlike each other, and drafts of them."""

from verse.records import Origin, Poem

FIRST = ord("一")
LENGTH = 24
"""Characters of a poem; no two poems share one."""


def make_text(number: int) -> str:
    """A poem of two lines from characters that occur in no other."""
    start = FIRST + number * LENGTH
    characters = "".join(map(chr, range(start, start + LENGTH)))
    return f"{characters[:12]}\n{characters[12:]}"


def draft_of(text: str) -> str:
    """One character is another, and punctuation came in."""
    return f"{text[:5]}啊{text[6:12]}，{text[12:]}。"


def make_poem(number: int, *, origin: Origin = "poet", draft: bool = False) -> Poem:
    """The numbered poem, or its draft, under a theme of its own."""
    text = make_text(number)
    theme = f"题{number}" + "稿" * draft
    return Poem(theme=theme, text=draft_of(text) if draft else text, origin=origin)
