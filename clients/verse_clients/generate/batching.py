"""The run as a batch: all requests in one file, which the server answers by itself.

Beside the poems, `NAME.batch.json` notes which batch is under way. So whoever is stopped finds it
again, and asks for nothing twice; what of its results is kept already is passed over.
"""

import asyncio
import hashlib
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from verse.atomic_file import replace_file
from verse.terminal import counted
from verse_clients.answers import Answer, ReadCompletion
from verse_clients.errors import (
    BadRequestError,
    NoCompletionError,
    OutputError,
    ServerError,
    UnknownModelError,
)
from verse_clients.generate.plan import Cell
from verse_clients.generate.summary import RunTally
from verse_clients.generate.writing import PoemWriter
from verse_clients.retries import RetryPolicy

T = TypeVar("T")

CHAT = "/v1/chat/completions"
_ID_DIGITS = 32
_PLAN = "verse_plan"
_FIRST_LOOK_SECONDS = 0.1
_MOST_BETWEEN_LOOKS_SECONDS = 1.0


class BatchServer(Protocol):
    """Who is asked; see `openai_client.AsyncServer`."""

    base_url: str

    async def call(self, path: str, body: Mapping[str, object] | None = None) -> object:
        """Get or send something."""
        ...

    async def upload(self, path: Path) -> str:
        """Give a file of requests."""
        ...

    async def fetch_file(self, id_: str, path: Path) -> None:
        """Write a file of results to the disk."""
        ...


class _BatchCounts(msgspec.Struct, frozen=True):
    completed: int = 0
    failed: int = 0


class _BatchProblem(msgspec.Struct, frozen=True):
    message: str
    line: int | None = None


class _BatchProblems(msgspec.Struct, frozen=True):
    data: tuple[_BatchProblem, ...] = ()


class BatchState(msgspec.Struct, frozen=True):
    """How far a batch has come on its server, in OpenAI's words."""

    id: str
    status: str
    request_counts: _BatchCounts | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: _BatchProblems | None = None
    metadata: dict[str, str] | None = None

    @property
    def is_running(self) -> bool:
        """Whether more will come."""
        return self.status in ("validating", "in_progress", "finalizing", "cancelling")

    @property
    def done(self) -> int:
        """Requests that are answered, or given up."""
        counts = self.request_counts or _BatchCounts()
        return counts.completed + counts.failed

    @property
    def result_files(self) -> list[str]:
        """Where answers are, and where failures."""
        return [file for file in (self.output_file_id, self.error_file_id) if file is not None]

    @property
    def problem(self) -> str | None:
        """The first thing that is wrong with the requests, if they were refused."""
        return self.errors.data[0].message if self.errors and self.errors.data else None


class _BatchList(msgspec.Struct, frozen=True):
    data: tuple[BatchState, ...]


class BatchNote(msgspec.Struct, frozen=True, kw_only=True):
    """Which batch is under way."""

    id: str
    base_url: str


