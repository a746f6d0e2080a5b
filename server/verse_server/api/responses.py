"""`/v1/responses`: an answer in OpenAI's newer form, and those that were stored."""

from functools import partial
from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, delete, post, route
from litestar import Response as HTTPResponse
from litestar.di import NamedDependency
from litestar.params import JSONBody, PathParameter, QueryParameter, SkipValidation

from verse_server.api.admission import Admission, read_admission
from verse_server.api.answering import ChatAnswers
from verse_server.api.convert import chat_rows
from verse_server.api.decoding import StrictResponseBody
from verse_server.api.errors import RequestError
from verse_server.api.openapi import (
    READ,
    EngineDependency,
    ResponseOperation,
    error_responses,
)
from verse_server.api.paging import AfterQuery, LimitQuery, OrderQuery, PageQuery, read_page
from verse_server.api.response_answers import ResponseAnswers
from verse_server.api.response_input import (
    chat_request,
    own_items,
    renamed,
    resources,
    type_of,
)
from verse_server.api.streaming import Reply, until_disconnect
from verse_server.api.tool_answers import ToolAnswers
from verse_server.api.tools import tool_use
from verse_server.engine.errors import InvalidRequestError
from verse_server.engine.interface import Engine
from verse_server.protocol.responses import (
    CreateResponse,
    Response,
    ResponseDeleted,
    ResponseItem,
    ResponseItemList,
)
from verse_server.state.errors import RecordNotFoundError
from verse_server.state.responses import ResponseStore, StoredResponse

_NOTHING = "This server stores no responses (--no-store)"
_encode = msgspec.json.Encoder().encode
_item = msgspec.json.Decoder(ResponseItem)
_items = msgspec.json.Decoder(tuple[ResponseItem, ...])
_response = msgspec.json.Decoder(Response)


class ResponseContext(msgspec.Struct, frozen=True):
    """What a response answers to, oldest first."""

    history: tuple[ResponseItem, ...]
    """Stored before: an earlier response and all that it answers to."""
    own: tuple[ResponseItem, ...]
    """What the request has brought."""

    @property
    def items(self) -> tuple[ResponseItem, ...]:
        """All of it."""
        return self.history + self.own


class ResponseArchive:
    """What conversations go on from."""

    def __init__(self, store: ResponseStore | None) -> None:
        self._store = store

    @property
    def is_open(self) -> bool:
        """Whether anything is stored at all."""
        return self._store is not None

    def close(self) -> None:
        """Close the file, if it was opened."""
        if self._store is not None:
            self._store.close()

    async def save(self, conversation: ResponseContext, response: Response) -> None:
        """Store a response and what it answers to.

        Raises:
            StorageFullError: the disk does not take it.
        """
        if self._store is None:
            return
        known = {item.id: _encode(item) for item in (*conversation.own, *response.output)}
        stored = StoredResponse(
            id=response.id,
            body=_encode(response),
            input=_encode(conversation.items),
            items=tuple(known.items()),
        )
        await self._store.save(stored)

    async def get(self, id_: str) -> Response:
        """A response.

        Raises:
            RequestError: 404, there is none.
        """
        return _response.decode((await self._stored(id_)).body)

    async def input_items(self, id_: str) -> tuple[ResponseItem, ...]:
        """All that a response answers to, oldest first; raises as `get`."""
        return _items.decode((await self._stored(id_)).input)

    async def history(self, previous_id: str) -> tuple[ResponseItem, ...]:
        """What a response answers to, and its answer.

        Raises:
            RequestError: 400, there is no such response.
        """
        try:
            stored = await self._found(previous_id).get(previous_id)
        except (RecordNotFoundError, RequestError) as error:
            reason = f"{error} " if isinstance(error, RequestError) else ""
            raise RequestError(
                f"Previous response with id {previous_id[:100]!r} not found. {reason}".strip(),
                param="previous_response_id",
                code="previous_response_not_found",
            ) from None
        return (*_items.decode(stored.input), *_response.decode(stored.body).output)

    async def item(self, id_: str, param: str) -> ResponseItem:
        """An item of some stored response.

        Raises:
            RequestError: 404, there is none.
        """
        try:
            return _item.decode(await self._found(id_).item(id_))
        except RecordNotFoundError:
            raise RequestError(
                f"Item with id {id_[:100]!r} not found; send the item itself.",
                param=param,
                code="item_not_found",
                status=404,
            ) from None

    async def delete(self, id_: str) -> None:
        """Forget a response; raises as `get`."""
        try:
            await self._found(id_).delete(id_)
        except RecordNotFoundError:
            raise _not_found(id_) from None

    async def _stored(self, id_: str) -> StoredResponse:
        try:
            return await self._found(id_).get(id_)
        except RecordNotFoundError:
            raise _not_found(id_) from None

    def _found(self, id_: str) -> ResponseStore:
        if self._store is None:
            raise _not_found(id_, f" {_NOTHING}.")
        return self._store


def _not_found(id_: str, reason: str = "") -> RequestError:
    return RequestError(
        f"Response with id {id_[:100]!r} not found.{reason}",
        param="response_id",
        code="response_not_found",
        status=404,
    )


