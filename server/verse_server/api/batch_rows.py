"""The requests of a batch: read line by line and checked, then answered as their endpoint would.

All of a file is checked before anything of it runs, as OpenAI does it.
"""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec

from verse.terminal import counted
from verse_server.api.admission import Admission
from verse_server.api.answering import ChatAnswers, CompletionAnswers
from verse_server.api.convert import chat_rows, completion_rows
from verse_server.api.decoding import (
    decode_chat_request,
    decode_completion_request,
    decode_response_request,
)
from verse_server.api.errors import Failure, translate
from verse_server.api.responses import ResponseArchive, response_answers
from verse_server.api.tool_answers import ToolAnswers
from verse_server.api.tools import tool_use
from verse_server.engine.errors import (
    AdapterChangedError,
    DeadlineExceededError,
    EngineClosedError,
    GenerationFailedError,
    QueueFullError,
)
from verse_server.engine.interface import Engine
from verse_server.protocol.batches import BatchResponse, BatchResult, BatchRow
from verse_server.protocol.responses import Response
from verse_server.state.batches import LineProblem, RowResult

MAX_ROWS = 50_000
_MAX_PROBLEMS = 100
"""More would be more of the same."""
_MAX_SHOWN_CHARS = 64
_MAX_TRIES = 3
"""Of what may go well another time: it waited too long behind others, say."""
_BETWEEN_TRIES_SECONDS = 1.0

_encode = msgspec.json.Encoder().encode


class Line(NamedTuple):
    """A line of the file."""

    number: int
    """From 1."""
    text: bytes


class _Asked(msgspec.Struct):
    """What is looked at of a body before it runs."""

    model: str
    stream: bool | None = None


class BatchCheck(msgspec.Struct):
    """What a look through the file has found."""

    num_rows: int = 0
    problems: list[LineProblem] = []
    models: dict[str, int] = {}
    """Each model that is asked, with the first line that asks it."""


_row = msgspec.json.Decoder(BatchRow)
_asked = msgspec.json.Decoder(_Asked)


def lines(path: Path, max_bytes: int) -> Iterator[Line]:
    """The lines of a file that hold anything; of one that is too long only the beginning."""
    with path.open("rb") as file:
        number = 0
        while text := file.readline(max_bytes + 2):
            number += 1
            if len(text) > max_bytes + 1 and not text.endswith(b"\n"):
                _skip_rest(file, max_bytes)
            if text.strip():
                yield Line(number, text)


def _skip_rest(file: BinaryIO, max_bytes: int) -> None:
    while (rest := file.readline(max_bytes)) and not rest.endswith(b"\n"):
        pass


def checked(rows: Iterable[Line], endpoint: str, max_bytes: int) -> BatchCheck:
    """Look through all lines, up to so many problems.

    Args:
        rows: The lines.
        endpoint: The `url` that all of them must have.
        max_bytes: Of one line.
    """
    found, seen = BatchCheck(problems=[], models={}), dict[str, int]()
    for line in rows:
        found.num_rows += 1
        problem = _problem(line, endpoint, max_bytes, seen, found.models)
        if problem is not None:
            found.problems.append(problem)
        if found.num_rows > MAX_ROWS:
            message = f"A batch has at most {counted(MAX_ROWS, 'request')}; split the file."
            found.problems = [LineProblem(code="too_many_requests", message=message)]
            return found
        if len(found.problems) >= _MAX_PROBLEMS:
            return found
    if not found.num_rows:
        found.problems.append(LineProblem(code="empty_file", message="The file has no requests."))
    return found


