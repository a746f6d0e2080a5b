"""JSON Lines files of typed records: read, append, rewrite.

One process writes a file at a time. A record that `append` has written is on the disk when it
returns. What a kill can leave behind is a last line without an end: reading stops there with
`TornLineError` until `set_torn_line_aside` has moved it to a file of its own.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import TypeVar

import msgspec

from verse import UserError
from verse.atomic_file import replace_file, sync_folder

T = TypeVar("T")

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_TAIL_BYTES = 1 << 16


class JsonlError(UserError):
    """A line is not the record it should be; the text has file, line and what is wrong."""

    def __init__(self, path: Path, number: int, problem: str) -> None:
        self.path = path
        self.number = number
        """Counted from 1."""
        self.problem = problem
        super().__init__(f"{path}:{number}: {problem}")


class TornLineError(JsonlError):
    """The last line was cut off while it was being written."""


def scan(path: Path, decoder: msgspec.json.Decoder[T]) -> Iterator[tuple[int, T | JsonlError]]:
    """Yield each line's number, counted from 1, with its record or what is wrong with it.

    Blank lines are passed over; a line without an end is taken if it is complete.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            content = line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
            if content.strip():
                yield number, _decode(path, number, content, decoder)


def read(path: Path, decoder: msgspec.json.Decoder[T]) -> list[T]:
    """Read all records.

    Raises:
        JsonlError: the first line that is no such record; TornLineError if it was cut off.
        OSError: the file cannot be read.
    """
    records: list[T] = []
    for _, record in scan(path, decoder):
        if isinstance(record, JsonlError):
            raise record
        records.append(record)
    return records


def append(path: Path, *records: msgspec.Struct) -> None:
    """Add records to the end and wait until they are on the disk; creates the file if needed.

    Raises:
        TornLineError: the file ends in a line that was cut off; nothing was written.
        OSError: the file cannot be written.
    """
    is_new = not path.exists()
    with path.open("ab+", buffering=0) as stream:
        append_to(stream, path, *records)
    if is_new:
        sync_folder(path.resolve().parent)


def append_to(stream: FileIO, path: Path, *records: msgspec.Struct) -> None:
    """Add records to the end of an open file and wait until they are on the disk.

    If the disk refuses, the file is left without the records, so the call can be repeated. A disk
    that does not even take them back leaves a line that is cut off; what it refused first is told.

    Args:
        stream: Opened with mode `ab+` and no buffer.
        path: What messages call it.
        records: One line each.

    Raises:
        TornLineError: the file ends in a line that was cut off; nothing was written.
        OSError: the file cannot be written.
    """
    lines = _line_end_owed(stream, path) + b"".join(_line(record) for record in records)
    end = stream.seek(0, os.SEEK_END)
    try:
        _write_all(stream.fileno(), lines)
        os.fsync(stream.fileno())
    except BaseException:
        with suppress(OSError):
            os.ftruncate(stream.fileno(), end)
        raise


def rewrite(path: Path, records: Iterable[msgspec.Struct]) -> None:
    """Replace the whole file at once; after a failure the old one stands unchanged.

    Raises:
        OSError: the folder is missing or read-only, or the disk is full.
    """
    replace_file(path, (_line(record) for record in records))


def set_torn_line_aside(path: Path) -> Path | None:
    """Move a last line that was cut off to `NAME.torn`, behind what is there already.

    Returns:
        The file it was moved to; None if the last line is whole.

    Raises:
        OSError: one of the files cannot be written.
    """
    with path.open("rb", buffering=0) as stream:
        torn = _unended_line(stream)
    if _is_whole(torn):
        return None
    aside = path.with_name(path.name + ".torn")
    # Copied before it is cut off: killed in between, the line is there twice, never lost.
    with aside.open("ab") as stream:
        stream.write(torn + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    sync_folder(aside.resolve().parent)
    with path.open("rb+") as stream:
        stream.truncate(path.stat().st_size - len(torn))
        os.fsync(stream.fileno())
    return aside


def _decode(
    path: Path, number: int, line: bytes, decoder: msgspec.json.Decoder[T]
) -> T | JsonlError:
    try:
        return decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if line.endswith(b"\n") or _is_whole(line):
            return JsonlError(path, number, f"{error}.")
        return TornLineError(path, number, "the last line was cut off while it was written.")


def _line(record: msgspec.Struct) -> bytes:
    return msgspec.json.encode(record) + b"\n"


def _write_all(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]


def _line_end_owed(stream: FileIO, path: Path) -> bytes:
    """A line end if the file's last line lacks one, as files written by hand often do."""
    last = _unended_line(stream)
    if not _is_whole(last):
        stream.seek(0)
        number = stream.readall().count(b"\n") + 1
        raise TornLineError(path, number, "the last line was cut off; set it aside first.")
    return b"\n" if last else b""


def _unended_line(stream: FileIO) -> bytes:
    """The bytes behind the last line end."""
    size = stream.seek(0, os.SEEK_END)
    tail = b""
    while size > 0 and b"\n" not in tail:
        step = min(size, _TAIL_BYTES if tail else 1)
        size -= step
        stream.seek(size)
        tail = stream.read(step) + tail
    return tail[tail.rfind(b"\n") + 1 :]


def _is_whole(line: bytes) -> bool:
    """Whether a line without an end only lacks it: cut off anywhere else, an object is no JSON."""
    content = line.removeprefix(_BYTE_ORDER_MARK).strip()
    try:
        return not content or msgspec.json.decode(content) is not None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
