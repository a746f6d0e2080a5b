"""`verse judge`: let judges order poems. `report` and `calibrate` hold them against the poet.

Nothing heavy is imported before a command runs: `verse --help` loads this module.
"""

import asyncio
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from verse.terminal import show
from verse_clients.errors import InputError
from verse_clients.judge import options
from verse_clients.options import Json, grouped

if TYPE_CHECKING:
    from verse_clients.judge.costs import Price
    from verse_clients.judge.ranked import Ranked
    from verse_clients.judge.run import JudgingOptions, JudgingRun, JudgingRunOptions

_INTERRUPTED = 130

app = typer.Typer(
    add_completion=False,
    invoke_without_command=True,
    pretty_exceptions_show_locals=False,
    help="Rank poems with LLM judges, and measure how far they agree with the poet.",
)


@app.callback()
@grouped
def judge(
    context: typer.Context,
    files: options.JudgingFileFlags,
    judges: options.JudgeFlags,
    prompt: options.PromptFlags,
    ranking: options.RankingFlags,
    requests: options.JudgingRequestFlags,
    dry_run: options.DryRun = False,
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
    decisions: options.Decisions = Path("decisions.jsonl"),
    ranking: options.RankingFile = Path("ranked.json"),
    output: options.Plots = None,
    as_json: Json = False,
) -> None:
    """Measure how far the judges agree with this poet, with each other and with themselves."""
    from verse.terminal import show_json, show_parts
    from verse_clients.decisions.journal import read_journal
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
    decisions: options.Decisions = Path("decisions.jsonl"),
    ranking: options.RankingFile = Path("ranked.json"),
    output: options.Learned = Path("weights.json"),
) -> None:
    """Learn criterion weights from the poet's decisions."""
    from verse_clients.decisions.journal import read_journal
    from verse_clients.judge.calibrate import learn, lines
    from verse_clients.judge.ranked import read_ranked, write_json

    learned = learn(read_ranked(ranking), read_journal(decisions))
    write_json(output, learned)
    show("\n".join([*lines(learned), str(output)]))


def _judging_options(
    files: options.JudgingFileFlags,
    judges: options.JudgeFlags,
    prompt: options.PromptFlags,
    ranking: options.RankingFlags,
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


def _run_options(output: Path, requests: options.JudgingRequestFlags) -> "JudgingRunOptions":
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
