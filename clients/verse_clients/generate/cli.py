"""`verse generate`: write poems in bulk. `report` and `convert` read what was written.

Nothing heavy is imported before a command runs: `verse --help` loads this module.
"""

import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from verse_clients.generate import options
from verse_clients.generate.errors import InputError, SelectionError

if TYPE_CHECKING:
    from verse.records import Candidate
    from verse_clients.generate.checkpoints import Selection
    from verse_clients.generate.session import Session
    from verse_clients.generate.summary import RunFigures

_INTERRUPTED = 130

app = typer.Typer(
    add_completion=False,
    invoke_without_command=True,
    pretty_exceptions_show_locals=False,
    help="Write poems in bulk, on many themes, by many adapters and checkpoints.",
)


@app.callback()
def generate(
    context: typer.Context,
    themes: options.Themes = None,
    words: options.Words = None,
    adapters: options.Adapters = "",
    checkpoints: options.Checkpoints = None,
    variants: options.Variants = None,
    num_samples: options.NumSamples = 1,
    output: options.Output = Path("poems.jsonl"),
    format_: options.Format = None,
    with_blocked: options.WithBlocked = False,
    model: options.Model = None,
    epoch_step: options.EpochStep = None,
    start_epoch: options.StartEpoch = None,
    seed: options.Seed = 0,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    min_p: options.MinP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    max_tokens: options.MaxTokens = 400,
    training: options.Training = None,
    accepted: options.Accepted = None,
    near: options.Near = 0.8,
    copy_warn: options.CopyWarn = 8,
    copy_block: options.CopyBlock = 13,
    copy_share: options.CopyShare = 0.5,
    concurrency: options.Concurrency = None,
    wait: options.Wait = 3600,
    timeout: options.Timeout = 600,
    extend: options.Extend = False,
    base_url: options.BaseUrl = None,
    api_key: options.ApiKey = None,
    dry_run: options.DryRun = False,
    as_json: options.AsJson = False,
) -> None:
    """Write poems in bulk, on many themes, by many adapters and checkpoints."""
    if context.invoked_subcommand is not None:
        return
    from verse.records import Sampling
    from verse_clients.copies import CopyLimits
    from verse_clients.generate.formats import files_of
    from verse_clients.generate.inputs import DEFAULT_TRAINING, read_variants
    from verse_clients.generate.session import Conduct, Order, Session

    order = Order(
        themes=_themes(themes, words),
        variants=[None] if variants is None else read_variants(variants),
        adapters=[name for part in adapters.split(",") if (name := part.strip())],
        selection=_selection(checkpoints, epoch_step, start_epoch),
        base=model,
        num_samples=num_samples,
        seed=seed,
        sampling=Sampling(
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            max_tokens=max_tokens,
        ),
    )
    if training is None:
        training = [DEFAULT_TRAINING] if DEFAULT_TRAINING.exists() else []
    poems, made, kind = files_of(output, format_)
    conduct = Conduct(
        poems=poems,
        extend=extend,
        training=training,
        accepted=accepted or [],
        near=near,
        limits=CopyLimits(copy_warn, copy_block, copy_share),
        concurrency=concurrency,
        wait_seconds=wait,
        timeout_seconds=timeout,
    )
    session = Session(order, conduct, base_url, api_key)
    if dry_run:
        print("\n".join(asyncio.run(session.describe())))
        return

    def finish() -> None:
        if session.poems:
            _convert(session.poems, kind, made, with_blocked=with_blocked)
            _show(session.poems, session.figures(), as_json=as_json)

    _carry_out(session, finish)


@app.command()
def report(poems: options.Poems, as_json: options.AsJson = False) -> None:
    """Tell what a file of poems is worth, by adapter and checkpoint: copies, diversity."""
    from verse_clients.generate.inputs import read_candidates

    _show(read_candidates(poems), as_json=as_json)


@app.command()
def convert(
    poems: options.Poems,
    output: options.Made,
    format_: options.Format = None,
    with_blocked: options.WithBlocked = False,
) -> None:
    """Make the original project's JSON, Markdown or plain text of a file of poems."""
    from verse_clients.generate.formats import format_of
    from verse_clients.generate.inputs import read_candidates

    kind = format_ or format_of(output)
    if kind is None:
        raise InputError(f"Name a --format for {output}, or end it in .json, .md or .txt.")
    _convert(read_candidates(poems), kind, output, with_blocked=with_blocked)


def _themes(file: Path | None, words: str | None) -> list[str]:
    from verse_clients.generate.inputs import read_themes

    themes = [] if file is None else read_themes(file)
    themes += [] if words is None else words.split()
    if not themes:
        raise InputError("Name themes: --themes FILE with one a line, or -p 'WORD WORD'.")
    return list(dict.fromkeys(themes))


def _selection(text: str | None, step: int | None, first: int | None) -> "Selection":
    from verse_clients.generate.checkpoints import PUBLISHED, Interval, parse_checkpoints

    if step is None and first is None:
        return parse_checkpoints(PUBLISHED if text is None else text)
    if text is not None:
        raise SelectionError("Give --checkpoints or -e and --start-epoch, not both.")
    step = step or 1
    return Interval(step if first is None else first, step)


def _carry_out(session: "Session", finish: Callable[[], None]) -> None:
    is_stopped = False
    try:
        asyncio.run(session.run())
    except KeyboardInterrupt:
        is_stopped = True
    finally:
        finish()
    if is_stopped:
        print(session.so_far("Stopped."), file=sys.stderr)
        raise typer.Exit(_INTERRUPTED)


def _convert(
    poems: "Sequence[Candidate]", kind: options.FormatName, path: Path | None, *, with_blocked: bool
) -> None:
    from verse_clients.generate.formats import write_as

    if path is not None:
        write_as(kind, [poem for poem in poems if with_blocked or not poem.blocked], path)


def _show(poems: "Sequence[Candidate]", run: "RunFigures | None" = None, *, as_json: bool) -> None:
    import msgspec
    from rich.console import Console

    from verse_clients.generate.summary import summarise, tables

    summary = summarise(poems, run)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(summary)).decode())
        return
    console = Console()
    for part in tables(summary):
        console.print(part, markup=False, highlight=False)