def _problem(
    line: Line, endpoint: str, max_bytes: int, seen: dict[str, int], models: dict[str, int]
) -> LineProblem | None:
    """What is wrong with a line; what it asks for is noted."""

    def problem(code: str, message: str, param: str | None = None) -> LineProblem:
        return LineProblem(code=code, message=message, param=param, line=line.number)

    if len(line.text.rstrip(b"\r\n")) > max_bytes:
        return problem("line_too_long", f"A line has at most {counted(max_bytes, 'byte')}.")
    try:
        row = _row.decode(line.text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _unreadable(line, str(error))
    if not row.custom_id or len(row.custom_id) > 512:
        message = "'custom_id' must be a text of 1 to 512 characters."
        return problem("invalid_custom_id", message, "custom_id")
    first = seen.setdefault(row.custom_id, line.number)
    if first != line.number:
        shown = row.custom_id[:_MAX_SHOWN_CHARS]
        message = f"The custom_id {shown!r} is line {first}'s already; each must be another one."
        return problem("duplicate_custom_id", message, "custom_id")
    if row.url != endpoint:
        message = f"The url {row.url[:_MAX_SHOWN_CHARS]!r} is not the batch's endpoint, {endpoint}."
        return problem("invalid_url", message, "url")
    try:
        asked = _asked.decode(row.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return problem("invalid_request", f"The body is no request: {error}.", "body")
    if asked.stream:
        return problem("invalid_request", "A batch has no streams; leave 'stream' out.", "body")
    models.setdefault(asked.model, line.number)
    return None


def _unreadable(line: Line, complaint: str) -> LineProblem:
    """A line that is no row: no JSON, or a field of it missing or wrong."""
    name = next((n for n in ("custom_id", "method", "url", "body") if f"`{n}`" in complaint), None)
    if name is None:
        name = next((n for n in ("custom_id", "method", "url") if f"`$.{n}`" in complaint), None)
    if "missing required field" in complaint:
        code, message = "missing_required_parameter", f"Missing required parameter: '{name}'."
    elif name == "method":
        code, message = "invalid_method", "The method must be 'POST'."
    elif name is not None:
        code, message = "invalid_type", f"'{name}' must be a text."
    else:
        code, message = "invalid_json_line", f"The line is no JSON object: {complaint}."
    return LineProblem(code=code, message=message, param=name, line=line.number)


class RowAnswerer:
    """Answers the requests of batches."""

    def __init__(self, engine: Engine, archive: ResponseArchive) -> None:
        self._engine = engine
        self._archive = archive

    async def answer(self, line: Line, client: str) -> RowResult:
        """Answer one request, or find out why it has no answer.

        Args:
            line: Of a file that was checked.
            client: Who asks; clients take turns.

        Raises:
            EngineClosedError: the engine takes no new work; nothing is known of the request.
        """
        row = _row.decode(line.text)
        admission = Admission(client=client, is_batch=True)
        failure: Failure | None = None
        record: msgspec.Struct | None = None
        try:
            record = await self._tried(row.url, bytes(row.body), admission)
        except EngineClosedError:
            raise
        except Exception as error:  # noqa: BLE001  (it is this request's answer)
            failure = translate(error)
        body: Any = record if failure is None else failure.body
        result = BatchResult(
            id=f"batch_req_{uuid.uuid4().hex}",
            custom_id=row.custom_id,
            response=BatchResponse(
                status_code=200 if failure is None else failure.status,
                request_id=f"req_{uuid.uuid4().hex}",
                body=msgspec.Raw(_encode(body)),
            ),
        )
        return RowResult(
            line=line.number, is_failed=failure is not None, body=_encode(result), **_usage(record)
        )

    async def _tried(self, url: str, body: bytes, admission: Admission) -> msgspec.Struct:
        tries = 0
        while True:
            try:
                async with aclosing(await self._records(url, body, admission)) as records:
                    return await anext(records)
            except QueueFullError:  # others come first, however long it takes
                pass
            except (AdapterChangedError, DeadlineExceededError, GenerationFailedError):
                tries += 1
                if self._engine.health().status == "dead":
                    raise EngineClosedError("The engine broke.") from None
                if tries == _MAX_TRIES:
                    raise
            await asyncio.sleep(_BETWEEN_TRIES_SECONDS)

    async def _records(
        self, url: str, body: bytes, admission: Admission
    ) -> AsyncGenerator[msgspec.Struct, None]:
        engine = self._engine
        match url:
            case "/v1/chat/completions":
                chat = decode_chat_request(body)
                rows, use = await chat_rows(chat, engine, admission), tool_use(chat)
                answers = (
                    ChatAnswers(rows, engine) if use is None else ToolAnswers(rows, engine, use)
                )
                return answers.records(chat)
            case "/v1/completions":
                asked = decode_completion_request(body)
                rows, echoes = await completion_rows(asked, engine, admission)
                return CompletionAnswers(rows, echoes, engine).records(asked)
            case _:
                request = decode_response_request(body)
                if request.store is None:  # thousands would push conversations out
                    request = msgspec.structs.replace(request, store=False)
                return (await response_answers(request, admission, engine, self._archive)).records()


def _usage(record: Any) -> dict[str, int]:
    """The tokens of an answer, in the words of the store."""
    if record is None:
        return {}
    usage = record.usage
    if isinstance(record, Response):
        return {
            "input_tokens": usage.input_tokens,
            "cached_tokens": usage.input_tokens_details.cached_tokens,
            "output_tokens": usage.output_tokens,
        }
    return {
        "input_tokens": usage.prompt_tokens,
        "cached_tokens": usage.prompt_tokens_details.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }
