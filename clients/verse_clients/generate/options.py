"""The options of `verse generate` in groups, as its help tells them."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from verse_clients.options import OptionGroup, WaitOptions, flag, requests_at_once

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

    themes: Annotated[Path | None, flag("A file with one theme per line.")] = None
    words: Annotated[
        str | None, flag("Themes, separated by spaces or newlines.", "-p", "--prompts")
    ] = None
    adapters: Annotated[
        str,
        flag("Names or folders, separated by commas; `base` is the base model.", "-a", shown="all"),
    ] = ""
    checkpoints: Annotated[
        str | None,
        flag(
            "published, best, last, all, a step, 200-1200 or every:2; several with commas.",
            shown="published",
        ),
    ] = None
    epoch_step: Annotated[
        int | None, flag("Only checkpoints this many steps apart.", "-e", min=1)
    ] = None
    start_epoch: Annotated[int | None, flag("Only checkpoints from this step on.", min=0)] = None
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
        Path, flag("The file; a name without an ending makes .jsonl and .json.", "-o")
    ] = Path("poems.jsonl")
    format: Format = None
    with_blocked: WithBlocked = False
    extend: Annotated[bool, flag("Add to a file that has poems of another plan.")] = False


class SamplingFlags(OptionGroup):
    """How tokens are drawn; the names are those of `verse.records.Sampling`."""

    temperature: Annotated[
        float | None, flag("0 always takes the likeliest token.", min=0, max=2)
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

    concurrency: Annotated[int | None, requests_at_once(LOCAL_CONCURRENCY, REMOTE_CONCURRENCY)] = (
        None
    )
    base_url: Annotated[
        str | None,
        flag("The server's address.", envvar="OPENAI_BASE_URL", shown="http://127.0.0.1:8000/v1"),
    ] = None
    api_key: Annotated[
        str | None, flag("Its API key, if it needs one.", envvar="OPENAI_API_KEY")
    ] = None


DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the plan and its size; write nothing.")
]
