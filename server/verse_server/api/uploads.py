"""A `multipart/form-data` body on its way to the disk: parsed as it comes, never held in memory.

Litestar's own reading of forms keeps a file in memory up to a size and in a temporary file that
it copies after that; here the only copy is the one that is kept. Parsing, hashing and writing
happen a piece at a time in a thread, so that an upload as fast as the network holds up no stream.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
from litestar import Request
from multipart import MultipartError, MultipartSegment, PushMultipartParser

from verse_server.api.errors import RequestError
from verse_server.protocol.files import UPLOAD_PURPOSES
from verse_server.state.files import FileStore, FileWriter, StoredFile

UPLOAD_PATH = "/v1/files"
MAX_FILE_BYTES = 512 << 20
"""OpenAI's limit too."""
MAX_UPLOAD_BYTES = MAX_FILE_BYTES + (64 << 10)
"""With the frame around the file."""
_PIECE_BYTES = 1 << 20
_MAX_FIELD_BYTES = 1 << 10
_MAX_SEGMENTS = 8
_MAX_NAME_BYTES = 255
_EXPIRES_AFTER = "expires_after"
_FIELDS = ("purpose", f"{_EXPIRES_AFTER}[anchor]", f"{_EXPIRES_AFTER}[seconds]")
_EXPIRY_SECONDS = (3600, 30 * 86400)


