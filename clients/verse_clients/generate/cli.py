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
from verse_clients.options import Json, grouped

if TYPE_CHECKING:
    from verse.records import Candidate
    from verse_clients.generate.catalogue import Selection
    from verse_clients.generate.run import GenerationOptions, GenerationRun, PlanOptions
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
    plan: options.PlanFlags,
    sampling: options.SamplingFlags,
    files: options.FileFlags,
    marking: options.MarkingFlags,
    server: options.ServerFlags,
    dry_run: options.DryRun = False,
    as_json: Json = False,
) -> None:
    """Write poems in bulk, on many themes, by many adapters and checkpoints."""
    if context.invoked_subcommand is not None:
        return
    from verse_clients.generate.output import files_of
    from verse_clients.generate.run import GenerationRun

    poems, made, kind = files_of(files.output, files.format)
    how = _generation_options(poems, marking, server, extend=files.extend)
    run = GenerationRun(_plan_options(plan, sampling), how, server.base_url, server.api_key)
    if dry_run:
        show("\n".join(asyncio.run(run.describe())))
        return

    def finish() -> None:
        if run.poems:
            _convert(run.poems, kind, made, with_blocked=files.with_blocked)
            _show(run.poems, run.figures(), as_json=as_json)

    _carry_out(run, finish)


@app.command()
def report(poems: options.Poems, as_json: Json = False) -> None:
    """Report copies and diversity of a file of poems, by adapter and checkpoint."""
    from verse_clients.generate.inputs import read_candidates

    _show(read_candidates(poems), as_json=as_json)


@app.command()
def convert(
    poems: options.Poems,
    output: options.Made,
    format_: options.Format = None,
    with_blocked: options.WithBlocked = False,
) -> None:
    """Convert a file of poems to the original project's JSON, Markdown or plain text."""
    from verse_clients.generate.inputs import read_candidates
    from verse_clients.generate.output import format_of

    kind = format_ or format_of(output)
    if kind is None:
        raise InputError(f"Name a --format for {output}, or end it in .json, .md or .txt.")
    _convert(read_candidates(poems), kind, output, with_blocked=with_blocked)


def _plan_options(plan: options.PlanFlags, sampling: options.SamplingFlags) -> "PlanOptions":
    import msgspec

    from verse.records import Sampling
    from verse_clients.generate.inputs import read_variants
    from verse_clients.generate.run import PlanOptions

    return PlanOptions(
        themes=_themes(plan.themes, plan.words),
        variants=[None] if plan.variants is None else read_variants(plan.variants),
        adapters=[name for part in plan.adapters.split(",") if (name := part.strip())],
        selection=_selection(plan.checkpoints, plan.epoch_step, plan.start_epoch),
        base=plan.model,
        num_samples=plan.num_samples,
        seed=plan.seed,
        common_seeds=plan.common_seeds,
        sampling=Sampling(**msgspec.structs.asdict(sampling)),
    )


def _generation_options(
    poems: Path, marking: options.MarkingFlags, server: options.ServerFlags, *, extend: bool
) -> "GenerationOptions":
    from verse_clients.generate.inputs import DEFAULT_TRAINING
    from verse_clients.generate.run import GenerationOptions
    from verse_clients.screening import CopyLimits

    usual = [DEFAULT_TRAINING] if DEFAULT_TRAINING.exists() else []
    return GenerationOptions(
        poems=poems,
        extend=extend,
        training=usual if marking.training is None else marking.training,
        accepted=marking.accepted or [],
        near=marking.near,
        limits=CopyLimits(marking.copy_warn, marking.copy_block, marking.copy_share),
        concurrency=server.concurrency,
        wait_seconds=server.wait,
        timeout_seconds=server.timeout,
    )


def _themes(file: Path | None, words: str | None) -> list[str]:
    from verse_clients.generate.inputs import read_themes

    themes = [] if file is None else read_themes(file)
    themes += [] if words is None else words.split()
    if not themes:
        raise InputError("Name themes: --themes FILE with one per line, or -p 'WORD WORD'.")
    return list(dict.fromkeys(themes))


def _selection(text: str | None, step: int | None, first: int | None) -> "Selection":
    from verse_clients.generate.catalogue import PUBLISHED, Interval, parse_checkpoints

    if step is None and first is None:
        return parse_checkpoints(PUBLISHED if text is None else text)
    if text is not None:
        raise SelectionError("Give --checkpoints or -e and --start-epoch, not both.")
    step = step or 1
    return Interval(step if first is None else first, step)


def _carry_out(run: "GenerationRun", finish: Callable[[], None]) -> None:
    is_stopped = False
    try:
        asyncio.run(run.run())
    except KeyboardInterrupt:
        is_stopped = True
    finally:
        finish()
    if is_stopped:
        show(run.so_far("Stopped."), stderr=True)
        raise typer.Exit(_INTERRUPTED)


def _convert(
    poems: "Sequence[Candidate]", kind: options.FormatName, path: Path | None, *, with_blocked: bool
) -> None:
    from verse_clients.generate.output import write_as

    if path is not None:
        write_as(kind, [poem for poem in poems if with_blocked or not poem.blocked], path)


def _show(poems: "Sequence[Candidate]", run: "RunFigures | None" = None, *, as_json: bool) -> None:
    from verse.terminal import show_json, show_parts
    from verse_clients.generate.summary import summarise, tables

    summary = summarise(poems, run)
    show_json(summary) if as_json else show_parts(tables(summary))
