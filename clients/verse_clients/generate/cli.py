"""`verse generate`: write poems in bulk. `report` and `convert` read what was written.

Nothing heavy is imported before a command runs: `verse --help` loads this module.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from verse.terminal import show
from verse_clients.errors import InputError, SelectionError
from verse_clients.generate import options
from verse_clients.option_groups import grouped
from verse_clients.server_options import Json

if TYPE_CHECKING:
    from verse.records import Candidate
    from verse_clients.generate.checkpoints import Selection
    from verse_clients.generate.session import Conduct, Order, Session
    from verse_clients.generate.summary import RunFigures

_INTERRUPTED = 130

app = typer.Typer(
    add_completion=False,
    invoke_without_command=True,
    pretty_exceptions_show_locals=False,
    help="Write poems in bulk, on many themes, by many adapters and checkpoints.",
)


@app.callback()
@grouped
def generate(
    context: typer.Context,
    wanted: options.Wanted,
    draw: options.Draw,
    files: options.Files,
    marking: options.Marking,
    asking: options.Asking,
    dry_run: options.DryRun = False,
    as_json: Json = False,
) -> None:
    """Write poems in bulk, on many themes, by many adapters and checkpoints."""
    if context.invoked_subcommand is not None:
        return
    from verse_clients.generate.formats import files_of
    from verse_clients.generate.session import Session

    poems, made, kind = files_of(files.output, files.format)
    conduct = _conduct(poems, marking, asking, extend=files.extend)
    session = Session(_order(wanted, draw), conduct, asking.base_url, asking.api_key)
    if dry_run:
        show("\n".join(asyncio.run(session.describe())))
        return

    def finish() -> None:
        if session.poems:
            _convert(session.poems, kind, made, with_blocked=files.with_blocked)
            _show(session.poems, session.figures(), as_json=as_json)

    _carry_out(session, finish)


@app.command()
def report(poems: options.Poems, as_json: Json = False) -> None:
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


def _order(wanted: options.Wanted, draw: options.Draw) -> "Order":
    import msgspec

    from verse.records import Sampling
    from verse_clients.generate.inputs import read_variants
    from verse_clients.generate.session import Order

    return Order(
        themes=_themes(wanted.themes, wanted.words),
        variants=[None] if wanted.variants is None else read_variants(wanted.variants),
        adapters=[name for part in wanted.adapters.split(",") if (name := part.strip())],
        selection=_selection(wanted.checkpoints, wanted.epoch_step, wanted.start_epoch),
        base=wanted.model,
        num_samples=wanted.num_samples,
        seed=wanted.seed,
        common_seeds=wanted.common_seeds,
        sampling=Sampling(**msgspec.structs.asdict(draw)),
    )


def _conduct(
    poems: Path, marking: options.Marking, asking: options.Asking, *, extend: bool
) -> "Conduct":
    from verse_clients.generate.inputs import DEFAULT_TRAINING
    from verse_clients.generate.session import Conduct
    from verse_clients.screening import CopyLimits

    usual = [DEFAULT_TRAINING] if DEFAULT_TRAINING.exists() else []
    return Conduct(
        poems=poems,
        extend=extend,
        training=usual if marking.training is None else marking.training,
        accepted=marking.accepted or [],
        near=marking.near,
        limits=CopyLimits(marking.copy_warn, marking.copy_block, marking.copy_share),
        concurrency=asking.concurrency,
        wait_seconds=asking.wait,
        timeout_seconds=asking.timeout,
    )


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
        show(session.so_far("Stopped."), stderr=True)
        raise typer.Exit(_INTERRUPTED)


def _convert(
    poems: "Sequence[Candidate]", kind: options.FormatName, path: Path | None, *, with_blocked: bool
) -> None:
    from verse_clients.generate.formats import write_as

    if path is not None:
        write_as(kind, [poem for poem in poems if with_blocked or not poem.blocked], path)


def _show(poems: "Sequence[Candidate]", run: "RunFigures | None" = None, *, as_json: bool) -> None:
    from verse.terminal import show_json, show_parts
    from verse_clients.generate.summary import summarise, tables

    summary = summarise(poems, run)
    show_json(summary) if as_json else show_parts(tables(summary))
