"""`verse generate`: write poems in bulk. `report` and `convert` read what was written.

Nothing heavy is imported before a command runs: `verse --help` loads this module.
"""

import asyncio
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from verse.folders import RULE
from verse.terminal import show
from verse_clients.errors import InputError, SelectionError
from verse_clients.options import (
    GENERATE_CONCURRENCY,
    Json,
    OptionGroup,
    WaitOptions,
    flag,
    grouped,
    repeated,
    requests_at_once,
)

if TYPE_CHECKING:
    from verse.records import Candidate
    from verse_clients.chat_prompts import Prompt
    from verse_clients.generate.catalogue import Selection
    from verse_clients.generate.run import GenerationOptions, GenerationRun, PlanOptions
    from verse_clients.generate.summary import RunFigures

_INTERRUPTED = 130
_PROMPT_FLAGS = ("--prompts", "--prompt", "--prompt-list")

FormatName = Literal["jsonl", "seed", "markdown", "text"]
Format = Annotated[
    FormatName | None,
    typer.Option(
        "--format",
        show_default="by the ending: .json seed, .md markdown, .txt text",
        help="Another file to make of the poems as well.",
    ),
]
WithBlocked = Annotated[
    bool, typer.Option("--with-blocked", help="Include copies, duplicates and empty poems.")
]
Poems = Annotated[Path, typer.Argument(help="A file written by verse generate.")]
Made = Annotated[Path, typer.Option("-o", "--output", help="The file to write.")]


class PlanFlags(OptionGroup):
    """Which poems: the plan but for sampling."""

    themes: Annotated[Path | None, flag("A file with one theme per line.")] = None
    words: Annotated[
        list[str] | None,
        flag(
            "Themes: several words, or one text with spaces or lines between them; a whole prompt "
            "with <|im_start|> is one.",
            "-p",
            *_PROMPT_FLAGS,
        ),
    ] = None
    adapters: Annotated[
        str,
        flag("Names or folders, separated by commas; `base` is the base model.", shown="all"),
    ] = ""
    original_adapters: Annotated[
        str,
        flag(
            "The original project's: as --adapters, or a checkpoint's file; writes with every "
            "checkpoint from step 1000 on unless -e or --checkpoints says otherwise.",
            "-a",
            "--adapter-dir",
            "--adapter-path",
            shown=False,
        ),
    ] = ""
    checkpoints: Annotated[
        str | None,
        flag(
            "published, best, last, all, a step, 200-1200 or every:2; several with commas.",
            shown="published",
        ),
    ] = None
    start_epoch: Annotated[
        int | None,
        flag("The original project's: every saved checkpoint from this step on.", "-e", min=0),
    ] = None
    variants: Annotated[
        Path | None, flag("A file with one prompt per line; {theme} stands for the theme.")
    ] = None
    num_samples: Annotated[int, flag("Poems per theme, prompt and checkpoint.", "-n", min=1)] = 1
    seed: Annotated[int, flag("Another seed gives other poems.")] = 0
    common_seeds: Annotated[bool, flag("Use the same seeds for all adapters, to compare them.")] = (
        False
    )
    model: Annotated[
        str | None, flag("The base the server must have, or a model of another server.", "-m")
    ] = None


class FileFlags(OptionGroup):
    """Where poems go."""

    output: Annotated[
        Path, flag("The file; a name without an ending makes .jsonl, .json and .txt.", "-o")
    ] = Path("poems.jsonl")
    format: Format = None
    with_blocked: WithBlocked = False
    extend: Annotated[bool, flag("Add to a file that has poems of another plan.")] = False


class SamplingFlags(OptionGroup):
    """How tokens are drawn; the names are those of `verse.records.Sampling`."""

    temperature: Annotated[
        float | None,
        flag("0 always takes the likeliest token.", "--temperature", "--temp", min=0, max=2),
    ] = None
    top_p: Annotated[
        float | None, flag("Sample from the likeliest tokens up to this probability.", min=0, max=1)
    ] = None
    top_k: Annotated[
        int | None, flag("Sample from this many likeliest tokens; -1 for all.", min=-1)
    ] = None
    min_p: Annotated[
        float | None, flag("Least probability, relative to the likeliest token.", min=0, max=1)
    ] = None
    repetition_penalty: Annotated[
        float | None, flag("Above 1, less repetition.", min=0.01, max=10)
    ] = None
    max_tokens: Annotated[int, flag("A longer poem is cut off and marked.", min=1)] = 400


