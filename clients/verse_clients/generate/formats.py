"""Poems as other files: the original project's JSON object by theme, Markdown, plain text."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from verse.adapter_folder import checkpoint_file
from verse.atomic_file import replace_file
from verse.records import Candidate
from verse_clients.errors import OutputError
from verse_clients.markdown import book

Format = Literal["jsonl", "seed", "markdown", "text"]
"""`jsonl` is what poems are kept in; the others can be made of it at any time."""

_SUFFIXES: dict[Format, str] = {
    "jsonl": ".jsonl",
    "seed": ".json",
    "markdown": ".md",
    "text": ".txt",
}


class OriginalPoem(msgspec.Struct, frozen=True, kw_only=True):
    """A poem as the original project's generator wrote it."""

    title: str
    checkpoint_number: int | None
    checkpoint_path: str
    body: str
    prompt_token: int | None
    generate_token: int | None
    prompt_variant_index: int
    """From 0, in the order the variants first come in the file."""


def files_of(output: Path, wanted: Format | None) -> tuple[Path, Path | None, Format]:
    """Where poems are kept, and what else is made of them.

    Args:
        output: As given: `poems.jsonl`, `poems.md`, or the original project's bare name.
        wanted: The format, if it is given too.

    Returns:
        The JSON Lines file; the other file, None if there is none; its format.
    """
    named = format_of(output)
    stem = output if named is None else output.with_suffix("")
    format_ = wanted or named or "seed"
    kept = stem.with_name(stem.name + _SUFFIXES["jsonl"])
    made = stem.with_name(stem.name + _SUFFIXES[format_])
    return kept, (None if format_ == "jsonl" else made), format_


def format_of(path: Path) -> Format | None:
    """The format that a file's ending stands for."""
    return next((name for name, suffix in _SUFFIXES.items() if suffix == path.suffix), None)


def write_as(format_: Format, poems: Sequence[Candidate], path: Path) -> None:
    """Write poems in another format, the whole file at once.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        replace_file(path, [encode(format_, poems)])
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}.") from error


def encode(format_: Format, poems: Sequence[Candidate]) -> bytes:
    """The content of a file."""
    if format_ == "jsonl":
        return msgspec.json.Encoder().encode_lines(poems)
    if format_ == "seed":
        themes = msgspec.to_builtins(_by_theme(poems))
        return msgspec.json.format(msgspec.json.encode(themes), indent=4) + b"\n"
    if format_ == "markdown":
        return book("诗", ((poem.theme, poem.text) for poem in poems)).encode()
    return "\n\n\n".join(f"{poem.theme}\n\n{poem.text}" for poem in poems).encode() + b"\n"


def _by_theme(poems: Sequence[Candidate]) -> dict[str, list[OriginalPoem]]:
    variants: dict[str | None, int] = {}
    themes: dict[str, list[OriginalPoem]] = defaultdict(list)
    for poem in poems:
        number = variants.setdefault(poem.variant, len(variants))
        themes[poem.theme].append(_original_poem(poem, number))
    return themes


def _original_poem(poem: Candidate, variant: int) -> OriginalPoem:
    return OriginalPoem(
        title=poem.theme,
        checkpoint_number=poem.checkpoint if isinstance(poem.checkpoint, int) else None,
        checkpoint_path=_checkpoint_path(poem),
        body=poem.text,
        prompt_token=poem.prompt_tokens,
        generate_token=poem.completion_tokens,
        prompt_variant_index=variant,
    )


def _checkpoint_path(poem: Candidate) -> str:
    """Within the adapters folder; empty for the base."""
    if poem.adapter is None:
        return ""
    step = poem.checkpoint
    file = checkpoint_file(step) if isinstance(step, int) else "adapters.safetensors"
    return f"{poem.adapter}/{file}"
