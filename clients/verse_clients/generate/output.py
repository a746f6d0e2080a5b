"""The file that poems go to, one a line, and the other files that are made of it.

A poem counts as written when it is on the disk. The file is the run's only memory: what is in it is
not asked for again. The original project's list with its text, Markdown and plain text can be made
of it at any time.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from verse import jsonl
from verse.adapter_folder import checkpoint_file
from verse.atomic_file import replace_file
from verse.journal import AsyncJournal
from verse.prompt import THEME_SLOT
from verse.records import Candidate
from verse.terminal import counted
from verse_clients.errors import InputError, OutputError
from verse_clients.generate.plan import Cell, unexpected
from verse_clients.markdown import book

Format = Literal["jsonl", "seed", "markdown", "text"]
"""`jsonl` is what poems are kept in; the others can be made of it at any time."""

_SUFFIXES: dict[Format, str] = {
    "jsonl": ".jsonl",
    "seed": ".json",
    "markdown": ".md",
    "text": ".txt",
}

_DECODER = msgspec.json.Decoder(Candidate)


class Output:
    """An open file of poems; this process is the only one that writes it."""

    def __init__(self, path: Path, report: Callable[[str], object]) -> None:
        """Open the file, or begin it.

        Args:
            path: The file.
            report: Takes a line for the person who waits.

        Raises:
            InputError: it holds something else.
            OutputError: it is in use, or cannot be written.
        """
        taken = OutputError(f"{path} is being written by another run; wait, or name another.")
        try:
            self._journal = AsyncJournal(path, _DECODER, taken)
        except jsonl.JsonlError as error:
            raise InputError(f"{error} It holds no poems.") from error
        except OSError as error:
            raise OutputError(f"{path} cannot be read: {error.strerror}.") from error
        if self._journal.problem is not None:
            raise OutputError(f"{path} cannot be written: {self._journal.problem}.")
        self.torn = self._journal.torn
        """Where a last line that was cut off was moved to."""
        self.poems = list(self._journal.entries)
        """What was in it when it was opened."""
        self._report = report
        self._reported: str | None = None

    @property
    def path(self) -> Path:
        """Where poems go; it changes if somebody replaces the file."""
        return self._journal.path

    @property
    def recovered(self) -> str | None:
        """What happened to the file meanwhile, and where its poems are, in one sentence."""
        return self._journal.recovered

    async def write(self, poem: Candidate) -> None:
        """Add a poem; returns when it is on the disk.

        Being cancelled takes nothing back: `close` waits for it.

        Raises:
            OutputError: the disk refuses.
        """
        self._check(is_there=await self._journal.add(poem))

    async def close(self) -> None:
        """Wait for what is being written, try a last time what was refused, and let the file go.

        Raises:
            OutputError: the disk refuses.
        """
        self._check(is_there=await self._journal.finish())

    def _check(self, *, is_there: bool) -> None:
        self._report_recovered()
        if not is_there:
            reason = f"{self.path} cannot be written: {self._journal.problem}"
            raise OutputError(f"{reason}; run the same command again when it can.")

    def _report_recovered(self) -> None:
        if self.recovered is not None and self.recovered != self._reported:
            self._report(self.recovered)
        self._reported = self.recovered


def check_plan(path: Path, plan: Iterable[Cell], written: Sequence[Candidate]) -> None:
    """Refuse to mix the poems of two plans.

    Raises:
        OutputError: the file has poems that the plan does not ask for.
    """
    others = unexpected(plan, written)
    if others:
        raise OutputError(
            f"{path} holds {counted(len(others), 'poem')} of another plan (such as one on "
            f"{others[0].theme!r}); name another file with -o, or add to it with --extend."
        )


class OriginalPoem(msgspec.Struct, frozen=True, kw_only=True):
    """A poem as the original project's generator wrote it, and as its other scripts read it."""

    title: str
    prompt: str
    checkpoint_number: int
    """0 where there is none: its scripts calculate with it."""
    checkpoint_path: str
    body: str
    prompt_token: int | None
    generate_token: int | None
    prompt_variant_index: int
    """From 1, in the order the variants first come in the file."""


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


def check_made(format_: Format, path: Path) -> None:
    """Refuse to replace a text that was not made together with the list beside it.

    Raises:
        OutputError: there is such a text; it may be anybody's.
    """
    text = path.with_suffix(_SUFFIXES["text"])
    if format_ == "seed" and text.exists() and not path.exists():
        raise OutputError(f"{text} is there already; name another output, or move that away.")


def write_as(format_: Format, poems: Sequence[Candidate], path: Path) -> None:
    """Write poems in another format, each file at once.

    `seed` has a text for reading beside it, unless there is one that was not made with the list.

    Raises:
        OutputError: a file cannot be written.
    """
    text = path.with_suffix(_SUFFIXES["text"])
    has_text = format_ == "seed" and (path.exists() or not text.exists())
    try:
        replace_file(path, [encode(format_, poems)])
        if has_text:
            bodies = (f"{poem.body}\n\n" for poem in _original_poems(poems))
            replace_file(text, ["".join(bodies).encode()])
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}.") from error


def encode(format_: Format, poems: Sequence[Candidate]) -> bytes:
    """The content of a file."""
    if format_ == "jsonl":
        return msgspec.json.Encoder().encode_lines(poems)
    if format_ == "seed":
        rows = msgspec.to_builtins(_original_poems(poems))
        # As its scripts write it, to the byte.
        return json.dumps(rows, ensure_ascii=False, indent=2).encode()
    if format_ == "markdown":
        return book("诗", ((poem.theme, poem.text) for poem in poems)).encode()
    return "\n\n\n".join(f"{poem.theme}\n\n{poem.text}" for poem in poems).encode() + b"\n"


def _original_poems(poems: Sequence[Candidate]) -> list[OriginalPoem]:
    """Each text once, by the poem that had it first, as there; and none that is blank."""
    variants: dict[str | None, int] = {}
    rows: dict[str, OriginalPoem] = {}
    for poem in poems:
        number = variants.setdefault(poem.variant, len(variants) + 1)
        if body := poem.text.strip():
            rows.setdefault(body, _original_poem(poem, body, number))
    return list(rows.values())


def _original_poem(poem: Candidate, body: str, variant: int) -> OriginalPoem:
    return OriginalPoem(
        title=poem.theme,
        prompt=(poem.variant or THEME_SLOT).replace(THEME_SLOT, poem.theme),
        checkpoint_number=poem.checkpoint if isinstance(poem.checkpoint, int) else 0,
        checkpoint_path=_checkpoint_path(poem),
        body=body,
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