class BatchedRun:
    """Writes the poems of a plan that are missing, batch by batch."""

    def __init__(
        self,
        server: BatchServer,
        writer: PoemWriter,
        tally: RunTally,
        retries: RetryPolicy,
        *,
        poems: Path,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        report: Callable[[str], object],
    ) -> None:
        """Be ready.

        Args:
            server: Who writes.
            writer: Who keeps what is written.
            tally: Counts; it is told how far the server is.
            retries: Waits for the server.
            poems: The file of poems, which the note stands beside.
            sleep: Lets seconds pass.
            report: Takes a line for the person who waits.
        """
        self._server = server
        self._writer = writer
        self._tally = tally
        self._retries = retries
        self._note = poems.with_name(f"{poems.name}.batch.json")
        self._sleep = sleep
        self._report = report

    async def write(self, cells: Sequence[Cell]) -> None:
        """Write one poem for each cell; what was fetched is on the disk also when this raises.

        Raises:
            ServerError: the server refuses, or is away for too long.
            OutputError: the disk refuses.
        """
        missing = {_custom_id(cell): cell for cell in cells}
        if (state := await self._noted()) is not None:
            self._report(f"The batch {state.id} was begun before; its poems are fetched first.")
            await self._finish(state, missing)
        if not missing:
            return
        state = await self._begin(missing)
        await self._finish(state, missing)
        if missing:
            number = counted(len(missing), "poem")
            raise ServerError(f"The batch {state.id} ended without {number}.")

    async def _noted(self) -> BatchState | None:
        """The batch that was under way when the last run was stopped, if the server has it."""
        try:
            note = msgspec.json.decode(self._note.read_bytes(), type=BatchNote)
        except (OSError, msgspec.DecodeError):
            return None
        if note.base_url != self._server.base_url:
            return None
        try:
            return await self._retries.ask(lambda: self._state(note.id))
        except UnknownModelError:  # a 404: its state folder is another one now
            return None

    async def _begin(self, cells: Mapping[str, Cell]) -> BatchState:
        with tempfile.TemporaryDirectory(prefix="verse-batch-") as folder:
            requests = Path(folder) / "requests.jsonl"
            try:
                with requests.open("wb") as file:
                    for id_, cell in cells.items():
                        file.write(_request(id_, cell))
            except OSError as error:
                raise OutputError(f"{requests} cannot be written: {error.strerror}.") from error
            state = await self._retries.ask(lambda: self._begun(requests, _plan_id(cells)))
        note = BatchNote(id=state.id, base_url=self._server.base_url)
        try:
            replace_file(self._note, [msgspec.json.encode(note)])
        except OSError as error:
            raise OutputError(f"{self._note} cannot be written: {error.strerror}.") from error
        return state

    async def _begun(self, requests: Path, plan_id: str) -> BatchState:
        """The batch of these requests, also if nobody heard of its begin."""
        found = await self._server.call("/batches?limit=100")
        for state in _read(found, _BatchList).data:
            if state.is_running and (state.metadata or {}).get(_PLAN) == plan_id:
                return state
        asked = {
            "input_file_id": await self._server.upload(requests),
            "endpoint": CHAT,
            "completion_window": "24h",
            "metadata": {_PLAN: plan_id},
        }
        return _read(await self._server.call("/batches", asked), BatchState)

    async def _state(self, id_: str) -> BatchState:
        found = await self._server.call(f"/batches/{id_}")
        return _read(found, BatchState)

    async def _finish(self, state: BatchState, missing: dict[str, Cell]) -> None:
        """Wait for a batch, and keep what it has become; those cells are no longer missing."""
        state = await self._ended(state)
        if state.problem is not None:
            self._forget()
            raise BadRequestError(f"{self._server.base_url} refused the batch: {state.problem}")
        with tempfile.TemporaryDirectory(prefix="verse-batch-") as folder:
            for file in state.result_files:
                path = Path(folder) / "results.jsonl"
                await self._retries.ask(
                    lambda file=file, path=path: self._server.fetch_file(file, path)
                )
                for result in _results(path):
                    cell = missing.pop(result.custom_id, None)
                    if cell is not None:
                        await self._keep(cell, result)
        self._forget()

    async def _ended(self, state: BatchState) -> BatchState:
        pause = _FIRST_LOOK_SECONDS
        while state.is_running:
            self._tally.on_server = state.done
            await self._sleep(pause)
            pause = min(pause * 1.25, _MOST_BETWEEN_LOOKS_SECONDS)
            state = await self._retries.ask(lambda id_=state.id: self._state(id_))
        self._tally.on_server = 0
        return state

    async def _keep(self, cell: Cell, result: "_Result") -> None:
        answer = result.answer
        if answer is None:
            self._writer.note_failure(cell, BadRequestError(result.problem))
        else:
            await self._writer.keep(cell, answer, self._server.base_url)

    def _forget(self) -> None:
        with suppress(OSError):
            self._note.unlink(missing_ok=True)


def _read(answer: object, kind: type[T]) -> T:
    try:
        return msgspec.convert(answer, kind)
    except msgspec.ValidationError as error:
        raise NoCompletionError(f"The server sent no batch: {error}.") from error


def _custom_id(cell: Cell) -> str:
    """Follows from the cell alone, so that a later run knows whose answer comes."""
    return hashlib.sha256(msgspec.json.encode(cell)).hexdigest()[:_ID_DIGITS]


def _plan_id(ids: Iterable[str]) -> str:
    return hashlib.sha256("".join(ids).encode()).hexdigest()


def _request(id_: str, cell: Cell) -> bytes:
    """A line of the file of requests; what is None is left to the server."""
    sampling = msgspec.structs.asdict(cell.sampling)
    given = {name: value for name, value in sampling.items() if value is not None}
    messages = [{"role": turn.role, "content": turn.content} for turn in cell.messages]
    body = {"model": cell.source.model, "messages": messages, "seed": cell.seed, **given}
    row = {"custom_id": id_, "method": "POST", "url": CHAT, "body": body}
    return msgspec.json.encode(row) + b"\n"


class _Error(msgspec.Struct, frozen=True):
    message: str = "It gives no reason."


class _Body(ReadCompletion, frozen=True):
    """A chat completion, or an error's envelope."""

    error: _Error = _Error()


class _Response(msgspec.Struct, frozen=True):
    status_code: int
    body: _Body


class _Result(msgspec.Struct, frozen=True):
    """A line of a file of results."""

    custom_id: str
    response: _Response | None = None
    error: _Error | None = None

    @property
    def answer(self) -> Answer | None:
        """What was written; None if nothing was."""
        response = self.response
        if response is None or response.status_code != 200 or not response.body.choices:
            return None
        return response.body.answers()[0]

    @property
    def problem(self) -> str:
        """Why nothing was."""
        return (self.error or (self.response.body.error if self.response else _Error())).message


_result = msgspec.json.Decoder(_Result)


def _results(path: Path) -> Iterator[_Result]:
    with path.open("rb") as file:
        for line in file:
            try:
                yield _result.decode(line)
            except msgspec.DecodeError as error:
                raise NoCompletionError(f"A line of the results is none: {error}.") from error
