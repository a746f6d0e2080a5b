"""Stored responses as the wire has them, or none where nothing is stored."""

import msgspec

from verse_server.api.errors import RequestError
from verse_server.protocol.responses import Response, ResponseItem
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

    async def save(self, response: Response, conversation: ResponseContext) -> None:
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
