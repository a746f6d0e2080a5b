"""The examples of a guide, as its reader would copy them."""

import re


def block(guide: str, language: str, containing: str) -> str:
    """The first fenced block of Markdown that has this language and holds this text."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", guide, re.DOTALL | re.MULTILINE)
    return next(text for tag, text in blocks if tag == language and containing in text)
