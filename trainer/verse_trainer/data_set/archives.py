"""Zip files, and the e-books that are zip files of web pages; read in memory, never unpacked.

A small file may hold a thousand times its size. What a file says of its size is not believed: each
member is read up to what is left of the budget, and one byte more is an error.

An EPUB has a list that says in which order its pages are read. It is read with zipfile and lxml
alone; the known library for it is under the AGPL, and Verse is not. A chapter is a page break to
what reads the text after it; where it has no heading of its own, its name in the table of contents
is one.
"""

import io
import lzma
import posixpath
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urldefrag

from verse.poem_files.reading import MAX_BYTES, ContentError
from verse_trainer.data_set.web_pages import RULE, html_text

if TYPE_CHECKING:
    from lxml.etree import _Element  # pyright: ignore[reportPrivateUsage]

MAX_MEMBERS = 5000
ZIP_MARKS = (b"PK\x03\x04", b"PK\x05\x06")
_ENCRYPTED = 0x1
_UTF8_NAME = 0x800
_DECLARATIONS = tuple("<!ENTITY".encode(name) for name in ("utf-8", "utf-16-le", "utf-16-be"))
_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, IndexError, NotImplementedError, OSError, OverflowError, ValueError),
)
"""What zipfile raises for damaged files; `NotImplementedError` is for unknown ways of compression,
and a `RuntimeError` comes where a password is wanted."""
_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
_MAX_XML_BYTES = 32 << 20
_PAGE_TYPES = ("application/xhtml+xml", "text/html")
_NO_POEMS = "cover titlepage title-page copyright toc nav contents colophon imprint halftitle"
_NO_POEMS_ZH = "封面 扉页 版权 版权页 版权信息 目录 书名页 封底"
_NO_CHAPTERS = frozenset((_NO_POEMS + " " + _NO_POEMS_ZH).split())
"""What a page is called, by its file or in the contents, when no poem stands on it."""


