"""The options of `verse generate` in groups, as its help tells them."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from verse_clients.options import OptionGroup, WaitOptions, requests_at_once

LOCAL_CONCURRENCY = 32  # as many rows as `verse serve` has in a batch
REMOTE_CONCURRENCY = 8

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

    themes: Annotated[
        Path | None, typer.Option("--themes", help="A file with one theme per line.")
    ] = None
    words: Annotated[
        str | None, typer.Option("-p", "--prompts", help="Themes, separated by spaces or newlines.")
    ] = None
    adapters: Annotated[
        str,
        typer.Option(
            "-a",
            "--adapters",
            show_default="all",
            help="Names or folders, separated by commas; `base` is the base model.",
        ),
    ] = ""
    checkpoints: Annotated[
        str | None,
        typer.Option(
            "--checkpoints",
            show_default="published",
            help="published, best, last, all, a step, 200-1200 or every:2; several with commas.",
        ),
    ] = None
    epoch_step: Annotated[
        int | None,
        typer.Option("-e", "--epoch-step", min=1, help="Only checkpoints this many steps apart."),
    ] = None
    start_epoch: Annotated[
        int | None, typer.Option("--start-epoch", min=0, help="Only checkpoints from this step on.")
    ] = None
    variants: Annotated[
        Path | None,
        typer.Option(
            "--variants", help="A file with one prompt per line; {theme} stands for the theme."
        ),
    ] = None
    num_samples: Annotated[
        int,
        typer.Option("-n", "--num-samples", min=1, help="Poems per theme, prompt and checkpoint."),
    ] = 1
    seed: Annotated[int, typer.Option("--seed", help="Another seed gives other poems.")] = 0
    common_seeds: Annotated[
        bool,
        typer.Option(
            "--common-seeds", help="Use the same seeds for all adapters, to compare them."
        ),
    ] = False
    model: Annotated[
        str | None,
        typer.Option(
            "-m", "--model", help="The base the server must have, or a model of another server."
        ),
    ] = None


class FileFlags(OptionGroup):
    """Where poems go."""

    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", help="The file; a name without an ending makes .jsonl and .json."
        ),
    ] = Path("poems.jsonl")
    format: Format = None
    with_blocked: WithBlocked = False
    extend: Annotated[
        bool, typer.Option("--extend", help="Add to a file that has poems of another plan.")
    ] = False


class SamplingFlags(OptionGroup):
    """How tokens are drawn; the names are those of `verse.records.Sampling`."""

    temperature: Annotated[
        float | None,
        typer.Option("--temperature", min=0, max=2, help="0 always takes the likeliest token."),
    ] = None
    top_p: Annotated[
        float | None,
        typer.Option(
            "--top-p", min=0, max=1, help="Sample from the likeliest tokens up to this probability."
        ),
    ] = None
    top_k: Annotated[
        int | None,
        typer.Option("--top-k", min=-1, help="Sample from this many likeliest tokens; -1 for all."),
    ] = None
    min_p: Annotated[
        float | None,
        typer.Option(
            "--min-p", min=0, max=1, help="Least probability, relative to the likeliest token."
        ),
    ] = None
    repetition_penalty: Annotated[
        float | None,
        typer.Option("--repetition-penalty", min=0.01, max=10, help="Above 1, less repetition."),
    ] = None
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, help="A longer poem is cut off and marked.")
    ] = 400


class MarkingFlags(OptionGroup):
    """What counts as a duplicate or a copy."""

    training: Annotated[
        list[Path] | None,
        typer.Option(
            "--training",
            show_default="data/poems.jsonl if it is there",
            help="Poems that must not be copied.",
        ),
    ] = None
    accepted: Annotated[
        list[Path] | None,
        typer.Option("--accepted", help="decisions.jsonl or poems that must not be repeated."),
    ] = None
    near: Annotated[
        float,
        typer.Option("--near", min=0, max=1, help="Poems at least this similar are duplicates."),
    ] = 0.8
    copy_warn: Annotated[
        int,
        typer.Option("--copy-warn", min=4, help="Copied characters in a row worth reporting."),
    ] = 8
    copy_block: Annotated[
        int,
        typer.Option("--copy-block", min=4, help="Copied characters in a row that block a poem."),
    ] = 13
    copy_share: Annotated[
        float, typer.Option("--copy-share", min=0, max=1, help="Copied share that blocks a poem.")
    ] = 0.5


class ServerFlags(WaitOptions):
    """Which server, and how it is asked."""

    concurrency: Annotated[int | None, requests_at_once(LOCAL_CONCURRENCY, REMOTE_CONCURRENCY)] = (
        None
    )
    base_url: Annotated[
        str | None,
        typer.Option(
            "--base-url",
            envvar="OPENAI_BASE_URL",
            show_default="http://127.0.0.1:8000/v1",
            help="The server's address.",
        ),
    ] = None
    api_key: Annotated[
        str | None,
        typer.Option("--api-key", envvar="OPENAI_API_KEY", help="Its API key, if it needs one."),
    ] = None


DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the plan and its size; write nothing.")
]
