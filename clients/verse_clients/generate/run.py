"""One call of `verse generate`: from what was asked for to poems on the disk and a summary."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from verse import terminal
from verse.records import Candidate, Sampling
from verse.similarity import NEAR
from verse.terminal import are, counted
from verse_clients.answers import ServedModel
from verse_clients.chat_prompts import Prompt
from verse_clients.errors import InputError, OutputError, ServerError, UnfinishedError
from verse_clients.generate import inputs
from verse_clients.generate.batching import BatchedRun
from verse_clients.generate.catalogue import (
    ORIGINALS_CHECKPOINTS,
    Selection,
    catalogue,
    check_base,
    check_folders,
    choose_sources,
    resolve_checkpoints,
)
from verse_clients.generate.output import Output, check_plan
from verse_clients.generate.plan import Cell, Source, make_plan, missing
from verse_clients.generate.summary import RunFigures, RunTally, thresholds
from verse_clients.generate.writing import PoemWriter
from verse_clients.openai_client import BATCH, AsyncServer
from verse_clients.options import GENERATE_CONCURRENCY
from verse_clients.progress import LiveLine
from verse_clients.retries import RetryPolicy
from verse_clients.screening import CopyLimits, Limits, PoemMarker
from verse_clients.server_pool import ServerPool


class PlanOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for, read and checked."""

    themes: Sequence[str]
    variants: Sequence[str | None]
    prompts: Sequence[Prompt] = ()
    """Asked beside themes and variants; whole prompts have both in them."""
    adapters: Sequence[str]
    """Names; none of them for all adapters."""
    selection: Selection
    """Of checkpoints."""
    base: str | None
    """The base model that must be served, if it matters."""
    num_samples: int
    seed: int
    common_seeds: bool = False
    """Whether all adapters and checkpoints draw by the same seeds."""
    sampling: Sampling


class GenerationOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How it is to be done; nothing here changes a poem."""

    poems: Path
    """The JSON Lines file."""
    extend: bool = False
    """Whether poems of another plan may be in it."""
    training: Sequence[Path] = ()
    accepted: Sequence[Path] = ()
    near: float = NEAR
    limits: CopyLimits = CopyLimits()
    concurrency: int | None = None
    """Requests at a time to each server; None for as many as suits it."""
    as_batch: bool = False
    """Whether the server is given all requests in one file."""
    wait_seconds: float = 3600.0
    timeout_seconds: float = 600.0


class GenerationRun:
    """Makes the plan, writes what is missing, and knows how far it came."""

    def __init__(
        self,
        plan: PlanOptions,
        options: GenerationOptions,
        base_urls: Sequence[str | None] = (None,),
        api_key: str | None = None,
    ) -> None:
        """Read what a run needs to know; nothing is sent or written yet.

        Args:
            plan: What to write.
            options: How.
            base_urls: The servers; see `AsyncServer`.
            api_key: Their key.

        Raises:
            InputError: training or accepted poems cannot be read, or servers and options do not
                fit together.
            ServerError: an address is none.
        """
        if options.as_batch and len(base_urls) > 1:
            raise InputError(
                "--batch gives the whole plan to one server; name one --base-url, or no --batch."
            )
        self._plan_options = plan
        self._options = options
        self._console = terminal.console(stderr=True)
        self._marker = _marker(options)
        # The SDK's own retries are off: the pool's policies wait, and know the plan.
        servers = [
            AsyncServer(
                base_url,
                api_key,
                timeout_seconds=options.timeout_seconds,
                max_retries=0,
                headers=BATCH,
            )
            for base_url in base_urls
        ]
        self._servers = ServerPool(
            servers,
            slots=self._slots,
            wait_seconds=options.wait_seconds,
            now=time.monotonic,
            sleep=asyncio.sleep,
            report=self._report,
        )
        self._tally: RunTally | None = None
        self._ended = 0.0
        self._output: Output | None = None
        self.poems: list[Candidate] = []
        """All poems of the file, also after an error."""

    async def run(self) -> None:
        """Make the plan and write what is missing.

        Raises:
            UserError: see `verse_clients.errors`; what was written is on the disk.
            ServerError: the server refuses before anything is written.
        """
        try:
            await self._write(await self.plan())
        finally:
            await self._servers.close()

    async def describe(self) -> list[str]:
        """What `run` would do, in lines.

        Raises:
            UserError: see `verse_clients.errors`.
            ServerError: the server refuses.
        """
        try:
            plan = await self.plan()
        finally:
            await self._servers.close()
        path = self._options.poems
        written = inputs.read_candidates(path) if path.exists() else []
        if not self._options.extend:
            check_plan(path, plan, written)
        marks = thresholds(self._options.near, self._options.limits)
        return [*described(plan, missing(plan, written), path), marks]

    async def plan(self) -> list[Cell]:
        """Ask the server what it has, and make the plan.

        Raises:
            ServerError: it refuses, or is away for too long.
            SelectionError: it has no such adapter or checkpoint.
        """
        asked = self._plan_options
        known = catalogue(await self._servers.ask_first(lambda server: server.models()))
        if asked.base is not None:
            check_base(known, asked.base)
        wanted = asked.adapters
        if known.base is None and not wanted and asked.base is not None:
            wanted = [asked.base]
        sources = choose_sources(known, wanted, asked.selection)
        if asked.selection == ORIGINALS_CHECKPOINTS:
            self._tell_published(sources)
        sources = await resolve_checkpoints(sources, self._find)
        await check_folders(asked.adapters, sources, self._find)
        await self._servers.agree(source.model for source in sources)
        return make_plan(
            asked.themes,
            sources,
            asked.variants,
            prompts=asked.prompts,
            num_samples=asked.num_samples,
            sampling=asked.sampling,
            seed=asked.seed,
            common_seeds=asked.common_seeds,
        )

    async def _find(self, name: str) -> ServedModel:
        return await self._servers.ask_first(lambda server: server.model(name))

    def figures(self) -> RunFigures | None:
        """What was done, and how fast; None if it did not come to writing."""
        tally = self._tally
        if tally is None:
            return None
        return RunFigures(
            total=tally.total,
            done=tally.done,
            written=tally.written,
            failed=tally.failed,
            seconds=self._ended - tally.begun,
            poems_per_hour=tally.poems_per_hour(self._ended),
            tokens_per_second=tally.tokens_per_second(self._ended),
            near=self._options.near,
            limits=self._options.limits,
        )

    def so_far(self, why: str) -> str:
        """Why it stopped, how far it came, and how to go on."""
        if self._tally is None:
            return why
        path = self._options.poems if self._output is None else self._output.path
        done = self._tally.done
        there = f"{done} of {counted(self._tally.total, 'poem')} {are(done)} in {path}"
        return f"{why} {there}; run the same command again to continue."

    async def _write(self, plan: Sequence[Cell]) -> None:
        output = self._output = Output(self._options.poems, self._report)
        try:
            if output.torn is not None:
                self._report(f"The last line was cut off; it is in {output.torn} now.")
            if not self._options.extend:
                check_plan(output.path, plan, output.poems)
            await self._write_missing(output, plan)
        finally:
            await output.close()
        if output.recovered is not None:
            raise OutputError(
                f"{self._options.poems} was changed by another program during the run; "
                f"all poems are in {output.path}."
            )

    async def _write_missing(self, output: Output, plan: Sequence[Cell]) -> None:
        self.poems = list(output.poems)
        self._marker.remember_all(self.poems)
        cells = missing(plan, self.poems)
        already = len(plan) - len(cells)
        tally = self._tally = RunTally(total=len(plan), already=already, begun=time.monotonic())
        run = PoemWriter(
            self._servers,
            output,
            self._marker,
            tally,
            clock=lambda: datetime.now(UTC),
            report=self._report,
        )
        try:
            with LiveLine(self._console, lambda: tally.progress(time.monotonic())):
                if self._options.as_batch:
                    await self._batched(run, output, tally).write(cells)
                else:
                    await run.write(cells, self._servers.num_slots)
        except ServerError as error:
            raise UnfinishedError(self.so_far(str(error))) from error
        finally:
            self._ended = time.monotonic()
            self.poems += run.poems
        if tally.failed:
            number = counted(tally.failed, "poem")
            raise UnfinishedError(self.so_far(f"{number} could not be written."))

    def _batched(self, run: PoemWriter, output: Output, tally: RunTally) -> BatchedRun:
        (server,) = self._servers.servers
        retries = RetryPolicy(
            self._options.wait_seconds,
            now=time.monotonic,
            sleep=asyncio.sleep,
            report=self._report,
        )
        return BatchedRun(server, run, tally, retries, poems=output.path, report=self._report)

    def _slots(self, server: AsyncServer) -> int:
        usual = GENERATE_CONCURRENCY.for_server(is_local=server.is_local)
        return self._options.concurrency or usual

    def _tell_published(self, sources: Sequence[Source]) -> None:
        names = [source.model for source in sources if source.adapter == source.model]
        if names:
            self._report(
                f"No checkpoint from step {ORIGINALS_CHECKPOINTS.first} on: the published weights "
                f"of {', '.join(names)} write; -e N takes every saved one from step N on."
            )

    def _report(self, line: str) -> None:
        terminal.show_line(self._console, line)


def described(plan: Sequence[Cell], missing_: Sequence[Cell], path: Path) -> list[str]:
    """The plan's size, and how many poems each source is to write."""
    counts = Counter(cell.source.model for cell in plan)
    sizes = {
        "theme": len({cell.theme for cell in plan}),
        "variant": len({cell.variant for cell in plan}),
        "sample": len({cell.sample for cell in plan}),
    }
    factors = " x ".join(counted(number, name) for name, number in sizes.items())
    return [
        *(f"{model}: {counted(count, 'poem')}" for model, count in counts.items()),
        f"{counted(len(counts), 'model')} x {factors} = {counted(len(plan), 'poem')}; "
        f"{len(plan) - len(missing_)} of them are in {path}, {len(missing_)} to be written.",
    ]


def _marker(options: GenerationOptions) -> PoemMarker:
    accepted = [poem for path in options.accepted for poem in inputs.read_accepted(path)]
    training = inputs.read_training(options.training)
    return PoemMarker(training, accepted, Limits(options.limits, options.near))
