"""The options of `verse judge`, as its help tells them."""

from pathlib import Path
from typing import Annotated, Literal

import typer

CompareBy = Literal["batches", "pairs", "none"]
LanguageName = Literal["zh", "en"]

Poems = Annotated[
    list[Path] | None,
    typer.Option(
        "-i", "--poems", show_default="poems.jsonl", help="Files of verse generate, or any poems."
    ),
]
Output = Annotated[Path, typer.Option("-o", "--output", help="The ranking.")]
Judges = Annotated[
    list[str] | None,
    typer.Option(
        "--judge", show_default="base", help="A model that judges; again for another opinion."
    ),
]
BaseUrls = Annotated[
    list[str] | None,
    typer.Option(
        "--base-url",
        show_default="OPENAI_BASE_URL or http://127.0.0.1:8000/v1",
        help="Where it is: one for each --judge, or one for all.",
    ),
]
KeyNames = Annotated[
    list[str] | None,
    typer.Option(
        "--key-env",
        show_default="OPENAI_API_KEY",
        help="The variable with its key: one for each --judge, or one for all.",
    ),
]
Language = Annotated[
    LanguageName, typer.Option("--language", help="Of the instructions; poems are as they are.")
]
Training = Annotated[
    list[Path] | None,
    typer.Option("--training", help="The poet's own poems; what copies them is left out."),
]
Examples = Annotated[
    Path | None,
    typer.Option(
        "--examples",
        show_default=False,
        help="Poems that show the judge this poet's taste; the first eight are used.",
    ),
]
WeightsFile = Annotated[
    Path | None,
    typer.Option(
        "--weights", show_default="all alike", help="Of the criteria: a file of judge calibrate."
    ),
]
MinCharacters = Annotated[
    int, typer.Option("--min-characters", min=1, help="A shorter poem is left out.")
]
Compare = Annotated[
    CompareBy,
    typer.Option("--compare", help="Order batches, or pairs in both orders, or rely on scores."),
]
BatchSize = Annotated[
    int, typer.Option("--batch-size", min=3, max=10, help="Poems that a judge orders at once.")
]
Rounds = Annotated[
    int, typer.Option("--rounds", min=1, help="How often each contested poem is compared.")
]
Keep = Annotated[
    float,
    typer.Option("--keep", min=0, max=1, help="Share above the line where comparing matters."),
]
Margin = Annotated[
    float,
    typer.Option("--margin", min=0, max=5, help="Points from that line that count as contested."),
]
Seed = Annotated[int, typer.Option("--seed", help="Another one shuffles otherwise.")]
Temperature = Annotated[
    float, typer.Option("--temperature", min=0, max=2, help="Of the judges' answers.")
]
MaxTokens = Annotated[
    int, typer.Option("--max-tokens", min=1, help="Of an answer, thinking included.")
]
Cache = Annotated[
    Path | None,
    typer.Option(
        "--cache", show_default="OUTPUT.judgments.jsonl", help="Where all answers are kept."
    ),
]
AskAgain = Annotated[
    bool, typer.Option("--ask-again", help="Ask again what was answered, but not usably.")
]
MaxCalls = Annotated[
    int | None, typer.Option("--max-calls", min=1, help="Stop before more requests than this.")
]
MaxCost = Annotated[
    float | None,
    typer.Option("--max-cost", min=0, help="Stop before this run could cost more dollars."),
]
PriceText = Annotated[
    str | None,
    typer.Option(
        "--price",
        show_default="from a table",
        help="Dollars for a million tokens in and out: 0.25,2.",
    ),
]
Concurrency = Annotated[
    int | None,
    typer.Option(
        "--concurrency", min=1, show_default="4 on this machine, else 8", help="Requests at once."
    ),
]
Wait = Annotated[
    float, typer.Option("--wait", min=0, help="Seconds to wait for a server that is away or busy.")
]
Timeout = Annotated[float, typer.Option("--timeout", min=1, help="Seconds for one answer.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show calls, tokens and price; ask nothing.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Ranking = Annotated[Path, typer.Option("-i", "--ranking", help="The ranking of verse judge.")]
Decisions = Annotated[
    Path, typer.Option("-d", "--decisions", help="The poet's decisions, from verse curate.")
]
Plots = Annotated[
    Path | None,
    typer.Option(
        "-o", "--output", show_default="judge-report beside the ranking", help="Folder for plots."
    ),
]
Learned = Annotated[Path, typer.Option("-o", "--output", help="The weights.")]
