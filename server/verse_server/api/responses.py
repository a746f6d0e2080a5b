"""`/v1/responses`: an answer in OpenAI's newer form, and those that were stored."""

from typing import Annotated, Any

from litestar import Controller, Request, delete, post, route
from litestar import Response as HTTPResponse
from litestar.di import NamedDependency
from litestar.params import JSONBody, PathParameter, QueryParameter, SkipValidation

from verse_server.api.admission import read_admission
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
from verse_server.api.response_store import ResponseArchive, ResponseContext
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
            answers = await response_answers(data, request, engine, archive)
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
    request: Request[Any, Any, Any],
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
        rows = await chat_rows(chat, engine, read_admission(request))
    except (RequestError, InvalidRequestError) as error:
        raise renamed(error) from None
    answers = ChatAnswers(rows, engine) if use is None else ToolAnswers(rows, engine, use)
    return ResponseAnswers(data, conversation, chat, rows[0], answers, archive)


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
