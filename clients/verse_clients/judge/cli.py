"""`verse judge`: let judges order poems. `report` and `calibrate` hold them against the poet.

Nothing heavy is imported before a command runs: `verse --help` loads this module.
"""

import asyncio
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from verse.terminal import show
from verse_clients.errors import InputError
from verse_clients.options import (
    JUDGE_CONCURRENCY,
    Json,
    OptionGroup,
    WaitOptions,
    flag,
    grouped,
    requests_at_once,
)

if TYPE_CHECKING:
    from verse_clients.judge.costs import Price
    from verse_clients.judge.ranked import Ranked
    from verse_clients.judge.run import JudgingOptions, JudgingRun, JudgingRunOptions

_INTERRUPTED = 130

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
        flag(
            "A model that judges; again for another opinion. likelihood asks none: it computes "
            "log-probabilities on verse serve.",
            "--judge",
            shown="base",
        ),
    ] = None
    base_urls: Annotated[
        list[str] | None,
        flag(
            "Where it is: one for each --judge, or one for all; several for one --judge share its "
            "questions.",
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
    concurrency: Annotated[int | None, requests_at_once(JUDGE_CONCURRENCY)] = None


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

app = typer.Typer(
    add_completion=False,
    invoke_without_command=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,
    help="Rank poems with LLM judges, and measure how far they agree with the poet.",
)


@app.callback()
@grouped
def judge(
    context: typer.Context,
    files: JudgingFileFlags,
    judges: JudgeFlags,
    prompt: PromptFlags,
    ranking: RankingFlags,
    requests: JudgingRequestFlags,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Rank poems with LLM judges, and measure how far they agree with the poet."""
    if context.invoked_subcommand is not None:
        return
    from verse_clients.judge.run import JudgingRun

    run = JudgingRun(
        _judging_options(files, judges, prompt, ranking), _run_options(files.output, requests)
    )
    if dry_run:
        show("\n".join(asyncio.run(run.describe())))
        return
    _show(_carry_out(run), files.output, as_json=as_json)


@app.command()
def report(
    decisions: Decisions = Path("decisions.jsonl"),
    ranking: RankingFile = Path("ranked.json"),
    output: Plots = None,
    as_json: Json = False,
) -> None:
    """Measure how far the judges agree with this poet, with each other and with themselves."""
    from verse.decision_journal import read_journal
    from verse.terminal import show_json, show_parts
    from verse_clients.judge.plots import draw
    from verse_clients.judge.ranked import read_ranked
    from verse_clients.judge.report import make_report, report_tables

    ranked = read_ranked(ranking)
    entries = read_journal(decisions)
    made = make_report(ranked, entries)
    paths = draw(ranked, entries, made, output or ranking.with_name("judge-report"))
    show_json(made) if as_json else show_parts((*report_tables(made), *map(str, paths)))


@app.command()
def calibrate(
    decisions: Decisions = Path("decisions.jsonl"),
    ranking: RankingFile = Path("ranked.json"),
    output: Learned = Path("weights.json"),
) -> None:
    """Learn criterion weights from the poet's decisions."""
    from verse.decision_journal import read_journal
    from verse_clients.judge.calibrate import learn, lines
    from verse_clients.judge.ranked import read_ranked, write_json

    learned = learn(read_ranked(ranking), read_journal(decisions))
    write_json(output, learned)
    show("\n".join([*lines(learned), str(output)]))


def _judging_options(
    files: JudgingFileFlags,
    judges: JudgeFlags,
    prompt: PromptFlags,
    ranking: RankingFlags,
) -> "JudgingOptions":
    from verse_clients.judge.judges import judge_specs
    from verse_clients.judge.pipeline import PipelineOptions
    from verse_clients.judge.prompts import JudgeSampling
    from verse_clients.judge.run import JudgingOptions

    return JudgingOptions(
        poems=files.poems or [Path("poems.jsonl")],
        training=files.training or [],
        examples=prompt.examples,
        weights=ranking.weights,
        min_characters=files.min_characters,
        judges=judge_specs(
            judges.judges or [], judges.base_urls or [], judges.key_names or [], judges.keys or []
        ),
        pipeline=PipelineOptions(
            language=prompt.language,
            rounds=0 if ranking.compare == "none" else ranking.rounds,
            size=2 if ranking.compare == "pairs" else ranking.batch_size,
            keep=ranking.keep,
            margin=ranking.margin,
            seed=ranking.seed,
        ),
        sampling=JudgeSampling(temperature=prompt.temperature, max_tokens=prompt.max_tokens),
    )


def _run_options(output: Path, requests: JudgingRequestFlags) -> "JudgingRunOptions":
    from verse_clients.judge.judges import ConnectionOptions
    from verse_clients.judge.run import JudgingRunOptions

    return JudgingRunOptions(
        output=output,
        cache=requests.cache,
        ask_again=requests.ask_again,
        max_calls=requests.max_calls,
        max_cost=requests.max_cost,
        connection=ConnectionOptions(
            concurrency=requests.concurrency,
            wait_seconds=requests.wait,
            timeout_seconds=requests.timeout,
            price=_price(requests.price),
        ),
    )


def _carry_out(run: "JudgingRun") -> "Ranked":
    try:
        return asyncio.run(run.run())
    except KeyboardInterrupt:
        show("Stopped; run the same command again to continue.", stderr=True)
        raise typer.Exit(_INTERRUPTED) from None


def _show(ranked: "Ranked", output: Path, *, as_json: bool) -> None:
    from verse.terminal import show_json, show_parts
    from verse_clients.judge.report import ranking_tables

    show_json(ranked) if as_json else show_parts((*ranking_tables(ranked), str(output)))


def _price(text: str | None) -> "Price | None":
    from verse_clients.judge.costs import Price

    if text is None:
        return None
    try:
        price = Price(*(float(part) for part in text.split(",", 1)))
    except (TypeError, ValueError):
        price = Price(-1.0, -1.0)
    if not all(0 <= part < inf for part in price):
        raise InputError(f"--price {text!r} is not two numbers, such as 0.25,2.")
    return price
