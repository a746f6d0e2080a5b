"""The options of `verse judge` in groups, as its help tells them."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from verse_clients.options import OptionGroup, WaitOptions, requests_at_once

LOCAL_CONCURRENCY = 4
REMOTE_CONCURRENCY = 8

CompareBy = Literal["batches", "pairs", "none"]
LanguageName = Literal["zh", "en"]


class JudgingFileFlags(OptionGroup):
    """What is judged, and where the ranking goes."""

    poems: Annotated[
        list[Path] | None,
        typer.Option(
            "-i",
            "--poems",
            show_default="poems.jsonl",
            help="Files of verse generate, or any poems.",
        ),
    ] = None
    output: Annotated[Path, typer.Option("-o", "--output", help="The ranking.")] = Path(
        "ranked.json"
    )
    training: Annotated[
        list[Path] | None,
        typer.Option("--training", help="The poet's own poems; what copies them is left out."),
    ] = None
    min_characters: Annotated[
        int, typer.Option("--min-characters", min=1, help="A shorter poem is left out.")
    ] = 8


class JudgeFlags(OptionGroup):
    """Who judges."""

    judges: Annotated[
        list[str] | None,
        typer.Option(
            "--judge", show_default="base", help="A model that judges; again for another opinion."
        ),
    ] = None
    base_urls: Annotated[
        list[str] | None,
        typer.Option(
            "--base-url",
            show_default="OPENAI_BASE_URL or http://127.0.0.1:8000/v1",
            help="Where it is: one for each --judge, or one for all.",
        ),
    ] = None
    key_names: Annotated[
        list[str] | None,
        typer.Option(
            "--key-env",
            show_default="OPENAI_API_KEY",
            help="The variable with its key: one for each --judge, or one for all.",
        ),
    ] = None
    keys: Annotated[
        list[str] | None,
        typer.Option("--api-key", help="The key itself: one for each --judge, or one for all."),
    ] = None


class PromptFlags(OptionGroup):
    """What a judge is told, and how it answers."""

    language: Annotated[
        LanguageName, typer.Option("--language", help="Of the instructions; poems are as they are.")
    ] = "zh"
    examples: Annotated[
        Path | None,
        typer.Option(
            "--examples",
            show_default=False,
            help="Poems that show the judge this poet's taste; the first eight are used.",
        ),
    ] = None
    temperature: Annotated[
        float, typer.Option("--temperature", min=0, max=2, help="Of the judges' answers.")
    ] = 0.0
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, help="Of an answer, thinking included.")
    ] = 1500


class RankingFlags(OptionGroup):
    """How answers become a ranking."""

    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            show_default="all alike",
            help="Of the criteria: a file of judge calibrate.",
        ),
    ] = None
    compare: Annotated[
        CompareBy,
        typer.Option(
            "--compare", help="Order batches, or pairs in both orders, or rely on scores."
        ),
    ] = "batches"
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=3, max=10, help="Poems that a judge orders at once.")
    ] = 5
    rounds: Annotated[
        int, typer.Option("--rounds", min=1, help="How often each contested poem is compared.")
    ] = 5
    keep: Annotated[
        float,
        typer.Option("--keep", min=0, max=1, help="Share above the line where comparing matters."),
    ] = 0.4
    margin: Annotated[
        float,
        typer.Option(
            "--margin", min=0, max=5, help="Points from that line that count as contested."
        ),
    ] = 1.0
    seed: Annotated[int, typer.Option("--seed", help="Another one shuffles otherwise.")] = 0


class JudgingRequestFlags(WaitOptions):
    """What is asked again, at what cost and speed."""

    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache", show_default="OUTPUT.judgments.jsonl", help="Where all answers are kept."
        ),
    ] = None
    ask_again: Annotated[
        bool, typer.Option("--ask-again", help="Ask again what was answered, but not usably.")
    ] = False
    max_calls: Annotated[
        int | None, typer.Option("--max-calls", min=1, help="Stop before more requests than this.")
    ] = None
    max_cost: Annotated[
        float | None,
        typer.Option("--max-cost", min=0, help="Stop before this run could cost more dollars."),
    ] = None
    price: Annotated[
        str | None,
        typer.Option(
            "--price",
            show_default="from a table",
            help="Dollars for a million tokens in and out: 0.25,2.",
        ),
    ] = None
    concurrency: Annotated[int | None, requests_at_once(LOCAL_CONCURRENCY, REMOTE_CONCURRENCY)] = (
        None
    )


DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show calls, tokens and price; ask nothing.")
]
RankingFile = Annotated[Path, typer.Option("-i", "--ranking", help="The ranking of verse judge.")]
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
