"""Zip files, and what is one inside: read in memory, within bounds, and never unpacked to a disk.

A small file may hold a thousand times its size. What a file says of its size is not believed: each
member is read up to what is left of the budget, and one byte more is an error.
"""

import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath, PureWindowsPath

from verse.poem_files.encodings import ContentError

MAX_BYTES = 256 << 20
"""Of all members of an archive together, unpacked; as many as a file may have."""
MAX_MEMBERS = 5000
ZIP_MARKS = (b"PK\x03\x04", b"PK\x05\x06")
_ENCRYPTED = 0x1
_UTF8_NAME = 0x800
_DECLARATIONS = tuple("<!ENTITY".encode(name) for name in ("utf-8", "utf-16-le", "utf-16-be"))
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, ValueError)
"""What zipfile raises for damaged members, besides `RuntimeError` where a password is wanted."""


class Archive:
    """A zip file in memory whose members are read one by one.

    Args:
        content: The whole file.
        max_bytes: Of all members that are read, unpacked.

    Raises:
        ContentError: it is broken, or has too many members.
    """

    def __init__(self, content: bytes, *, max_bytes: int = MAX_BYTES) -> None:
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(content))
        except _BROKEN as error:
            raise ContentError("the file is broken or was not downloaded whole") from error
        members = [info for info in self._zip.infolist() if not info.is_dir()]
        if len(members) > MAX_MEMBERS:
            raise ContentError(
                f"it holds {len(members)} files; more than {MAX_MEMBERS} are not read"
            )
        self._members = {_name(info): info for info in members}
        self._left = max_bytes
        self._max_bytes = max_bytes

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def size(self, name: str) -> int:
        """What the archive says of a member's size: to be told, not to be relied on."""
        return self._members[name].file_size

    def read(self, name: str, *, max_bytes: int | None = None) -> bytes:
        """One member, unpacked.

        Raises:
            ContentError: there is none of that name, or it is broken, locked or too large.
        """
        info = self._members.get(name)
        if info is None:
            raise ContentError(f"the file is broken: {name} is missing in it")
        if info.flag_bits & _ENCRYPTED:
            raise ContentError("it is protected by a password; save it without one")
        limit = self._left if max_bytes is None else min(max_bytes, self._left)
        try:
            with self._zip.open(info) as stream:
                content = stream.read(limit + 1)
        except (*_BROKEN, RuntimeError) as error:
            raise ContentError(f"the file is broken: {name} cannot be unpacked") from error
        if len(content) > limit:
            raise ContentError(f"unpacked it is larger than {limit >> 20} MB, more than is read")
        self._left -= len(content)
        return content

    def check(self, *, max_bytes_each: int) -> None:
        """Unpack every member once, as a library is about to, and throw it away.

        Args:
            max_bytes_each: Of a member that is XML, which takes many times its size in memory.

        Raises:
            ContentError: a member is broken, locked or too large, or declares entities.
        """
        for name in self:
            is_xml = name.lower().endswith((".xml", ".rels"))
            content = self.read(name, max_bytes=max_bytes_each if is_xml else None)
            if is_xml:
                refuse_entities(content)
        self._left = self._max_bytes


def refuse_entities(xml: bytes) -> None:
    """Refuse XML that declares entities of its own: they can name files, and grow a thousandfold.

    Raises:
        ContentError: it does.
    """
    if any(declaration in xml for declaration in _DECLARATIONS):
        raise ContentError("it declares entities, which no document needs, and is not read")


def leads_out(name: str) -> bool:
    """Whether a member's name would leave the folder it was unpacked in."""
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    is_absolute = posix.is_absolute() or bool(windows.drive or windows.root)
    return is_absolute or ".." in posix.parts or ".." in windows.parts


def _name(info: zipfile.ZipInfo) -> str:
    """The member's name; where nothing says that it is UTF-8, Chinese Windows had it in GBK."""
    if info.flag_bits & _UTF8_NAME:
        return info.filename
    raw = info.filename.encode("cp437", "replace")
    for encoding in ("utf-8", "gb18030"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    return info.filename
