"""`verse judge`: let judges order poems. `report` and `calibrate` hold them against the poet.

Nothing heavy is imported before a command runs: `verse --help` loads this module.
"""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from verse_clients.judge import options
from verse_clients.judge.errors import InputError

if TYPE_CHECKING:
    from verse_clients.judge.pricing import Price
    from verse_clients.judge.ranked import Ranked
    from verse_clients.judge.session import Session

_INTERRUPTED = 130

app = typer.Typer(
    add_completion=False,
    invoke_without_command=True,
    pretty_exceptions_show_locals=False,
    help="Let judges order poems, and tell how far they agree with the poet.",
)


@app.callback()
def judge(
    context: typer.Context,
    poems: options.Poems = None,
    output: options.Output = Path("ranked.json"),
    judges: options.Judges = None,
    base_urls: options.BaseUrls = None,
    key_names: options.KeyNames = None,
    language: options.Language = "zh",
    training: options.Training = None,
    examples: options.Examples = None,
    weights: options.WeightsFile = None,
    min_characters: options.MinCharacters = 8,
    compare: options.Compare = "batches",
    batch_size: options.BatchSize = 5,
    rounds: options.Rounds = 5,
    keep: options.Keep = 0.4,
    margin: options.Margin = 1.0,
    seed: options.Seed = 0,
    temperature: options.Temperature = 0.0,
    max_tokens: options.MaxTokens = 1500,
    cache: options.Cache = None,
    ask_again: options.AskAgain = False,
    max_calls: options.MaxCalls = None,
    max_cost: options.MaxCost = None,
    price: options.PriceText = None,
    concurrency: options.Concurrency = None,
    wait: options.Wait = 3600,
    timeout: options.Timeout = 600,
    dry_run: options.DryRun = False,
    as_json: options.AsJson = False,
) -> None:
    """Let judges order poems, and tell how far they agree with the poet."""
    if context.invoked_subcommand is not None:
        return
    from verse_clients.judge.court import Procedure
    from verse_clients.judge.panel import Manners, seats
    from verse_clients.judge.questions import Manner
    from verse_clients.judge.session import Conduct, Order, Session

    order = Order(
        poems=poems or [Path("poems.jsonl")],
        training=training or [],
        examples=examples,
        weights=weights,
        min_characters=min_characters,
        judges=seats(judges or [], base_urls or [], key_names or []),
        procedure=Procedure(
            language=language,
            rounds=0 if compare == "none" else rounds,
            size=2 if compare == "pairs" else batch_size,
            keep=keep,
            margin=margin,
            seed=seed,
        ),
        manner=Manner(temperature=temperature, max_tokens=max_tokens),
    )
    conduct = Conduct(
        output=output,
        cache=cache,
        ask_again=ask_again,
        max_calls=max_calls,
        max_cost=max_cost,
        manners=Manners(
            concurrency=concurrency,
            wait_seconds=wait,
            timeout_seconds=timeout,
            price=_price(price),
        ),
    )
    session = Session(order, conduct)
    if dry_run:
        print("\n".join(asyncio.run(session.describe())))
        return
    _show(_carry_out(session), output, as_json=as_json)


@app.command()
def report(
    decisions: options.Decisions = Path("decisions.jsonl"),
    ranking: options.Ranking = Path("ranked.json"),
    output: options.Plots = None,
    as_json: options.AsJson = False,
) -> None:
    """Tell how far the judges agree with this poet, with each other and with themselves."""
    import msgspec
    from rich.console import Console

    from verse_clients.decisions.journal import read_journal
    from verse_clients.judge.plots import draw
    from verse_clients.judge.ranked import read_ranked
    from verse_clients.judge.report import make_report
    from verse_clients.judge.report_tables import tables

    ranked = read_ranked(ranking)
    entries = read_journal(decisions)
    made = make_report(ranked, entries)
    paths = draw(ranked, entries, made, output or ranking.with_name("judge-report"))
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(made)).decode())
        return
    console = Console()
    for part in (*tables(made), *map(str, paths)):
        console.print(part, markup=False, highlight=False, soft_wrap=isinstance(part, str))


@app.command()
def calibrate(
    decisions: options.Decisions = Path("decisions.jsonl"),
    ranking: options.Ranking = Path("ranked.json"),
    output: options.Learned = Path("weights.json"),
) -> None:
    """Learn from the poet's decisions what each criterion should count."""
    from verse_clients.decisions.journal import read_journal
    from verse_clients.judge.calibrate import learn, lines
    from verse_clients.judge.json_file import write_json
    from verse_clients.judge.ranked import read_ranked

    learned = learn(read_ranked(ranking), read_journal(decisions))
    write_json(output, learned)
    print("\n".join([*lines(learned), str(output)]))


def _carry_out(session: "Session") -> "Ranked":
    try:
        return asyncio.run(session.run())
    except KeyboardInterrupt:
        print("Stopped; run the same command again to go on.", file=sys.stderr)
        raise typer.Exit(_INTERRUPTED) from None


def _show(ranked: "Ranked", output: Path, *, as_json: bool) -> None:
    import msgspec
    from rich.console import Console

    from verse_clients.judge.progress import tables

    if as_json:
        print(msgspec.json.format(msgspec.json.encode(ranked)).decode())
        return
    console = Console()
    for part in (*tables(ranked), str(output)):
        console.print(part, markup=False, highlight=False, soft_wrap=isinstance(part, str))


def _price(text: str | None) -> "Price | None":
    from verse_clients.judge.pricing import Price

    if text is None:
        return None
    try:
        input_, output = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--price {text!r} is not two numbers such as 0.25,2.") from None
    if min(input_, output) < 0:
        raise InputError(f"--price {text!r} has a number below zero.")
    return Price(input_, output)
