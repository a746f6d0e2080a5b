"""`/v1/batches`: files of requests, answered in bulk behind everything else, as OpenAI has it.

`BatchRunner` carries batches out, one after another:

    validating -> in_progress -> finalizing -> completed
               `-> failed     `-> cancelling -> cancelled

Each step begins from what is on the disk, so a server that was killed goes on where it was. A
bounded number of requests is under way at a time; they run at batch priority, behind every chat.
"""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, suppress
from itertools import islice
from typing import Annotated, Any

from litestar import Controller, post, route
from litestar.di import NamedDependency
from litestar.params import JSONBody, PathParameter, SkipValidation
from msgspec import UNSET

from verse_server.api.batch_rows import BatchCheck, Line, RowAnswerer, checked, lines
from verse_server.api.decoding import StrictBatchBody, check_unread_body
from verse_server.api.errors import RequestError, translate
from verse_server.api.openapi import READ, StateDependency, error_responses
from verse_server.api.paging import AfterQuery, LimitQuery, read_page
from verse_server.engine.errors import EngineClosedError, EngineError
from verse_server.engine.interface import Engine
from verse_server.protocol.batches import (
    BatchError,
    BatchErrors,
    BatchList,
    BatchObject,
    BatchRequestCounts,
    BatchUsage,
    CreateBatchRequest,
)
from verse_server.protocol.responses import InputTokensDetails
from verse_server.state.batches import AskedBatch, LineProblem, RowResult, StoredBatch
from verse_server.state.errors import RecordInUseError, StateError
from verse_server.state.folder import ServerState

_LINES_AT_ONCE = 64
_AGAIN_SECONDS = 5.0
"""After the disk has refused."""

_log = logging.getLogger(__name__)


class BatchRunner:
    """The task that carries batches out; it lives on the server's event loop."""

    def __init__(
        self,
        engine: Engine,
        state: ServerState,
        answerer: RowAnswerer,
        *,
        num_at_once: int,
        max_line_bytes: int,
    ) -> None:
        self._engine = engine
        self._batches = state.batches
        self._answerer = answerer
        self._num_at_once = num_at_once
        self._max_line_bytes = max_line_bytes
        self._new = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._rows: tuple[str, asyncio.Task[None]] | None = None
        """The batch whose requests run, and the task that runs them."""

    def start(self) -> None:
        """Begin, and go on with what was interrupted."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def wake(self) -> None:
        """There is something new to do."""
        self._new.set()

    def cancel(self, id_: str) -> None:
        """A batch is `cancelling` now: end the requests that run."""
        if self._rows is not None and self._rows[0] == id_:
            self._rows[1].cancel()
        self.wake()

    async def stop(self) -> None:
        """Leave everything as it is on the disk; requests that run are asked again another time."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _run(self) -> None:
        while True:
            self._new.clear()
            try:
                batch = await self._batches.unfinished()
                if batch is None:
                    await self._new.wait()
                else:
                    await self._take_step(batch)
            except EngineClosedError:
                # Shutting down, and then this is stopped; or the base is away for a while.
                await asyncio.sleep(_AGAIN_SECONDS)
            except RecordInUseError:
                continue  # cancelled meanwhile
            except (StateError, sqlite3.Error, OSError) as error:
                _log.warning("batches wait: %s", error)
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _take_step(self, batch: StoredBatch) -> None:
        try:
            match batch.status:
                case "validating":
                    await self._validate(batch)
                case "in_progress":
                    await self._run_rows(batch)
                case "finalizing":
                    await self._publish(batch, is_cancelled=False)
                case _:
                    await self._publish(batch, is_cancelled=True)
        except (EngineClosedError, StateError, sqlite3.Error, OSError):
            raise
        except Exception as error:  # noqa: BLE001  (it must not stop those behind it)
            problem = LineProblem(code="internal_error", message=translate(error).message)
            await self._batches.close(batch, "failed", errors=(problem,))

    async def _validate(self, batch: StoredBatch) -> None:
        found = await asyncio.to_thread(self._checked, batch)
        problems = found.problems or [
            problem
            for name, line in found.models.items()
            if (problem := await self._unknown(name, line)) is not None
        ]
        if problems:
            errors, total = tuple(problems), found.num_rows
            await self._batches.close(batch, "failed", errors=errors, total=total)
        else:
            await self._batches.advance(
                batch.id, "in_progress", ("validating",), total=found.num_rows
            )

    def _checked(self, batch: StoredBatch) -> BatchCheck:
        rows = lines(self._batches.input_path(batch.id), self._max_line_bytes)
        return checked(rows, batch.asked.endpoint, self._max_line_bytes)

    async def _unknown(self, name: str, line: int) -> LineProblem | None:
        try:
            await self._engine.target(name)
        except EngineClosedError:
            raise
        except EngineError as error:
            failure = translate(error)
            code = failure.code or "invalid_value"
            return LineProblem(code=code, message=failure.message, param="body.model", line=line)
        return None

    async def _run_rows(self, batch: StoredBatch) -> None:
        running = asyncio.create_task(self._answer_missing(batch))
        self._rows = (batch.id, running)
        try:
            await asyncio.wait([running])
        finally:
            self._rows = None
            running.cancel()
            await asyncio.wait([running])
        if running.cancelled():
            return  # it is cancelling now
        running.result()
        await self._batches.advance(batch.id, "finalizing", ("in_progress",))

    async def _answer_missing(self, batch: StoredBatch) -> None:
        done = await self._batches.done(batch.number)
        results = _GroupCommit(self, batch.number)
        async with aclosing(self._missing(batch, done)) as missing:
            turn = asyncio.Lock()

            async def work() -> None:
                while True:
                    async with turn:
                        line = await anext(missing, None)
                    if line is None:
                        return
                    await results.add(await self._answerer.answer(line, batch.id))

            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self._num_at_once):
                        group.create_task(work())
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None

    async def _missing(self, batch: StoredBatch, done: set[int]) -> AsyncGenerator[Line, None]:
        """The lines without a result, read a few at a time."""
        rows = lines(self._batches.input_path(batch.id), self._max_line_bytes)
        while some := await asyncio.to_thread(_next_lines, rows):
            for line in some:
                if line.number not in done:
                    yield line

    async def keep(self, number: int, results: list[RowResult]) -> None:
        """Add results, however long the disk refuses them."""
        is_told = False
        while True:
            try:
                return await self._batches.add(number, results)
            except (StateError, sqlite3.Error) as error:
                if not is_told:
                    _log.warning("the results of a batch wait: %s", error)
                is_told = True
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _publish(self, batch: StoredBatch, *, is_cancelled: bool) -> None:
        output = await self._batches.publish(
            batch, is_failed=False, filename=f"{batch.id}_output.jsonl"
        )
        errors = await self._batches.publish(
            batch, is_failed=True, filename=f"{batch.id}_error.jsonl"
        )
        await self._batches.close(
            batch,
            "cancelled" if is_cancelled else "completed",
            output_file_id=None if output is None else output.id,
            error_file_id=None if errors is None else errors.id,
        )