class MarkingFlags(OptionGroup):
    """What counts as a duplicate or a copy."""

    training: Annotated[
        list[Path] | None,
        flag("Poems that must not be copied.", shown="data/poems.jsonl if it is there"),
    ] = None
    accepted: Annotated[
        list[Path] | None, flag("decisions.jsonl or poems that must not be repeated.")
    ] = None
    near: Annotated[float, flag("Poems at least this similar are duplicates.", min=0, max=1)] = 0.8
    copy_warn: Annotated[int, flag("Copied characters in a row worth reporting.", min=4)] = 8
    copy_block: Annotated[int, flag("Copied characters in a row that block a poem.", min=4)] = 13
    copy_share: Annotated[float, flag("Copied share that blocks a poem.", min=0, max=1)] = 0.5


class ServerFlags(WaitOptions):
    """Which server, and how it is asked."""

    concurrency: Annotated[int | None, requests_at_once(GENERATE_CONCURRENCY)] = None
    batch: Annotated[
        bool,
        flag("Give the server, one with --jobs, all requests in one file and fetch the poems."),
    ] = False
    base_urls: Annotated[
        list[str] | None,
        flag(
            "The server's address; again for another one that shares the work.",
            "--base-url",
            envvar="OPENAI_BASE_URL",
            shown="http://127.0.0.1:8000/v1",
        ),
    ] = None
    api_key: Annotated[
        str | None, flag("Its API key, if it needs one.", envvar="OPENAI_API_KEY")
    ] = None


DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the plan and its size; write nothing.")
]


class _TakesSeveralWords(TyperGroup):
    """Takes `-p 河 雨`: options of Typer's have one value, and the next would be a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, repeated(args, ("-p", *_PROMPT_FLAGS)))


app = typer.Typer(
    cls=_TakesSeveralWords,
    add_completion=False,
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_show_locals=False,
    help="Write poems in bulk, on many themes, by many adapters and checkpoints.",
)


@app.callback(epilog=RULE)
@grouped
def generate(
    context: typer.Context,
    plan: PlanFlags,
    sampling: SamplingFlags,
    files: FileFlags,
    marking: MarkingFlags,
    server: ServerFlags,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Write poems in bulk, on many themes, by many adapters and checkpoints."""
    if context.invoked_subcommand is not None:
        return
    from verse_clients.generate.output import check_made, files_of
    from verse_clients.generate.run import GenerationRun

    poems, made, kind = files_of(files.output, files.format)
    if made is not None and not poems.exists():
        check_made(kind, made)
    how = _generation_options(poems, marking, server, extend=files.extend)
    asked = _plan_options(plan, sampling)
    with _addresses(plan, server) as base_urls:
        run = GenerationRun(asked, how, base_urls, server.api_key)
        if dry_run:
            show("\n".join(asyncio.run(run.describe())))
            return

        def finish() -> None:
            if run.poems:
                _convert(run.poems, kind, made, with_blocked=files.with_blocked)
                _show(run.poems, run.figures(), as_json=as_json)

        _carry_out(run, finish)


@app.command()
def report(poems: Poems, as_json: Json = False) -> None:
    """Report copies and diversity of a file of poems, by adapter and checkpoint."""
    from verse_clients.generate.inputs import read_candidates

    _show(read_candidates(poems), as_json=as_json)


@app.command()
def convert(
    poems: Poems,
    output: Made,
    format_: Format = None,
    with_blocked: WithBlocked = False,
) -> None:
    """Convert a file of poems to the original project's JSON, Markdown or plain text."""
    from verse_clients.generate.inputs import read_candidates
    from verse_clients.generate.output import format_of

    kind = format_ or format_of(output)
    if kind is None:
        raise InputError(f"Name a --format for {output}, or end it in .json, .md or .txt.")
    _convert(read_candidates(poems), kind, output, with_blocked=with_blocked)


