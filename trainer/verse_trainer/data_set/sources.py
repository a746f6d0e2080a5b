"""Files and folders as sources of poems: what kind each is, is told by its content."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from verse_trainer.data_set.found import Found, Refused
from verse_trainer.data_set.json_files import read_json
from verse_trainer.data_set.text_files import read_text
from verse_trainer.errors import DataSetError

_SUFFIXES = (".txt", ".md", ".markdown", ".json", ".jsonl")
"""Of the files that are read when a folder is named; a file named by itself may be called anything.
"""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def files_of(paths: Iterable[Path]) -> list[Path]:
    """The files, and those inside the folders by name; hidden ones are passed over.

    Raises:
        DataSetError: a path does not exist, or a folder holds nothing to read.
    """
    files: dict[Path, None] = {}
    for path in paths:
        files.update(dict.fromkeys(_inside(path) if path.is_dir() else [path]))
    return list(files)


def read_source(path: Path) -> list[Found]:
    """All that one file holds.

    Raises:
        DataSetError: the file cannot be read.
    """
    try:
        content = path.read_bytes().removeprefix(_BYTE_ORDER_MARK)
    except OSError as error:
        raise DataSetError(f"{path} cannot be read: {error.strerror}.") from error
    if not content.strip():
        return [Refused(path=path, line=1, problem="the file is empty", fault="empty")]
    found = read_json(content, path)
    return list(_read_text(content, path)) if found is None else found


def _inside(folder: Path) -> Iterator[Path]:
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in _SUFFIXES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]
    if not files:
        raise DataSetError(f"{folder} holds no {', '.join(_SUFFIXES)} file to read poems from.")
    yield from files


def _read_text(content: bytes, path: Path) -> Iterable[Found]:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return [Refused(path=path, line=line, problem="this is not UTF-8; save the file as UTF-8")]
    if "\0" in text:
        return [Refused(path=path, line=1, problem="this is no file of text")]
    return read_text(text.replace("\r\n", "\n").replace("\r", "\n"), path)
