"""`verse data import`: poems from what poets have, into one file of Verse's own records.

What kind a source is, is told by its content. No file that is there is lost: what is replaced is
set aside, and a full disk leaves everything as it was.
"""

from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import msgspec

from verse import jsonl, verdicts
from verse.poem_files import (
    SUFFIXES,
    Found,
    LeftOut,
    Refused,
    Taken,
    counted,
    doubts,
    read_file,
)
from verse.records import Poem
from verse_trainer.errors import DataSetError

POEMS_FILE = "poems.jsonl"

_POEM = msgspec.json.Decoder(Poem)


class ImportReport(msgspec.Struct, frozen=True, kw_only=True):
    """What an import did."""

    output: Path
    sentences: tuple[str, ...]
    """One for each file."""
    refused: tuple[Refused, ...]
    doubts: tuple[str, ...]
    """A sentence for each key of a file that sounds like a verdict and was not obeyed."""
    num_read: int
    num_new: int
    num_before: int
    """Poems that were in the file."""
    kept_aside: Path | None = None
    """Where the file that was replaced is now."""

    @property
    def num_after(self) -> int:
        """Poems that are in the file now."""
        return self.num_before + self.num_new


def import_poems(sources: Sequence[Path], output: Path, *, replace: bool = False) -> ImportReport:
    """Read all sources and add the poems that are not in the file yet.

    Where nothing could be read as a poem, nothing is written.

    Args:
        sources: Files and folders.
        output: A file of poems; made if it is not there.
        replace: Set an existing file aside and begin a new one.

    Raises:
        PoemFileError: a source cannot be read.
        DataSetError: a path does not exist, or the output cannot be written.
        JsonlError: the output exists and holds something else.
    """
    found = {file: read_file(file) for file in files_of(sources)}
    pieces = [piece for in_file in found.values() for piece in in_file]
    poems = [piece.poem for piece in pieces if isinstance(piece, Taken)]
    with writing(output):
        kept_aside = set_aside(output) if poems and replace else None
    before = read_poems(output) if output.exists() else []
    new = _not_in(before, poems)
    if new:
        with writing(output):
            output.parent.mkdir(parents=True, exist_ok=True)
            jsonl.append(output, *new)
    return ImportReport(
        output=output,
        sentences=tuple(_sentence(file, in_file) for file, in_file in found.items()),
        refused=tuple(piece for piece in pieces if isinstance(piece, Refused)),
        doubts=tuple(doubt for file, in_file in found.items() for doubt in _doubts(file, in_file)),
        num_read=len(poems),
        num_new=len(new),
        num_before=len(before),
        kept_aside=kept_aside,
    )


def read_poems(path: Path) -> list[Poem]:
    """Read a file of poems; a last line that a kill cut off is set aside first.

    Raises:
        JsonlError: a line is no poem, or one that was rejected.
        DataSetError: the file cannot be read.
    """
    try:
        jsonl.set_torn_line_aside(path)
        return verdicts.read(path, _POEM)
    except FileNotFoundError:
        raise DataSetError(f"There is no {path}; make it with `verse data import`.") from None
    except OSError as error:
        raise DataSetError(f"{path} cannot be read: {error.strerror}.") from error


def _not_in(before: Iterable[Poem], poems: Iterable[Poem]) -> list[Poem]:
    """Each poem once, and none that is there already."""
    known = {poem.id for poem in before}
    new: dict[str, Poem] = {}
    for poem in poems:
        if poem.id not in known:
            new.setdefault(poem.id, poem)
    return list(new.values())


def _doubts(path: Path, pieces: Iterable[Found]) -> Iterator[str]:
    unknown = ((piece.line, piece.unknown) for piece in pieces if isinstance(piece, Taken))
    return (f"{path}:{line}: {doubt}." for line, doubt in doubts(unknown))


def _sentence(path: Path, pieces: Sequence[Found]) -> str:
    """What a file was taken for: `train.jsonl: 61 rows of the original project, 2 refused`."""
    taken = Counter(piece.kind for piece in pieces if isinstance(piece, Taken))
    left_out = Counter(piece.reason for piece in pieces if isinstance(piece, LeftOut))
    num_refused = sum(isinstance(piece, Refused) for piece in pieces)
    parts = [counted(count, kind) for kind, count in taken.items()]
    parts += [f"{count} {reason} and left out" for reason, count in left_out.items()]
    parts += [f"{num_refused} refused"] * bool(num_refused)
    return f"{path}: {', '.join(parts)}"


def files_of(paths: Iterable[Path]) -> list[Path]:
    """The files, and those inside the folders by name; hidden ones are passed over.

    Raises:
        DataSetError: a path does not exist, or a folder holds nothing to read.
    """
    files: dict[Path, None] = {}
    for path in paths:
        files.update(dict.fromkeys(_inside(path) if path.is_dir() else [path]))
    return list(files)


def _inside(folder: Path) -> Iterator[Path]:
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in SUFFIXES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]
    if not files:
        raise DataSetError(f"{folder} holds no {', '.join(SUFFIXES)} file to read poems from.")
    yield from files


@contextmanager
def writing(path: Path) -> Generator[None]:
    """Turn what the disk refuses into a `DataSetError`; the file is as it was."""
    try:
        yield
    except OSError as error:
        raise DataSetError(f"{path} cannot be written: {error.strerror}.") from error


def set_aside(path: Path) -> Path | None:
    """Rename a file to `NAME.old`, or `NAME.old-2` and so on where that is taken.

    Returns:
        Its new place; None if there was no file.

    Raises:
        OSError: the folder is read-only.
    """
    if not path.exists():
        return None
    names = (f"{path.name}.old" + (f"-{number}" if number > 1 else "") for number in count(1))
    free = next(place for name in names if not (place := path.with_name(name)).exists())
    return path.rename(free)
