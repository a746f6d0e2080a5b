"""The options of `verse generate`, as its help tells them."""

from pathlib import Path
from typing import Annotated, Literal

import typer

FormatName = Literal["jsonl", "seed", "markdown", "text"]

Themes = Annotated[Path | None, typer.Option("--themes", help="A file with one theme a line.")]
Words = Annotated[
    str | None, typer.Option("-p", "--prompts", help="Themes, with spaces or lines between.")
]
Adapters = Annotated[
    str,
    typer.Option(
        "-a",
        "--adapters",
        show_default="all",
        help="Names or folders, with commas between; `base` is the base alone.",
    ),
]
Checkpoints = Annotated[
    str | None,
    typer.Option(
        "--checkpoints",
        show_default="published",
        help="published, best, last, all, a step, 200-1200 or every:2, with commas between.",
    ),
]
EpochStep = Annotated[
    int | None,
    typer.Option("-e", "--epoch-step", min=1, help="Checkpoints so many steps from each other."),
]
StartEpoch = Annotated[
    int | None, typer.Option("--start-epoch", min=0, help="Checkpoints from this step on.")
]
Variants = Annotated[
    Path | None,
    typer.Option("--variants", help="A file with one way to ask a line; {theme} is the theme."),
]
NumSamples = Annotated[int, typer.Option("-n", "--num-samples", min=1, help="Poems of each kind.")]
Output = Annotated[
    Path, typer.Option("-o", "--output", help="The file; a bare name makes .jsonl and .json.")
]
Format = Annotated[
    FormatName | None,
    typer.Option(
        "--format",
        show_default="by the ending: .json seed, .md markdown, .txt text",
        help="What is made of the poems besides.",
    ),
]
WithBlocked = Annotated[
    bool, typer.Option("--with-blocked", help="Copies, duplicates and empty poems too.")
]
Model = Annotated[
    str | None,
    typer.Option("-m", "--model", help="The base that must be served, or a foreign model."),
]
Seed = Annotated[int, typer.Option("--seed", help="Another one asks for other poems.")]
Temperature = Annotated[
    float | None,
    typer.Option("--temperature", min=0, max=2, help="0 always takes the likeliest token."),
]
TopP = Annotated[
    float | None, typer.Option("--top-p", min=0, max=1, help="Likeliest tokens up to this sum.")
]
TopK = Annotated[int | None, typer.Option("--top-k", min=-1, help="So many likeliest tokens.")]
MinP = Annotated[
    float | None, typer.Option("--min-p", min=0, max=1, help="Least share of the likeliest.")
]
RepetitionPenalty = Annotated[
    float | None,
    typer.Option("--repetition-penalty", min=0.01, max=10, help="Above 1, less of the same."),
]
MaxTokens = Annotated[
    int, typer.Option("--max-tokens", min=1, help="A longer poem is cut off and marked.")
]
Training = Annotated[
    list[Path] | None,
    typer.Option(
        "--training",
        show_default="data/poems.jsonl if it is there",
        help="Poems that must not be copied.",
    ),
]
Accepted = Annotated[
    list[Path] | None,
    typer.Option("--accepted", help="decisions.jsonl, or poems, that must not be repeated."),
]
Near = Annotated[
    float, typer.Option("--near", min=0, max=1, help="Poems so much alike are duplicates.")
]
CopyWarn = Annotated[
    int, typer.Option("--copy-warn", min=4, help="Copied characters in a row worth telling.")
]
CopyBlock = Annotated[
    int, typer.Option("--copy-block", min=4, help="Copied characters in a row that block a poem.")
]
CopyShare = Annotated[
    float, typer.Option("--copy-share", min=0, max=1, help="Copied share that blocks a poem.")
]
Concurrency = Annotated[
    int | None,
    typer.Option(
        "--concurrency", min=1, show_default="32 on this machine, else 8", help="Requests at once."
    ),
]
Wait = Annotated[
    float, typer.Option("--wait", min=0, help="Seconds to wait for a server that is away or busy.")
]
Timeout = Annotated[float, typer.Option("--timeout", min=1, help="Seconds for one poem.")]
Extend = Annotated[
    bool, typer.Option("--extend", help="Add to a file that has poems of another plan.")
]
BaseUrl = Annotated[
    str | None,
    typer.Option(
        "--base-url",
        envvar="OPENAI_BASE_URL",
        show_default="http://127.0.0.1:8000/v1",
        help="The server's address.",
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option("--api-key", envvar="OPENAI_API_KEY", help="Its key, if it wants one."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the plan and its size; write nothing.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]
Poems = Annotated[Path, typer.Argument(help="A file of verse generate.")]
Made = Annotated[Path, typer.Option("-o", "--output", help="The file to make.")]