class ByteBudget:
    """Bytes that may still be unpacked, by an archive and by those inside of it together."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self.left = max_bytes


class Archive:
    """A zip file in memory whose members are read one by one.

    Args:
        content: The whole file.
        budget: Of all that is unpacked; one of its own if it is None.

    Raises:
        ContentError: it is broken, or has too many members.
    """

    def __init__(self, content: bytes, budget: ByteBudget | None = None) -> None:
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(content))
            members = [info for info in self._zip.infolist() if not info.is_dir()]
        except _BROKEN as error:
            raise ContentError("the file is broken or was not downloaded whole") from error
        if len(members) > MAX_MEMBERS:
            raise ContentError(
                f"it holds {len(members)} files; more than {MAX_MEMBERS} are not read"
            )
        self._members = {_name(info): info for info in members}
        self._budget = budget or ByteBudget()

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def read(self, name: str, *, max_bytes: int | None = None) -> bytes:
        """One member, unpacked.

        Raises:
            ContentError: there is none of that name, or it is broken, locked or too large.
        """
        info = self._members.get(name)
        if info is None:
            raise ContentError(f"the file is broken: {name} is missing in it")
        if info.flag_bits & _ENCRYPTED:
            raise ContentError("it is protected by a password; make one without")
        limit = min(max_bytes or self._budget.max_bytes, self._budget.left)
        try:
            with self._zip.open(info) as stream:
                content = stream.read(limit + 1)
        except (*_BROKEN, RuntimeError) as error:
            raise ContentError(f"the file is broken: {name} cannot be unpacked") from error
        if len(content) > limit:
            raise ContentError(f"unpacked it is larger than {limit >> 20} MB, more than is read")
        self._budget.left -= len(content)
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


def is_epub(archive: Archive) -> bool:
    """Whether this zip file is an e-book."""
    return _CONTAINER in archive


def epub_text(archive: Archive) -> str:
    """All chapters in their order, with a rule between two.

    Raises:
        ContentError: it is broken, too large, or locked by a shop.
    """
    package_name = _package_name(archive)
    package, folder = _xml(archive, package_name), posixpath.dirname(package_name)
    files = {item.get("id", ""): item for item in package.iterfind(".//{*}manifest/{*}item")}
    names = _names(archive, files.values(), folder)
    locked = _locked(archive)
    chapters: list[str] = []
    for reference in package.iterfind(".//{*}spine/{*}itemref"):
        item = files.get(reference.get("idref", ""))
        if item is None or item.get("media-type") not in _PAGE_TYPES:
            continue
        name = _path(folder, item.get("href", ""))
        if name in locked:
            raise ContentError("it is locked by the shop that sold it, so Verse cannot read it")
        if "nav" not in item.get("properties", "").split():
            chapters += _chapter(archive, name, names.get(name, ""))
    if not chapters:
        raise ContentError("the book is broken: it has no chapters")
    return f"\n{RULE}\n".join(chapters)


def _chapter(archive: Archive, name: str, title: str) -> Iterator[str]:
    stem = posixpath.splitext(posixpath.basename(name))[0].lower()
    if stem in _NO_CHAPTERS or title.strip().lower() in _NO_CHAPTERS:
        return
    page = archive.read(name, max_bytes=_MAX_XML_BYTES)
    refuse_entities(page)
    try:
        text = html_text(page)
    except ContentError as error:
        raise ContentError(f"{name} in it cannot be read: {error}") from error
    if not text.strip():
        return
    has_heading = text.lstrip().startswith("#")
    yield text if has_heading or not title else f"# {title}\n{text}"


def _package_name(archive: Archive) -> str:
    root = _xml(archive, _CONTAINER).find(".//{*}rootfile")
    name = "" if root is None else root.get("full-path", "")
    if name not in archive:
        raise ContentError("the book is broken: it does not say what is in it")
    return name


def _names(archive: Archive, items: "Iterable[_Element]", folder: str) -> Mapping[str, str]:
    """What the table of contents calls each page, by the page's file."""
    names: dict[str, str] = {}
    for item in items:
        is_nav = "nav" in item.get("properties", "").split()
        if not is_nav and item.get("media-type") != "application/x-dtbncx+xml":
            continue
        file = _path(folder, item.get("href", ""))
        if file not in archive:
            continue
        for link, title in _links(_xml(archive, file)):
            names.setdefault(_path(posixpath.dirname(file), link), title)
    return names


def _links(contents: "_Element") -> Iterator[tuple[str, str]]:
    for point in contents.iterfind(".//{*}navPoint"):
        target, label = point.find("{*}content"), point.find("{*}navLabel/{*}text")
        if target is not None and label is not None:
            yield target.get("src", ""), " ".join((label.text or "").split())
    for link in contents.iterfind(".//{*}nav//{*}a"):
        yield link.get("href", ""), " ".join(str(link.xpath("string()")).split())


def _locked(archive: Archive) -> frozenset[str]:
    """Files that only the shop's own program can open; fonts in disguise are none of ours."""
    if _ENCRYPTION not in archive:
        return frozenset()
    references = _xml(archive, _ENCRYPTION).iterfind(".//{*}CipherReference")
    return frozenset(unquote(reference.get("URI", "")) for reference in references)


def _path(folder: str, link: str) -> str:
    """A link of the book as the name of a file in it."""
    return posixpath.normpath(posixpath.join(folder, unquote(urldefrag(link).url)))


def _xml(archive: Archive, name: str) -> "_Element":
    content = archive.read(name, max_bytes=_MAX_XML_BYTES)
    refuse_entities(content)
    from lxml import etree

    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, recover=True)
    try:
        root = etree.fromstring(content, parser)
    except etree.XMLSyntaxError:
        root = None
    if root is None:
        raise ContentError(f"the book is broken: {name} cannot be read")
    return root
