"""`verse adapters compare`: poems of several models on the same themes, side by side.

A running server is asked. All poems of a theme have one seed, so what differs between columns is
the model. The command stands under `verse adapters`, whose others are the trainer's.

Nothing heavy is imported before the command runs: `verse adapters --help` loads this module.
"""

import asyncio
import html
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from verse.atomic_file import replace_file
from verse.prompt import Message
from verse.terminal import console, show, shown, wide_console
from verse_clients.answers import Answer
from verse_clients.errors import InputError, NoCompletionError, OutputError

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from verse_clients.openai_client import AsyncServer

MAX_REQUESTS = 8
"""At once, so that the server can batch."""
CUT_OFF = "[cut off: --max-tokens was reached]"

app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False, rich_markup_mode=None)


class SideBySide(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for every cell of the comparison."""

    models: tuple[str, ...]
    """In any spelling the server knows: `xuzhimo@85`, `xuzhimo:0.6`, a blend."""
    themes: tuple[str, ...]
    n: int = 1
    seed: int = 0
    """Of the first theme; the next one has the next number."""
    temperature: float | None = None
    """None: the server's own default."""
    max_tokens: int | None = None


class ThemeRow(msgspec.Struct, frozen=True):
    """All answers to one theme, model by model."""

    theme: str
    seed: int
    columns: tuple[tuple[str, ...], ...]
    """One for each model: its poems, as they are shown."""


@app.command()
def compare(
    models: Annotated[list[str], typer.Argument(help="As the server spells them: xuzhimo@85:0.6.")],
    themes: Annotated[str, typer.Option(help="Separated by commas, or a file with one a line.")],
    base_url: Annotated[
        str, typer.Option(envvar="OPENAI_BASE_URL", help="The server to ask.")
    ] = "http://127.0.0.1:8000/v1",
    api_key: Annotated[
        str | None,
        typer.Option(envvar="OPENAI_API_KEY", show_default=False, help="If it wants one."),
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, max=128, help="Poems per model and theme.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the first theme; the next adds one.")] = 0,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=2, show_default="the server's")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, show_default="the server's", help="Length of a poem.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write Markdown here.", show_default=False)
    ] = None,
) -> None:
    """Print poems of several models side by side; a server must be running."""
    if output is not None and (output.exists() or output.is_symlink()):
        raise OutputError(f"{output} already exists; choose another file or remove it first.")
    if not base_url.strip():
        raise InputError("--base-url is empty; write the address of a server.")
    wanted = SideBySide(
        models=tuple(models),
        themes=read_themes(themes),
        n=n,
        seed=seed,
        temperature=temperature,
        max_tokens=max_tokens,
    )
    rows = asyncio.run(_asked(wanted, base_url, api_key))
    if output is None:
        wide_console().print(as_tables(wanted.models, rows))
    else:
        replace_file(output, [as_markdown(wanted.models, rows).encode()])
        show(output)


def read_themes(text: str) -> tuple[str, ...]:
    """Themes from a file, one a line, or from the text itself, with commas between them.

    Raises:
        InputError: there is none, or the file cannot be read.
    """
    from verse_clients.generate import inputs

    if _is_file(Path(text)):
        return tuple(inputs.read_themes(Path(text)))
    themes = text.replace("，", ",").split(",")
    found = tuple(dict.fromkeys(theme.strip() for theme in themes if theme.strip()))
    if not found:
        raise InputError(f"There is no theme in {text!r}; write --themes 河,母亲 or name a file.")
    return found