class _GroupCommit:
    """Adds results that come at about the same time in one transaction."""

    def __init__(self, runner: BatchRunner, number: int) -> None:
        self._runner = runner
        self._number = number
        self._waiting: list[RowResult] = []
        self._turn = asyncio.Lock()

    async def add(self, result: RowResult) -> None:
        """Returns when the result is on the disk."""
        self._waiting.append(result)
        async with self._turn:
            taken, self._waiting = self._waiting, []
            if taken:  # or those before have taken it along
                await self._runner.keep(self._number, taken)


def _next_lines(rows: Iterator[Line]) -> list[Line]:
    return list(islice(rows, _LINES_AT_ONCE))


BatchRunnerDependency = NamedDependency[SkipValidation[BatchRunner]]
BatchId = Annotated[str, PathParameter(schema_extra={"min_length": 1})]
_DEFAULT_LIMIT, _MAX_LIMIT = 20, 100


class BatchesController(Controller):
    """Requests in bulk."""

    path = "/batches"
    tags = ("batches",)

    @post(
        status_code=200,
        dto=StrictBatchBody,
        return_dto=None,
        responses=error_responses(400, 401, 403, 404, 413, 507),
    )
    async def create(
        self,
        data: JSONBody[CreateBatchRequest],
        store: StateDependency,
        batches: BatchRunnerDependency,
    ) -> BatchObject:
        """Begin to answer the requests of a file."""
        file = await store.files.get(data.input_file_id, "input_file_id")
        if file.purpose != "batch":
            raise RequestError(
                f"The file {file.id!r} has the purpose '{file.purpose}'; upload it with 'batch'.",
                param="input_file_id",
            )
        expires = data.output_expires_after
        asked = AskedBatch(
            endpoint=data.endpoint,
            input_file_id=file.id,
            metadata=data.metadata,
            output_expires_seconds=None if expires is None else expires.seconds,
        )
        batch = await store.batches.create(asked, file)
        batches.wake()
        return wire_batch(batch)

    @route(http_method=READ, responses=error_responses(400, 401, 403, 404))
    async def list(
        self, store: StateDependency, after: AfterQuery = None, limit: LimitQuery = None
    ) -> BatchList:
        """All batches, the newest first."""
        page = read_page(after, limit, default_limit=_DEFAULT_LIMIT, max_limit=_MAX_LIMIT)
        found = await store.batches.list(after=page.after, limit=page.limit)
        data = tuple(map(wire_batch, found.items))
        return BatchList(
            data=data,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
            has_more=found.has_more,
        )

    @route("/{batch_id:str}", http_method=READ, responses=error_responses(401, 403, 404))
    async def retrieve(self, store: StateDependency, batch_id: BatchId) -> BatchObject:
        """A batch, as far as it has come."""
        return wire_batch(await store.batches.get(batch_id))

    @post(
        "/{batch_id:str}/cancel",
        status_code=200,
        guards=[check_unread_body],
        responses=error_responses(401, 403, 404, 409, 507),
    )
    async def cancel(
        self, store: StateDependency, batches: BatchRunnerDependency, batch_id: BatchId
    ) -> BatchObject:
        """End a batch; what is done is kept."""
        batch = await store.batches.advance(batch_id, "cancelling", ("validating", "in_progress"))
        batches.cancel(batch.id)
        return wire_batch(batch)


def wire_batch(batch: StoredBatch) -> BatchObject:
    """As the wire has it."""
    times: dict[str, Any] = dict(batch.times)
    errors = tuple(
        BatchError(code=e.code, message=e.message, param=e.param, line=e.line) for e in batch.errors
    )
    return BatchObject(
        id=batch.id,
        endpoint=batch.asked.endpoint,
        input_file_id=batch.asked.input_file_id,
        status=batch.status,
        errors=BatchErrors(data=errors) if errors else UNSET,
        output_file_id=batch.output_file_id or UNSET,
        error_file_id=batch.error_file_id or UNSET,
        request_counts=BatchRequestCounts(
            total=batch.total, completed=batch.completed, failed=batch.failed
        ),
        usage=BatchUsage(
            input_tokens=batch.input_tokens,
            input_tokens_details=InputTokensDetails(cached_tokens=batch.cached_tokens),
            output_tokens=batch.output_tokens,
            total_tokens=batch.input_tokens + batch.output_tokens,
        ),
        metadata=batch.asked.metadata,
        **times,
    )
