"""The run: as many requests at a time as asked for, each answer cleaned, marked and kept."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple, Protocol, cast

import msgspec

from verse.prompt import Message
from verse.records import Candidate
from verse_clients.answers import Answer
from verse_clients.errors import (
    BadRequestError,
    BrokenServerError,
    NoCompletionError,
    ServerError,
    ServerTimeoutError,
)
from verse_clients.generate.cleaning import Cleaned, clean
from verse_clients.generate.output import Output
from verse_clients.generate.plan import Cell
from verse_clients.generate.summary import RunTally
from verse_clients.screening import PoemMarker

_OWN_FAULT = (BadRequestError, BrokenServerError, NoCompletionError, ServerTimeoutError)
"""Errors that may concern one poem alone; all others end the run."""
_FAILED_IN_A_ROW = 5
"""So many without a poem between them are the server's trouble, not the poems'."""


class Writer(Protocol):
    """Who is asked; see `openai_client.AsyncServer`."""

    @property
    def base_url(self) -> str:
        """Where it is."""
        ...

    async def complete(
        self,
        model: str,
        messages: Sequence[Message],
        *,
        seed: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        max_tokens: int | None = None,
    ) -> Answer:
        """One answer."""
        ...


class WrittenAnswer(NamedTuple):
    """An answer, and whose it is."""

    answer: Answer
    base_url: str


class Writers(Protocol):
    """All who are asked; see `server_pool.ServerPool`."""

    async def ask(
        self, request: Callable[[Writer], Coroutine[Any, Any, WrittenAnswer]]
    ) -> WrittenAnswer:
        """An answer of one of them."""
        ...


class PoemWriter:
    """Writes the poems of a plan that are missing."""

    def __init__(
        self,
        servers: Writers,
        output: Output,
        marker: PoemMarker,
        tally: RunTally,
        *,
        clock: Callable[[], datetime],
        report: Callable[[str], object],
    ) -> None:
        """Be ready.

        Args:
            servers: Who write.
            output: Where poems are kept.
            marker: Marks duplicates and copies; knows what is in the output.
            tally: Counts.
            clock: Tells when a poem was written.
            report: Takes a line for the person who waits.
        """
        self._servers = servers
        self._output = output
        self._marker = marker
        self._tally = tally
        self._clock = clock
        self._report = report
        self._failed_in_a_row = 0
        self._digests = {_weights(poem): poem.digest for poem in output.poems}
        self.poems: list[Candidate] = []
        """Written by this run, in the order they came."""

    async def write(self, cells: Sequence[Cell], concurrency: int) -> None:
        """Write one poem for each cell; what has come is on the disk also when this raises.

        Raises:
            ServerError: asking on makes no sense.
            OutputError: the disk refuses.
        """
        queue = iter(cells)
        workers = [self._work(queue) for _ in range(min(concurrency, len(cells)))]
        try:
            async with asyncio.TaskGroup() as group:
                for worker in workers:
                    group.create_task(worker)
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _work(self, queue: Iterator[Cell]) -> None:
        for cell in queue:
            try:
                written = await self._servers.ask(lambda server, cell=cell: _asked(server, cell))
            except _OWN_FAULT as error:
                self.note_failure(cell, error)
            else:
                await self.keep(cell, written.answer, written.base_url)

    async def keep(self, cell: Cell, answer: Answer, base_url: str) -> None:
        """Clean, mark and keep one answer; without a poem in it, note that.

        Raises:
            ServerError: too many in a row have none.
            OutputError: the disk refuses.
        """
        cleaned = clean(answer.text, cell.theme)
        if cleaned.is_thought or (not cleaned.text and answer.finish_reason == "length"):
            self.note_failure(cell, NoCompletionError(
                f"{base_url} was still thinking when its tokens ran out and wrote no "
                "poem; raise --max-tokens."
            ))  # fmt: skip
            return
        poem = self._marker.marked(self._candidate(cell, answer, cleaned, base_url))
        await self._output.write(poem)
        self._failed_in_a_row = 0
        self.poems.append(poem)
        self._tally.count(poem)
        self._compare_weights(poem)

    def note_failure(self, cell: Cell, error: ServerError) -> None:
        """Count a poem that will not be written.

        Raises:
            ServerError: too many in a row.
        """
        self._tally.failed += 1
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= _FAILED_IN_A_ROW:
            raise error
        self._report(f"No poem on {cell.theme!r} by {cell.source.model}: {error}")

    def _compare_weights(self, poem: Candidate) -> None:
        """Poems of one name and different weights belong into different files."""
        before = self._digests.setdefault(_weights(poem), poem.digest)
        if before != poem.digest:
            self._digests[_weights(poem)] = poem.digest
            self._report(
                f"The weights of {poem.adapter or 'the base'} have changed since earlier poems of "
                f"{self._output.path} were written; each poem's digest tells which is which."
            )

    def _candidate(self, cell: Cell, answer: Answer, cleaned: Cleaned, base_url: str) -> Candidate:
        cut_off = answer.finish_reason == "length" and not cleaned.is_ended
        return Candidate(
            theme=cell.theme,
            text=cleaned.text,
            adapter=cell.source.adapter,
            digest=answer.fingerprint,
            checkpoint=cell.source.checkpoint,
            variant=cell.variant,
            sample=cell.sample,
            seed=cell.seed,
            sampling=cell.sampling,
            finish_reason="length" if cut_off else _finish_reason(answer),
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            time=self._clock(),
            server=base_url,
            raw=None if cleaned.text == answer.text.strip("\n") else answer.text,
        )


async def _asked(server: Writer, cell: Cell) -> WrittenAnswer:
    sampling = msgspec.structs.asdict(cell.sampling)
    answer = await server.complete(cell.source.model, cell.messages, seed=cell.seed, **sampling)
    return WrittenAnswer(answer, server.base_url)


def _finish_reason(answer: Answer) -> Literal["stop", "content_filter"] | None:
    if answer.finish_reason == "length":
        return "stop"  # the poem had ended before the tokens did
    known = answer.finish_reason in ("stop", "content_filter")
    return cast("Literal['stop', 'content_filter']", answer.finish_reason) if known else None


def _weights(poem: Candidate) -> tuple[str | None, object]:
    return poem.adapter, poem.checkpoint