class ReceivedForm(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of an upload beside its bytes."""

    filename: str
    purpose: str
    expires_after_seconds: int | None


async def receive_file(request: Request[Any, Any, Any], files: FileStore) -> StoredFile:
    """Read an upload and keep it.

    Raises:
        RequestError: 400 or 413, it is no upload, or one that cannot be taken.
        StorageFullError: the disk is full. In every case nothing is left of it.
    """
    form = _FormSink(_boundary(request), files)
    try:
        async for piece in _pieces(request.stream()):
            await asyncio.to_thread(form.feed, piece)
        received = form.finish()
        return await asyncio.to_thread(_keep, form.writer, received, files)
    except BaseException:
        form.discard()
        raise


def _keep(writer: FileWriter | None, received: ReceivedForm, files: FileStore) -> StoredFile:
    assert writer is not None
    seconds = received.expires_after_seconds
    return files.add(
        writer,
        filename=received.filename,
        purpose=received.purpose,
        expires_at=None if seconds is None else files.now() + seconds,
    )


def _boundary(request: Request[Any, Any, Any]) -> str:
    kind, options = request.content_type
    if kind != "multipart/form-data" or not options.get("boundary"):
        raise RequestError(
            "A file is uploaded as 'multipart/form-data' with the fields 'file' and 'purpose'.",
            code="unsupported_content_type",
        )
    return options["boundary"]


async def _pieces(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in larger pieces, so that a thread has something to do."""
    held = bytearray()
    async for data in stream:
        held += data
        if len(held) >= _PIECE_BYTES:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


class _FormSink:
    """Takes the bytes of a form one after another; what is wrong is said as soon as it is seen."""

    def __init__(self, boundary: str, files: FileStore) -> None:
        try:
            self._parser = PushMultipartParser(
                boundary, max_segment_count=_MAX_SEGMENTS, strict=True
            )
        except MultipartError as error:
            raise _no_form(error) from error
        self._files = files
        self._segment: MultipartSegment | None = None
        self._fields: dict[str, bytearray] = {}
        self._filename = ""
        self.writer: FileWriter | None = None

    def feed(self, data: bytes) -> None:
        """Parse and write; blocks."""
        try:
            for event in self._parser.parse(data):
                if isinstance(event, MultipartSegment):
                    self._begin(event)
                elif event is not None:
                    self._take(bytes(event))
        except MultipartError as error:
            raise _no_form(error) from error

    def finish(self) -> ReceivedForm:
        """Check that all is there."""
        try:
            self._parser.close()
        except MultipartError as error:
            raise _no_form(error) from error
        if self.writer is None:
            raise RequestError("The file is missing; send it as 'file'.", param="file")
        if self.writer.num_bytes == 0:
            raise RequestError("The file is empty.", param="file", code="empty_file")
        fields = {name: self._text(name) for name in self._fields}
        if "purpose" not in fields:
            raise RequestError(
                f"'purpose' is missing; send {_choices(UPLOAD_PURPOSES)}.", param="purpose"
            )
        _check_purpose(fields["purpose"])
        return ReceivedForm(
            filename=self._filename,
            purpose=fields["purpose"],
            expires_after_seconds=_expiry(fields),
        )

    def discard(self) -> None:
        """Leave nothing behind."""
        if self.writer is not None:
            self.writer.discard()

    def _begin(self, segment: MultipartSegment) -> None:
        name = segment.name or ""
        self._segment = segment
        if name == "file":
            if self.writer is not None:
                raise RequestError("Only one 'file' can be uploaded at a time.", param="file")
            self._filename = _checked_name(segment)
            if "purpose" in self._fields:
                _check_purpose(self._text("purpose"))  # before half a gigabyte comes
            self.writer = self._files.writer()
        elif name not in _FIELDS:
            raise RequestError(f"Unknown parameter: {name[:100]!r}.", param=name[:100])
        elif name in self._fields:
            raise RequestError(f"{name!r} is given twice.", param=name)
        else:
            self._fields[name] = bytearray()

    def _take(self, data: bytes) -> None:
        assert self._segment is not None
        name = self._segment.name or ""
        if name == "file":
            assert self.writer is not None
            if self.writer.num_bytes + len(data) > MAX_FILE_BYTES:
                raise file_too_large()
            self.writer.write(data)
            return
        self._fields[name] += data
        if len(self._fields[name]) > _MAX_FIELD_BYTES:
            raise RequestError(f"{name!r} is too long.", param=name)

    def _text(self, name: str) -> str:
        return self._fields[name].decode("utf-8", "replace")


def file_too_large() -> RequestError:
    """For a file, or a body that can only hold one."""
    return RequestError(
        f"The file is too large; {MAX_FILE_BYTES >> 20} MB is the most.",
        status=413,
        code="file_too_large",
        param="file",
    )


def _no_form(error: MultipartError) -> RequestError:
    reason = str(error.args[0]) if error.args else "it cannot be read"
    return RequestError(
        f"The body is no whole multipart/form-data ({reason.lower()}).", code="invalid_form"
    )


def _check_purpose(purpose: str) -> None:
    if purpose not in UPLOAD_PURPOSES:
        raise RequestError(
            f"'purpose' must be {_choices(UPLOAD_PURPOSES)}, not {purpose[:100]!r}.",
            param="purpose",
        )


def _checked_name(segment: MultipartSegment) -> str:
    """A name is shown and never opened, but one that looks like a path is somebody's mistake."""
    name = segment.filename
    if not name or name in (".", ".."):
        raise RequestError("The file has no name; send one, such as 'poems.jsonl'.", param="file")
    # Of `C:\\poems.jsonl` the parser only shows the end, as an old browser would mean it.
    sent = dict(segment.headerlist).get("Content-Disposition", "").replace('\\"', "")
    if "\\" in sent or any(char in "/\\" or not char.isprintable() for char in name):
        raise RequestError(
            "The file's name must be a plain name such as 'poems.jsonl', not a path.",
            param="file",
            code="invalid_filename",
        )
    if len(name.encode()) > _MAX_NAME_BYTES:
        raise RequestError(f"The file's name is longer than {_MAX_NAME_BYTES} bytes.", param="file")
    return name


def _expiry(fields: dict[str, str]) -> int | None:
    anchor, seconds = (fields.get(f"{_EXPIRES_AFTER}[{key}]") for key in ("anchor", "seconds"))
    if anchor is None and seconds is None:
        return None
    least, most = _EXPIRY_SECONDS
    is_number = seconds is not None and seconds.isascii() and seconds.isdigit()
    if anchor != "created_at" or not is_number or not least <= int(seconds or 0) <= most:
        raise RequestError(
            f"'{_EXPIRES_AFTER}' needs the anchor 'created_at' and a number of seconds "
            f"from {least} to {most}.",
            param=_EXPIRES_AFTER,
        )
    return int(seconds or 0)


def _choices(values: Sequence[str]) -> str:
    return " or ".join(map(repr, values))
