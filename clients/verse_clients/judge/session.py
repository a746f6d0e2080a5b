"""One call of `verse judge`: from files of poems to the file of their ranking."""

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from verse import terminal
from verse.records import Candidate, Judgment, Poem
from verse_clients.errors import OutputError, ServerError, UnauthorisedError, UnfinishedError
from verse_clients.generate.inputs import read_training
from verse_clients.judge import inputs
from verse_clients.judge.assemble import assemble
from verse_clients.judge.client import NOT_NOW, Desk, Judge, identity_of
from verse_clients.judge.costs import Budget
from verse_clients.judge.court import Court, Procedure
from verse_clients.judge.errors import NoVerdictError
from verse_clients.judge.estimate import estimate
from verse_clients.judge.judgments import Judgments, given, identities, read_judgments
from verse_clients.judge.panel import Manners, Member, Panel, Seat
from verse_clients.judge.progress import AnswerTally
from verse_clients.judge.prompts import Manner
from verse_clients.judge.ranked import Ranked, check_output, write_json
from verse_clients.progress import LiveLine
from verse_clients.screening import MIN_CHARACTERS, judge_screen

_QUOTED = 160
"""Characters of an answer that could not be used."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for."""

    poems: Sequence[Path]
    training: Sequence[Path] = ()
    examples: Path | None = None
    weights: Path | None = None
    min_characters: int = MIN_CHARACTERS
    judges: Sequence[Seat]
    procedure: Procedure = Procedure()
    manner: Manner = Manner()


class Conduct(msgspec.Struct, frozen=True, kw_only=True):
    """How it is to be done."""

    output: Path
    cache: Path | None = None
    """None for a file beside the output."""
    ask_again: bool = False
    """Whether answers that could not be used are asked for again."""
    max_calls: int | None = None
    max_cost: float | None = None
    manners: Manners = Manners()

    @property
    def judgments(self) -> Path:
        """Where answers are kept."""
        return self.cache or self.output.with_suffix(".judgments.jsonl")


class Session:
    """Reads, filters, asks, ranks and writes."""

    def __init__(self, order: Order, conduct: Conduct) -> None:
        """Read everything; nothing is sent or written yet.

        Raises:
            UserError: a file cannot be read, options do not fit, or the output is another run's.
        """
        self._conduct = conduct
        self._order = order
        self._console = terminal.console(stderr=True)
        self._learned = inputs.read_weights(order.weights)
        self._procedure = msgspec.structs.replace(order.procedure, weights=self._learned.weights)
        self._poems = inputs.read_poems(order.poems)
        self._examples: list[Poem] = inputs.read_examples(order.examples)
        screen = judge_screen(read_training(order.training), order.min_characters)
        self._filtered = {poem.id: screen.find(poem) for poem in self._poems}
        check_output(conduct.output, self._filtered)
        self._panel = Panel(order.judges, conduct.manners, self._tell)
        self._panel.check_limit(conduct.max_cost)
        self._budget = Budget(conduct.max_calls, conduct.max_cost)

    async def run(self) -> Ranked:
        """Ask what is not known yet, rank, and write the output.

        Raises:
            UserError: see `errors`; every answer that came is on the disk.
        """
        judgments = Judgments(self._conduct.judgments, ask_again=self._conduct.ask_again)
        if judgments.torn is not None:
            self._tell(f"A last line that was cut off is in {judgments.torn} now.")
        try:
            court = await self._hold(judgments)
        except ServerError as error:
            raise UnfinishedError(self._so_far(error)) from error
        finally:
            judgments.close()
            await self._panel.close()
        if self._survivors() and not court.rubric.totals():
            raise NoVerdictError(self._nothing_usable(court))
        uses = inputs.uses_of(self._poems, self._examples, self._learned.trained_on)
        ranked = assemble(self._poems, self._filtered, court, uses)
        write_json(self._conduct.output, ranked)
        if judgments.recovered is not None:
            raise OutputError(f"{judgments.recovered} The ranking is in {self._conduct.output}.")
        return ranked

    async def describe(self) -> list[str]:
        """What `run` would ask, how long that is, and what it costs, in lines."""
        path, how = self._conduct.judgments, self._procedure
        earlier = read_judgments(path) if path.exists() else []
        known = given(earlier, ask_again=self._conduct.ask_again)
        court = Court([], self._survivors(), self._examples, how, lambda _: None)
        try:
            who = [await _who(member, earlier) for member in self._panel.members]
            return [
                f"{len(self._poems)} poems, {len(self._survivors())} of them to be judged.",
                *estimate(court, self._panel.members, who, how, self._order.manner, known),
            ]
        finally:
            await self._panel.close()

    async def _hold(self, judgments: Judgments) -> Court:
        now = time.monotonic
        tally = AnswerTally(budget=self._budget, now=now, begun=now())
        with LiveLine(self._console, tally.progress):
            judges = self._panel.judges(self._desk(judgments, tally.heard))
            await asyncio.gather(*(judge.identify() for judge in judges))
            self._tell_of_others(judges, judgments)
            court = Court(judges, self._survivors(), self._examples, self._procedure, tally.expect)
            await court.hear_rubric()
            if not court.not_asked:
                await court.compare()
        return court

    def _tell_of_others(self, judges: Sequence[Judge], judgments: Judgments) -> None:
        for judge in judges:
            others = judgments.num_others(judge.server.base_url, judge.model, judge.identity)
            if others:
                self._tell(
                    f"{others} answers in {judgments.path} are by another model called "
                    f"{judge.model}, or do not say by which; they stay there and do not count."
                )

    def _desk(self, judgments: Judgments, heard: Callable[[Judgment], object]) -> Desk:
        return Desk(judgments, self._budget, self._order.manner, lambda: datetime.now(UTC), heard)

    def _survivors(self) -> list[Candidate]:
        return [poem for poem in self._poems if self._filtered[poem.id] is None]

    def _nothing_usable(self, court: Court) -> str:
        if court.not_asked and not court.troubles():
            return "The limit does not allow a single answer; raise --max-calls or --max-cost."
        found = ", ".join(f"{count} {name}" for name, count in sorted(court.troubles().items()))
        last = " ".join(court.last_trouble().split())[:_QUOTED]
        hint = " Raise --max-tokens." if "truncated" in court.troubles() else ""
        return (
            f"No answer could be used ({found}), so there is no ranking; the last one began: "
            f"{last!r}. All of them are in {self._conduct.judgments}.{hint}"
        )

    def _so_far(self, error: ServerError) -> str:
        told = str(error)
        missing = self._panel.missing_key()
        if isinstance(error, UnauthorisedError) and missing:
            told = f"{told} {missing} is not set."
        return f"{told} What was answered is kept; run the same command again to go on."

    def _tell(self, line: str) -> None:
        terminal.show_line(self._console, line)


async def _who(member: Member, earlier: Sequence[Judgment]) -> str:
    """Who would answer; the one who did the last time if the server is away."""
    try:
        return await identity_of(member.server, member.model)
    except NOT_NOW:
        return identities(earlier).get((member.server.base_url, member.model), "")
