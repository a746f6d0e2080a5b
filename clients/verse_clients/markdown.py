"""Poems and names as Markdown: line breaks and indents kept, Markdown's own signs escaped."""

import re
from collections import defaultdict
from collections.abc import Iterable

from verse.terminal import shown


def book(title: str, poems: Iterable[tuple[str, str]]) -> str:
    """Poems by theme, each given as (theme, text), in the order the themes first come."""
    themes: dict[str, list[str]] = defaultdict(list)
    for theme, text in poems:
        themes[theme].append(text)
    parts: list[str] = []
    for theme, texts in themes.items():
        parts.append(f"## {_escaped(theme.strip()) or '无题'}")
        parts.append("\n\n\\* \\* \\*\n\n".join(_verse(text) for text in texts))
    return "\n\n".join([f"# {title}", *parts]) + "\n"


def cell(text: str) -> str:
    """Text that stays in its cell of a table, makes no link and no tag, and moves no terminal."""
    for sign in "\\|[]*_`":
        text = text.replace(sign, f"\\{sign}")
    return shown(" ".join(text.replace("<", "&lt;").splitlines()))


def _verse(poem: str) -> str:
    """Each line with a hard break; leading spaces as full-width ones, which Markdown keeps."""
    lines = [_indented(line) for line in poem.strip("\n").split("\n")]
    return "\n".join(
        line + "\\" if line and following else line
        for line, following in zip(lines, [*lines[1:], ""], strict=True)
    )


def _indented(line: str) -> str:
    text = line.lstrip(" \t").rstrip()
    return "\u2003" * ((len(line) - len(line.lstrip(" \t")) + 1) // 2) + _escaped(text)


def _escaped(text: str) -> str:
    """Markdown's own signs are taken for what they are."""
    for sign in "\\`*_[]<>#":
        text = text.replace(sign, f"\\{sign}")
    text = re.sub(r"^(\d+)([.)])", r"\1\\\2", text)
    return f"\\{text}" if text.startswith(("-", "+", "=", "~", "|")) else text
