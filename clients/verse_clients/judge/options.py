"""The options of `verse judge` in groups, as its help tells them."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from verse_clients.options import OptionGroup, WaitOptions, flag, requests_at_once

LOCAL_CONCURRENCY = 4
REMOTE_CONCURRENCY = 8

CompareBy = Literal["batches", "pairs", "none"]
LanguageName = Literal["zh", "en"]


class JudgingFileFlags(OptionGroup):
    """What is judged, and where the ranking goes."""

    poems: Annotated[
        list[Path] | None, flag("Files of verse generate, or any poems.", "-i", shown="poems.jsonl")
    ] = None
    output: Annotated[Path, flag("The ranking.", "-o")] = Path("ranked.json")
    training: Annotated[
        list[Path] | None, flag("The poet's own poems; what copies them is left out.")
    ] = None
    min_characters: Annotated[int, flag("A shorter poem is left out.", min=1)] = 8


class JudgeFlags(OptionGroup):
    """Who judges."""

    judges: Annotated[
        list[str] | None,
        flag("A model that judges; again for another opinion.", "--judge", shown="base"),
    ] = None
    base_urls: Annotated[
        list[str] | None,
        flag(
            "Where it is: one for each --judge, or one for all.",
            "--base-url",
            shown="OPENAI_BASE_URL or http://127.0.0.1:8000/v1",
        ),
    ] = None
    key_names: Annotated[
        list[str] | None,
        flag(
            "The variable with its key: one for each --judge, or one for all.",
            "--key-env",
            shown="OPENAI_API_KEY",
        ),
    ] = None
    keys: Annotated[
        list[str] | None, flag("The key itself: one for each --judge, or one for all.", "--api-key")
    ] = None


class PromptFlags(OptionGroup):
    """What a judge is told, and how it answers."""

    language: Annotated[LanguageName, flag("Of the instructions; poems are as they are.")] = "zh"
    examples: Annotated[
        Path | None,
        flag("Poems that show the judge this poet's taste; the first eight are used.", shown=False),
    ] = None
    temperature: Annotated[float, flag("Of the judges' answers.", min=0, max=2)] = 0.0
    max_tokens: Annotated[int, flag("Of an answer, thinking included.", min=1)] = 1500


class RankingFlags(OptionGroup):
    """How answers become a ranking."""

    weights: Annotated[
        Path | None, flag("Of the criteria: a file of judge calibrate.", shown="all alike")
    ] = None
    compare: Annotated[
        CompareBy, flag("Order batches, or pairs in both orders, or rely on scores.")
    ] = "batches"
    batch_size: Annotated[int, flag("Poems that a judge orders at once.", min=3, max=10)] = 5
    rounds: Annotated[int, flag("How often each contested poem is compared.", min=1)] = 5
    keep: Annotated[float, flag("Share above the line where comparing matters.", min=0, max=1)] = (
        0.4
    )
    margin: Annotated[
        float, flag("Points from that line that count as contested.", min=0, max=5)
    ] = 1.0
    seed: Annotated[int, flag("Another one shuffles otherwise.")] = 0


class JudgingRequestFlags(WaitOptions):
    """What is asked again, at what cost and speed."""

    cache: Annotated[
        Path | None, flag("Where all answers are kept.", shown="OUTPUT.judgments.jsonl")
    ] = None
    ask_again: Annotated[bool, flag("Ask again what was answered, but not usably.")] = False
    max_calls: Annotated[int | None, flag("Stop before more requests than this.", min=1)] = None
    max_cost: Annotated[
        float | None, flag("Stop before this run could cost more dollars.", min=0)
    ] = None
    price: Annotated[
        str | None, flag("Dollars for a million tokens in and out: 0.25,2.", shown="from a table")
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