@contextmanager
def _addresses(plan: PlanFlags, server: ServerFlags) -> Generator[list[str | None]]:
    """Where to ask. Like the original's script, `-a` loads the base itself if no server runs here.

    Yields:
        As `AsyncServer` takes it.
    """
    from verse.adapter_folder import folder_at
    from verse.folders import EMBEDDED_BASE
    from verse_clients.local_server import is_listening, local_server
    from verse_clients.openai_client import DEFAULT_BASE_URL

    adapters = _names(plan.original_adapters)
    if server.base_urls or not adapters or is_listening(DEFAULT_BASE_URL):
        yield [*(server.base_urls or [None])]
        return
    show(f"No server runs on this machine: loading {plan.model or EMBEDDED_BASE}.", stderr=True)
    folder = next(filter(None, map(folder_at, adapters)), None)
    flags = () if folder is None else ("--adapters", str(folder.parent))
    with local_server(*flags, *(() if plan.model is None else ("--model", plan.model))) as address:
        yield [address]


def _plan_options(plan: PlanFlags, sampling: SamplingFlags) -> "PlanOptions":
    import msgspec

    from verse.records import Sampling
    from verse_clients.generate.inputs import read_variants
    from verse_clients.generate.run import PlanOptions

    themes, prompts = _asked(plan.themes, plan.words or [])
    return PlanOptions(
        themes=themes,
        prompts=prompts,
        variants=[None] if plan.variants is None else read_variants(plan.variants),
        adapters=[*_names(plan.adapters), *map(_path_or_name, _names(plan.original_adapters))],
        selection=_selection(
            plan.checkpoints, plan.start_epoch, is_original=bool(plan.original_adapters)
        ),
        base=plan.model,
        num_samples=plan.num_samples,
        seed=plan.seed,
        common_seeds=plan.common_seeds,
        sampling=Sampling(**msgspec.structs.asdict(sampling)),
    )


def _generation_options(
    poems: Path, marking: MarkingFlags, server: ServerFlags, *, extend: bool
) -> "GenerationOptions":
    from verse_clients.generate.inputs import usual_training
    from verse_clients.generate.run import GenerationOptions
    from verse_clients.screening import CopyLimits

    return GenerationOptions(
        poems=poems,
        extend=extend,
        training=usual_training() if marking.training is None else marking.training,
        accepted=marking.accepted or [],
        near=marking.near,
        limits=CopyLimits(marking.copy_warn, marking.copy_block, marking.copy_share),
        concurrency=server.concurrency,
        as_batch=server.batch,
        wait_seconds=server.wait,
        timeout_seconds=server.timeout,
    )


def _asked(file: Path | None, words: Sequence[str]) -> "tuple[list[str], list[Prompt]]":
    """Themes, and whole prompts that have theirs in them; each once."""
    from verse_clients.chat_prompts import prompts
    from verse_clients.generate.inputs import read_themes

    typed = [prompt for text in words for prompt in prompts(text)]
    themes = [] if file is None else read_themes(file)
    themes += [prompt.theme for prompt in typed if prompt.variant is None]
    whole = [prompt for prompt in typed if prompt.variant is not None]
    if not themes and not whole:
        raise InputError("Name themes: --themes FILE with one per line, or -p WORD WORD.")
    return list(dict.fromkeys(themes)), list(dict.fromkeys(whole))


def _names(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip())]


def _path_or_name(given: str) -> str:
    """What `-a` names, which for the original is a path: with a slash if there is such a folder."""
    from verse.adapter_folder import folder_at

    folder = folder_at(given)
    return given if folder is None or Path(given).name != given else str(Path(given).absolute())


def _selection(text: str | None, first: int | None, *, is_original: bool) -> "Selection":
    from verse_clients.generate import catalogue

    if text is not None and first is not None:
        raise SelectionError("Give --checkpoints or -e, not both.")
    if first is not None:
        return catalogue.FromStep(first)
    if text is None and is_original:
        return catalogue.ORIGINALS_CHECKPOINTS
    return catalogue.parse_checkpoints(catalogue.PUBLISHED if text is None else text)


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
    poems: "Sequence[Candidate]", kind: FormatName, path: Path | None, *, with_blocked: bool
) -> None:
    from verse_clients.generate.output import write_as

    if path is not None:
        write_as(kind, [poem for poem in poems if with_blocked or not poem.blocked], path)


def _show(poems: "Sequence[Candidate]", run: "RunFigures | None" = None, *, as_json: bool) -> None:
    from verse.terminal import show_json, show_parts
    from verse_clients.generate.summary import summarise, tables

    summary = summarise(poems, run)
    show_json(summary) if as_json else show_parts(tables(summary))
