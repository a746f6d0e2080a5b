"""`/v1/files`: what jobs and batches read and what they leave, as OpenAI has it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO
from urllib.parse import quote

import msgspec
from litestar import Controller, Request, delete, post, route
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody, Schema
from litestar.openapi.spec.enums import OpenAPIFormat, OpenAPIType
from litestar.params import PathParameter, QueryParameter
from litestar.response import Stream

from verse_server.api.errors import RequestError
from verse_server.api.openapi import READ, StateDependency, error_responses
from verse_server.api.paging import AfterQuery, LimitQuery, OrderQuery, read_page
from verse_server.api.uploads import MAX_UPLOAD_BYTES, file_too_large, receive_file
from verse_server.protocol.files import UPLOAD_PURPOSES, FileDeleted, FileList, FileObject
from verse_server.state.errors import RecordNotFoundError
from verse_server.state.files import StoredFile

FileId = Annotated[str, PathParameter(schema_extra={"min_length": 1})]
_PurposeQuery = Annotated[
    str | None, QueryParameter(name="purpose", description="Only files of this purpose.")
]
_PIECE_BYTES = 1 << 18
_DEFAULT_LIMIT = MAX_LIMIT = 10_000


@dataclass
class _Upload(Operation):
    """An operation that takes a form with a file."""

    def __post_init__(self) -> None:
        """Describe what Litestar is not told of, because it would read the form itself."""
        text = Schema(type=OpenAPIType.STRING)
        form = Schema(
            type=OpenAPIType.OBJECT,
            properties={
                "file": Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY),
                "purpose": Schema(type=OpenAPIType.STRING, enum=list(UPLOAD_PURPOSES)),
                "expires_after[anchor]": text,
                "expires_after[seconds]": text,
            },
            required=["file", "purpose"],
        )
        content = {"multipart/form-data": OpenAPIMediaType(schema=form)}
        self.request_body = RequestBody(content=content, required=True)


class FilesController(Controller):
    """Files of this server."""

    path = "/files"
    tags = ("files",)

    @post(
        status_code=200,
        operation_class=_Upload,
        request_max_body_size=MAX_UPLOAD_BYTES,
        responses=error_responses(400, 401, 403, 413, 507),
    )
    async def create(self, request: Request[Any, Any, Any], store: StateDependency) -> FileObject:
        """Upload a file of at most 512 MB, for a job or a batch."""
        try:
            return wire_file(await receive_file(request, store.files))
        except RequestEntityTooLarge as error:
            raise file_too_large() from error

    @route(http_method=READ, responses=error_responses(400, 401, 403, 404))
    async def list(
        self,
        store: StateDependency,
        purpose: _PurposeQuery = None,
        after: AfterQuery = None,
        limit: LimitQuery = None,
        order: OrderQuery = None,
    ) -> FileList:
        """All files, the newest first."""
        page = read_page(after, limit, order, default_limit=_DEFAULT_LIMIT, max_limit=MAX_LIMIT)
        found = await store.files.list(
            purpose=purpose, after=page.after, limit=page.limit, order=page.order
        )
        data = [wire_file(file) for file in found.items]
        return FileList(
            data=data,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
            has_more=found.has_more,
        )

    @route("/{file_id:str}", http_method=READ, responses=error_responses(401, 403, 404))
    async def retrieve(self, store: StateDependency, file_id: FileId) -> FileObject:
        """What is known of a file."""
        return wire_file(await store.files.get(file_id))

    @route(
        "/{file_id:str}/content",
        http_method=READ,
        media_type="application/octet-stream",
        responses=error_responses(401, 403, 404),
    )
    async def content(self, store: StateDependency, file_id: FileId) -> Stream:
        """Its bytes."""
        file = await store.files.get(file_id)
        stream = await asyncio.to_thread(_opened, store.files.path(file.id), file.id)
        headers = {
            "Content-Length": str(file.bytes),
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file.filename, safe='')}",
            "X-Content-Type-Options": "nosniff",
        }
        return Stream(_read(stream), headers=headers, media_type="application/octet-stream")

    @delete("/{file_id:str}", status_code=200, responses=error_responses(401, 403, 404))
    async def delete(self, store: StateDependency, file_id: FileId) -> FileDeleted:
        """Delete a file. A job or a batch that runs has what it needs of it."""
        await store.files.delete(file_id)
        return FileDeleted(id=file_id)


def wire_file(file: StoredFile) -> FileObject:
    """As the wire has it."""
    return FileObject(
        id=file.id,
        bytes=file.bytes,
        created_at=file.created_at,
        filename=file.filename,
        purpose=file.purpose,  # pyright: ignore[reportArgumentType]  (checked where it came in)
        expires_at=msgspec.UNSET if file.expires_at is None else file.expires_at,
    )


def _opened(path: Path, id_: str) -> BinaryIO:
    """Open before the answer begins: deleted after that, the file is still read to its end."""
    try:
        return path.open("rb")
    except FileNotFoundError as error:
        raise RecordNotFoundError("file", id_, "file_id") from error
    except OSError as error:
        raise RequestError(
            "The file cannot be read from the server's disk.", status=500, code="unreadable_file"
        ) from error


async def _read(stream: BinaryIO) -> AsyncIterator[bytes]:
    try:
        while data := await asyncio.to_thread(stream.read, _PIECE_BYTES):
            yield data
    finally:
        stream.close()