ArchiveDependency = NamedDependency[SkipValidation[ResponseArchive]]
ResponseId = Annotated[str, PathParameter(schema_extra={"min_length": 1})]
IncludeQuery = Annotated[
    list[str] | None,
    QueryParameter(name="include", description="Changes nothing: what there is comes along."),
]
StreamQuery = Annotated[
    str | None,
    QueryParameter(name="stream", description="Only its default is accepted, `false`."),
]
_DEFAULT_LIMIT, _MAX_LIMIT = 20, 100
_OF_STORED = (400, 401, 404)


class ResponsesController(Controller):
    """Poems, as clients of OpenAI's Responses API ask for them."""

    path = "/responses"
    tags = ("responses",)

    @post(
        status_code=200,
        dto=StrictResponseBody,
        return_dto=None,
        operation_class=ResponseOperation,
        responses=error_responses(400, 401, 404, 409, 413, 429, 503, 504),
    )
    async def create(
        self,
        request: Request[Any, Any, Any],
        data: JSONBody[CreateResponse],
        engine: EngineDependency,
        archive: ArchiveDependency,
    ) -> HTTPResponse[Response]:
        """Answer a text or a conversation; with `stream`, as events."""
        async with until_disconnect(request.receive):
            answers = await response_answers(data, read_admission(request), engine, archive)
        return Reply(answers.records(), is_stream=data.stream, last=b"")

    @route("/{response_id:str}", http_method=READ, responses=error_responses(*_OF_STORED))
    async def retrieve(
        self,
        archive: ArchiveDependency,
        response_id: ResponseId,
        include: IncludeQuery = None,  # noqa: ARG002  (all that there is is stored)
        stream: StreamQuery = None,
    ) -> Response:
        """A stored response."""
        if stream not in (None, "false"):
            raise RequestError(
                "Unsupported parameter: a stored response is not sent as events; leave 'stream' "
                "out.",
                param="stream",
                code="unsupported_parameter",
            )
        return await archive.get(response_id)

    @delete("/{response_id:str}", status_code=200, responses=error_responses(401, 404))
    async def delete(self, archive: ArchiveDependency, response_id: ResponseId) -> ResponseDeleted:
        """Forget a response. Those that went on from it are kept whole."""
        await archive.delete(response_id)
        return ResponseDeleted(id=response_id)

    @route(
        "/{response_id:str}/input_items", http_method=READ, responses=error_responses(*_OF_STORED)
    )
    async def input_items(
        self,
        archive: ArchiveDependency,
        response_id: ResponseId,
        after: AfterQuery = None,
        limit: LimitQuery = None,
        order: OrderQuery = None,
        include: IncludeQuery = None,  # noqa: ARG002  (as above)
    ) -> ResponseItemList:
        """All that a stored response answers to, the newest first."""
        page = read_page(after, limit, order, default_limit=_DEFAULT_LIMIT, max_limit=_MAX_LIMIT)
        return _page_of(await archive.input_items(response_id), page)


async def response_answers(
    data: CreateResponse,
    admission: Admission,
    engine: Engine,
    archive: ResponseArchive,
) -> ResponseAnswers:
    """What answers a request.

    Raises:
        RequestError, EngineError: as `chat_rows`, in the words of a `CreateResponse`.
    """
    if data.store and not archive.is_open:
        raise RequestError(
            "Unsupported parameter: 'store' is not supported here (the server was started with "
            "--no-store); leave it out.",
            param="store",
            code="unsupported_parameter",
        )
    conversation = await _conversation(data, archive)
    chat = chat_request(data, conversation.items)
    try:
        use = tool_use(chat)
        rows = await chat_rows(chat, engine, admission)
    except (RequestError, InvalidRequestError) as error:
        raise renamed(error) from None
    answers = ChatAnswers(rows, engine) if use is None else ToolAnswers(rows, engine, use)
    keeps = archive.is_open and data.store is not False
    save = partial(archive.save, conversation) if keeps else None
    return ResponseAnswers(data, chat, rows[0], answers, save)


async def _conversation(data: CreateResponse, archive: ResponseArchive) -> ResponseContext:
    own: list[ResponseItem] = []
    for number, item in enumerate(own_items(data)):
        if type_of(item) == "item_reference":
            own.append(await archive.item(item.id or "", f"input[{number}].id"))
        else:
            own += resources([item])
    previous = data.previous_response_id
    history = () if previous is None else await archive.history(previous)
    return ResponseContext(history, tuple(own))


def _page_of(items: tuple[ResponseItem, ...], page: PageQuery) -> ResponseItemList:
    """A page of items.

    Raises:
        RequestError: 400, `after` is none of them.
    """
    ordered = items if page.order == "asc" else items[::-1]
    if page.after is not None:
        ids = [item.id for item in ordered]
        if page.after not in ids:
            raise RequestError(f"There is no item {page.after[:100]!r} here.", param="after")
        ordered = ordered[ids.index(page.after) + 1 :]
    data = ordered[: page.limit]
    return ResponseItemList(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=len(ordered) > len(data),
    )
