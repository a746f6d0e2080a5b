"""One run of `verse judge`: from files of poems to the file of their ranking.

Beside poems a run reads examples of the poet's taste and weights of the criteria. A dry run says
what would be asked and what it costs, without asking.
"""

import asyncio
import time
from collections.abc import Callable, Container, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from verse import terminal
from verse.records import Candidate, Judgment, Poem
from verse.similarity import comparison_key
from verse.terminal import counted
from verse_clients.decisions.sources import read_items
from verse_clients.errors import (
    InputError,
    OutputError,
    ServerError,
    UnauthorisedError,
    UnfinishedError,
)
from verse_clients.generate.inputs import read_training
from verse_clients.judge.client import Judge, JudgeContext, check_context
from verse_clients.judge.costs import FREE, AnswerTally, Budget, Price, likely_tokens
from verse_clients.judge.judges import ConnectionOptions, JudgePool, JudgeSpec, ResolvedJudge
from verse_clients.judge.judgments import Judgments, given, identities, read_judgments
from verse_clients.judge.log_probabilities import Contrast
from verse_clients.judge.pipeline import JudgingPipeline, PipelineOptions, assemble
from verse_clients.judge.prompts import LIKELY_ANSWER, JudgeSampling, Question, key_of
from verse_clients.judge.ranked import (
    LIKELIHOOD,
    LearnedWeights,
    Ranked,
    Use,
    Weights,
    check_output,
    read_json,
    write_json,
)
from verse_clients.judge.ranking import num_batches
from verse_clients.model_identity import NOT_NOW, identity_of
from verse_clients.progress import LiveLine
from verse_clients.screening import MIN_CHARACTERS, judge_screen

MAX_EXAMPLES = 8


_QUOTED = 160
"""Characters of an answer that could not be used."""


def read_poems(paths: Sequence[Path]) -> list[Candidate]:
    """Read the poems to judge, each once, in the options of the files.

    Raises:
        SourceError: a file is missing or holds no poems.
    """
    items = read_items(paths, with_empty=True)
    return list({item.id: item.candidate for item in items}.values())


def read_examples(path: Path | None) -> list[Poem]:
    """Read poems that show the poet's taste: so many as a prompt can bear.

    Raises:
        InputError: the file is missing or holds no poems.
    """
    return [] if path is None else read_training([path])[:MAX_EXAMPLES]


def read_weights(path: Path | None) -> LearnedWeights:
    """Read weights that `verse judge calibrate` learned, or that a hand wrote.

    Raises:
        InputError: the file is missing or something else.
    """
    if path is None:
        return LearnedWeights(weights=Weights())
    learned = read_json(path, LearnedWeights, "holds no weights from verse judge calibrate")
    if not any(msgspec.structs.astuple(learned.weights)):
        raise InputError(
            f"{path} gives every criterion the weight 0; at least one must be above 0."
        )
    return learned


def uses_of(
    poems: Sequence[Candidate], examples: Sequence[Poem], trained_on: Sequence[str]
) -> dict[str, Use]:
    """Poems that were used for the judging itself, by id: as `example` or for `calibration`."""
    sources = {example.source for example in examples}
    texts = {comparison_key(example.text) for example in examples}
    used: dict[str, Use] = dict.fromkeys(trained_on, "calibration")
    for poem in poems:
        if poem.id in sources or comparison_key(poem.text) in texts:
            used[poem.id] = "example"
    return used


class _Load(NamedTuple):
    """Questions of one kind."""

    calls: int
    prompt_tokens: float
    answer_tokens: int


def estimate(
    pipeline: JudgingPipeline,
    judges: Sequence[ResolvedJudge],
    identities: Sequence[str],
    how: PipelineOptions,
    sampling: JudgeSampling,
    known: Container[str],
) -> list[str]:
    """One line for each judge: calls, tokens, price."""
    questions = pipeline.rubric_questions()
    lines: list[str] = []
    for judge, who in zip(judges, identities, strict=True):
        if judge.name == LIKELIHOOD:
            lines.append(_computed_line(judge, pipeline.contrasts()))
            continue
        urls = [server.base_url for server in judge.servers.servers]
        missing = [
            question
            for question in questions
            if not any(key_of(question, judge.model, url, sampling, who) in known for url in urls)
        ]
        rubric = _load(missing, len(missing))
        batch = questions[: how.size]
        sample = [pipeline.ranking_question([q.candidates[0] for q in batch])] if batch else []
        most = how.rounds * num_batches(len(questions), how.size)
        lines.append(_line(judge, rubric, _load(sample, most), sampling))
    return lines


def _computed_line(judge: ResolvedJudge, asked: Sequence[Contrast]) -> str:
    prompts = sum(2 + len(contrast.themes) for contrast in asked)
    return (
        f"{judge.name} at {judge.servers.address}: no question; log-probabilities of "
        f"{counted(len(asked), 'poem')} under {counted(prompts, 'prompt')} at most, $0."
    )


def _load(questions: Sequence[Question], calls: int) -> _Load:
    if not questions:
        return _Load(0, 0.0, 0)
    mean = sum(likely_tokens(question.messages) for question in questions) / len(questions)
    return _Load(calls, mean, LIKELY_ANSWER[questions[0].kind])


def _line(judge: ResolvedJudge, rubric: _Load, ranking: _Load, sampling: JudgeSampling) -> str:
    loads = (rubric, ranking)
    tokens = sum(load.calls * (load.prompt_tokens + load.answer_tokens) for load in loads)
    return (
        f"{judge.name} at {judge.servers.address}: {counted(rubric.calls, 'rubric call')}, at most "
        f"{counted(ranking.calls, 'comparison')}, about {tokens:.0f} tokens, "
        f"{_price(judge.price, loads, sampling)}."
    )


def _price(price: Price | None, loads: Sequence[_Load], sampling: JudgeSampling) -> str:
    if price is None:
        return "price unknown; give --price"
    if price == FREE:
        return "$0 (a server of your own)"
    likely = sum(load.calls * price.of(load.prompt_tokens, load.answer_tokens) for load in loads)
    most = sum(load.calls * price.of(load.prompt_tokens, sampling.max_tokens) for load in loads)
    return f"about ${likely:.4f}, at most ${most:.4f}"


class JudgingOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for."""

    poems: Sequence[Path]
    training: Sequence[Path] = ()
    examples: Path | None = None
    weights: Path | None = None
    min_characters: int = MIN_CHARACTERS
    judges: Sequence[JudgeSpec]
    pipeline: PipelineOptions = PipelineOptions()
    sampling: JudgeSampling = JudgeSampling()


class JudgingRunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How it is to be done."""

    output: Path
    cache: Path | None = None
    """None for a file beside the output."""
    ask_again: bool = False
    """Whether answers that could not be used are asked for again."""
    max_calls: int | None = None
    max_cost: float | None = None
    connection: ConnectionOptions = ConnectionOptions()

    @property
    def judgments(self) -> Path:
        """Where answers are kept."""
        return self.cache or self.output.with_suffix(".judgments.jsonl")