async def ask(
    server: "AsyncServer", wanted: SideBySide, on_answer: Callable[[], object] = lambda: None
) -> list[ThemeRow]:
    """Ask for everything, a few requests at a time.

    Raises:
        ServerError: the server is down, wants a key, or refused one of the requests.
    """
    gate = asyncio.Semaphore(MAX_REQUESTS)

    async def cell(model: str, theme: str, seed: int) -> tuple[str, ...]:
        async with gate:
            poems = await _poems(server, wanted, model, theme, seed)
        on_answer()
        return poems

    seeds = {theme: wanted.seed + place for place, theme in enumerate(wanted.themes)}
    try:
        async with asyncio.TaskGroup() as group:
            tasks = {
                theme: [group.create_task(cell(model, theme, seed)) for model in wanted.models]
                for theme, seed in seeds.items()
            }
    except BaseExceptionGroup as errors:  # what has not been asked yet need not be
        raise errors.exceptions[0] from None
    return [
        ThemeRow(theme, seeds[theme], tuple(task.result() for task in row))
        for theme, row in tasks.items()
    ]


def as_tables(models: Sequence[str], rows: Sequence[ThemeRow]) -> "Group":
    """One table per theme, one column per model."""
    from rich.console import Group

    return Group(*(_table(models, row) for row in rows))


def as_markdown(models: Sequence[str], rows: Sequence[ThemeRow]) -> str:
    """The same as a document; lines of a poem are kept, and no poem becomes markup."""
    return "\n".join(_markdown_lines(models, rows)) + "\n"


async def _asked(wanted: SideBySide, base_url: str, api_key: str | None) -> list[ThemeRow]:
    from rich.progress import Progress

    from verse_clients.openai_client import AsyncServer

    server = AsyncServer(base_url, api_key)
    out = console(stderr=True)
    try:
        with Progress(console=out, transient=True, disable=not out.is_terminal) as progress:
            total = len(wanted.models) * len(wanted.themes)
            task = progress.add_task("writing", total=total)
            return await ask(server, wanted, lambda: progress.advance(task))
    finally:
        await server.close()


async def _poems(
    server: "AsyncServer", wanted: SideBySide, model: str, theme: str, seed: int
) -> tuple[str, ...]:
    answers = await server.complete_several(
        model,
        [Message("user", theme)],
        n=wanted.n,
        seed=seed,
        temperature=wanted.temperature,
        max_tokens=wanted.max_tokens,
    )
    if not all(answer.text or answer.finish_reason for answer in answers):
        raise NoCompletionError(f"{server.base_url} sent no chat completion.")
    return tuple(map(_shown, answers))


def _shown(answer: Answer) -> str:
    text = answer.text.strip()
    return f"{text}\n{CUT_OFF}" if answer.finish_reason == "length" else text


def _table(models: Sequence[str], row: ThemeRow) -> "Table":
    from rich.table import Table
    from rich.text import Text

    # Names and poems are text: rich would take [brackets] in them for markup.
    table = Table(title=Text(_heading(row)), show_lines=True, expand=True, title_justify="left")
    for model in models:
        table.add_column(Text(model), ratio=1, overflow="fold")
    for poems in _lines(row):
        table.add_row(*map(Text, poems))
    return table


def _markdown_lines(models: Sequence[str], rows: Sequence[ThemeRow]) -> Iterator[str]:
    yield "# Poems side by side"
    for row in rows:
        yield f"\n## {_escaped(_heading(row))}\n"
        yield _markdown_row(map(_escaped, models))
        yield _markdown_row("---" for _ in models)
        for poems in _lines(row):
            yield _markdown_row(map(_escaped, poems))


def _markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _lines(row: ThemeRow) -> Iterator[tuple[str, ...]]:
    """The first poem of every model, then the second; nothing where a model gave fewer."""
    for place in range(max(map(len, row.columns), default=0)):
        yield tuple(c[place] if place < len(c) else "" for c in row.columns)


def _heading(row: ThemeRow) -> str:
    return f"{row.theme} (seed {row.seed})"


def _escaped(text: str) -> str:
    escaped = html.escape(shown(text), quote=False)
    for character in "\\`*_[]|#~":
        escaped = escaped.replace(character, f"\\{character}")
    return "<br>".join(escaped.splitlines())


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a list of themes can be longer than a name may be
        return False
