"""Files that are one JSON object: read whole, replaced at once."""

from pathlib import Path
from typing import TypeVar

import msgspec

from verse.atomic_file import replace_file
from verse_clients.errors import InputError, OutputError

T = TypeVar("T")


def read_json(path: Path, kind: type[T], says: str) -> T:
    """Read a file.

    Args:
        path: The file.
        kind: What it holds.
        says: What to say of one that holds something else, behind its name.

    Raises:
        InputError: it is missing or something else.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} {says}: {error}.") from error


def write_json(path: Path, value: msgspec.Struct) -> None:
    """Replace a file.

    Raises:
        OutputError: the disk refuses.
    """
    try:
        replace_file(path, [msgspec.json.format(msgspec.json.encode(value)), b"\n"])
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}.") from error