class JudgingRun:
    """Reads, filters, asks, ranks and writes."""

    def __init__(self, options: JudgingOptions, run_options: JudgingRunOptions) -> None:
        """Read everything; nothing is sent or written yet.

        Raises:
            UserError: a file cannot be read, options do not fit, or the output is another run's.
        """
        self._run_options = run_options
        self._options = options
        self._console = terminal.console(stderr=True)
        self._learned = read_weights(options.weights)
        self._pipeline_options = msgspec.structs.replace(
            options.pipeline, weights=self._learned.weights
        )
        self._poems = read_poems(options.poems)
        self._examples: list[Poem] = read_examples(options.examples)
        screen = judge_screen(read_training(options.training), options.min_characters)
        self._filtered = {poem.id: screen.find(poem) for poem in self._poems}
        check_output(run_options.output, self._filtered)
        self._pool = JudgePool(options.judges, run_options.connection, self._tell)
        self._pool.check_limit(run_options.max_cost)
        self._budget = Budget(run_options.max_calls, run_options.max_cost)

    async def run(self) -> Ranked:
        """Ask what is not known yet, rank, and write the output.

        Raises:
            UserError: see `errors`; every answer that came is on the disk.
        """
        judgments = Judgments(self._run_options.judgments, ask_again=self._run_options.ask_again)
        if judgments.torn is not None:
            self._tell(f"The last line was incomplete; it was moved to {judgments.torn}.")
        try:
            pipeline = await self._hold(judgments)
        except ServerError as error:
            raise UnfinishedError(self._so_far(error)) from error
        finally:
            await judgments.close()
            await self._pool.close()
        if self._survivors() and not pipeline.rubric.totals():
            raise UnfinishedError(self._nothing_usable(pipeline))
        uses = uses_of(self._poems, self._examples, self._learned.trained_on)
        ranked = assemble(self._poems, self._filtered, pipeline, uses)
        write_json(self._run_options.output, ranked)
        if judgments.recovered is not None:
            raise OutputError(
                f"{judgments.recovered} The ranking is in {self._run_options.output}."
            )
        return ranked

    async def describe(self) -> list[str]:
        """What `run` would ask, how long that is, and what it costs, in lines."""
        path, how = self._run_options.judgments, self._pipeline_options
        earlier = read_judgments(path) if path.exists() else []
        known = given(earlier, ask_again=self._run_options.ask_again)
        pipeline = JudgingPipeline([], self._survivors(), self._examples, how, lambda _: None)
        try:
            who = [await _who(judge, earlier) for judge in self._pool.resolved]
            await self._check_contexts(pipeline, local_only=True)  # poems go nowhere else yet
            poems = counted(len(self._poems), "poem")
            return [
                f"{poems}, {len(self._survivors())} of them to be judged.",
                *estimate(pipeline, self._pool.resolved, who, how, self._options.sampling, known),
            ]
        finally:
            await self._pool.close()

    async def _hold(self, judgments: Judgments) -> JudgingPipeline:
        now = time.monotonic
        tally = AnswerTally(budget=self._budget, now=now, begun=now())
        with LiveLine(self._console, tally.progress):
            judges_context = self._context(judgments, tally.count)
            judges = self._pool.judges(judges_context)
            computed = self._pool.likelihood(judges_context)
            await asyncio.gather(*(judge.identify() for judge in judges))
            if computed is not None:
                await computed.identify(self._survivors())
            self._tell_of_others(judges, judgments)
            pipeline = JudgingPipeline(
                judges,
                self._survivors(),
                self._examples,
                self._pipeline_options,
                tally.expect,
                computed,
            )
            await self._check_contexts(pipeline)
            await pipeline.score_all()
            if not pipeline.not_asked:
                await pipeline.compare()
        return pipeline

    async def _check_contexts(self, pipeline: JudgingPipeline, *, local_only: bool = False) -> None:
        usual = pipeline.usual_questions()
        for judge in self._pool.resolved:
            if judge.name != LIKELIHOOD:
                servers = [s for s in judge.servers.servers if s.is_local or not local_only]
                await check_context(judge.name, judge.model, servers, usual)

    def _tell_of_others(self, judges: Sequence[Judge], judgments: Judgments) -> None:
        for judge in judges:
            others = sum(
                judgments.num_others(server.base_url, judge.model, judge.identity)
                for server in judge.servers.servers
            )
            if others:
                self._tell(
                    f"{others} answers in {judgments.path} came from another model named "
                    f"{judge.model}, or do not record which model; they are kept but not used."
                )

    def _context(
        self, judgments: Judgments, on_answer: Callable[[Judgment], object]
    ) -> JudgeContext:
        return JudgeContext(
            judgments, self._budget, self._options.sampling, lambda: datetime.now(UTC), on_answer
        )

    def _survivors(self) -> list[Candidate]:
        return [poem for poem in self._poems if self._filtered[poem.id] is None]

    def _nothing_usable(self, pipeline: JudgingPipeline) -> str:
        if pipeline.not_asked and not pipeline.troubles():
            return "The limit is too low for a single answer; raise --max-calls or --max-cost."
        found = ", ".join(f"{count} {name}" for name, count in sorted(pipeline.troubles().items()))
        last = " ".join(pipeline.last_trouble().split())[:_QUOTED]
        hint = " Raise --max-tokens." if "truncated" in pipeline.troubles() else ""
        return (
            f"No answer was usable ({found}), so there is no ranking. The last answer began: "
            f"{last!r}. All answers are in {self._run_options.judgments}.{hint}"
        )

    def _so_far(self, error: ServerError) -> str:
        sentence = str(error)
        missing = self._pool.missing_key()
        if isinstance(error, UnauthorisedError) and missing:
            sentence = f"{sentence} {missing} is not set."
        return f"{sentence} Answers so far are saved; run the same command again to continue."

    def _tell(self, line: str) -> None:
        terminal.show_line(self._console, line)


async def _who(judge: ResolvedJudge, earlier: Sequence[Judgment]) -> str:
    """Who would answer; the one who did the last time if the server is away."""
    try:
        return await identity_of(judge.server, judge.model)
    except NOT_NOW:
        return identities(earlier).get((judge.server.base_url, judge.model), "")
