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
    from verse_clients.judge.session import Conduct, Order, Session

_INTERRUPTED = 130

app = typer.Typer(
    add_completion=False,
    invoke_without_command=True,
    pretty_exceptions_show_locals=False,
    help="Let judges order poems, and tell how far they agree with the poet.",
)


@app.callback()
@grouped
def judge(
    context: typer.Context,
    subject: options.Subject,
    judges: options.Judges,
    manner: options.Manner,
    ranking: options.Ranking,
    asking: options.Asking,
    dry_run: options.DryRun = False,
    as_json: Json = False,
) -> None:
    """Let judges order poems, and tell how far they agree with the poet."""
    if context.invoked_subcommand is not None:
        return
    from verse_clients.judge.session import Session

    session = Session(_order(subject, judges, manner, ranking), _conduct(subject.output, asking))
    if dry_run:
        show("\n".join(asyncio.run(session.describe())))
        return
    _show(_carry_out(session), subject.output, as_json=as_json)


@app.command()
def report(
    decisions: options.Decisions = Path("decisions.jsonl"),
    ranking: options.RankingFile = Path("ranked.json"),
    output: options.Plots = None,
    as_json: Json = False,
) -> None:
    """Tell how far the judges agree with this poet, with each other and with themselves."""
    from verse.terminal import show_json, show_parts
    from verse_clients.decisions.journal import read_journal
    from verse_clients.judge.plots import draw
    from verse_clients.judge.ranked import read_ranked
    from verse_clients.judge.report import make_report
    from verse_clients.judge.report_tables import tables

    ranked = read_ranked(ranking)
    entries = read_journal(decisions)
    made = make_report(ranked, entries)
    paths = draw(ranked, entries, made, output or ranking.with_name("judge-report"))
    show_json(made) if as_json else show_parts((*tables(made), *map(str, paths)))


@app.command()
def calibrate(
    decisions: options.Decisions = Path("decisions.jsonl"),
    ranking: options.RankingFile = Path("ranked.json"),
    output: options.Learned = Path("weights.json"),
) -> None:
    """Learn from the poet's decisions what each criterion should count."""
    from verse_clients.decisions.journal import read_journal
    from verse_clients.judge.calibrate import learn, lines
    from verse_clients.judge.ranked import read_ranked, write_json

    learned = learn(read_ranked(ranking), read_journal(decisions))
    write_json(output, learned)
    show("\n".join([*lines(learned), str(output)]))


def _order(
    subject: options.Subject,
    judges: options.Judges,
    manner: options.Manner,
    ranking: options.Ranking,
) -> "Order":
    from verse_clients.judge import prompts
    from verse_clients.judge.court import Procedure
    from verse_clients.judge.panel import seats
    from verse_clients.judge.session import Order

    return Order(
        poems=subject.poems or [Path("poems.jsonl")],
        training=subject.training or [],
        examples=manner.examples,
        weights=ranking.weights,
        min_characters=subject.min_characters,
        judges=seats(
            judges.judges or [], judges.base_urls or [], judges.key_names or [], judges.keys or []
        ),
        procedure=Procedure(
            language=manner.language,
            rounds=0 if ranking.compare == "none" else ranking.rounds,
            size=2 if ranking.compare == "pairs" else ranking.batch_size,
            keep=ranking.keep,
            margin=ranking.margin,
            seed=ranking.seed,
        ),
        manner=prompts.Manner(temperature=manner.temperature, max_tokens=manner.max_tokens),
    )


def _conduct(output: Path, asking: options.Asking) -> "Conduct":
    from verse_clients.judge.panel import Manners
    from verse_clients.judge.session import Conduct

    return Conduct(
        output=output,
        cache=asking.cache,
        ask_again=asking.ask_again,
        max_calls=asking.max_calls,
        max_cost=asking.max_cost,
        manners=Manners(
            concurrency=asking.concurrency,
            wait_seconds=asking.wait,
            timeout_seconds=asking.timeout,
            price=_price(asking.price),
        ),
    )


def _carry_out(session: "Session") -> "Ranked":
    try:
        return asyncio.run(session.run())
    except KeyboardInterrupt:
        show("Stopped; run the same command again to go on.", stderr=True)
        raise typer.Exit(_INTERRUPTED) from None


def _show(ranked: "Ranked", output: Path, *, as_json: bool) -> None:
    from verse.terminal import show_json, show_parts
    from verse_clients.judge.progress import tables

    show_json(ranked) if as_json else show_parts((*tables(ranked), str(output)))


def _price(text: str | None) -> "Price | None":
    from verse_clients.judge.costs import Price

    if text is None:
        return None
    try:
        price = Price(*(float(part) for part in text.split(",", 1)))
    except (TypeError, ValueError):
        price = Price(-1.0, -1.0)
    if not all(0 <= part < inf for part in price):
        raise InputError(f"--price {text!r} is not two numbers such as 0.25,2.")
    return price
