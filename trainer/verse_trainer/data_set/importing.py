"""`verse data import`: poems from what poets have, into one file of Verse's own records.

What kind a source is, is told by its content. In a folder or a zip file there may be anything: what
it holds is surveyed first, shown, and imported when the user says so. Texts that may be no poems,
or not the poet's, are asked about one by one (`Doubt`).

No file that is there is lost: what is replaced is set aside, and a full disk leaves everything as
it was.
"""

import re
from collections import Counter
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import msgspec

from verse import jsonl, terminal, verdicts
from verse.poem_files import (
    Found,
    LeftOut,
    PoemFileError,
    ReadOptions,
    Refused,
    Taken,
    counted_kind,
    doubts,
    read_file,
)
from verse.poem_files.pieces import UNREVIEWED
from verse.poem_split import SPLIT_FILE
from verse.records import Poem, content_id
from verse_trainer.data_set.documents import (
    WHOLE_FILE,
    is_hidden,
    is_read,
    kind_by_look,
    kind_by_name,
    read_document,
)
from verse_trainer.errors import DataSetError

POEMS_FILE = "poems.jsonl"
_RARE = re.compile(
    "[\u25a1\u3013\ufffd\ue000-\uf8ff\U000f0000-\U0010fffd]|[\u2ff0-\u2fff]|\\{\\{?SKCH\\}?\\}"
)
"""What files have where a character could not be written: □, private use, descriptions of it."""
_TEXT_KINDS = ("poems in text", "poems in Markdown", "poems in a chat")

SAMPLE = "3ceee88469dfed31"
"""Of the poems that Verse ships with: `sample_key`."""

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
    was_sample: bool = False
    """Whether that held the poems that Verse ships with, and nothing else."""

    @property
    def num_after(self) -> int:
        """Poems that are in the file now."""
        return self.num_before + self.num_new


class Doubt(msgspec.Struct, frozen=True):
    """Texts of one file that may be no poems, for one reason."""

    path: Path
    why: str
    """A clause."""
    pieces: tuple[Taken, ...]


class FileFound(msgspec.Struct, frozen=True, kw_only=True):
    """What one file holds."""

    path: Path
    pieces: tuple[Found, ...]

    @property
    def taken(self) -> list[Taken]:
        """Poems, and what may be some."""
        return [piece for piece in self.pieces if isinstance(piece, Taken)]


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """What the sources hold; nothing is written yet."""

    files: tuple[FileFound, ...]
    is_mixed: bool
    """Whether a folder or a zip file is among them, in which there may be anything."""

    @property
    def refused(self) -> list[Refused]:
        """What could not be read."""
        pieces = [piece for file in self.files for piece in file.pieces]
        return [piece for piece in pieces if isinstance(piece, Refused)]

    @property
    def doubts(self) -> list[Doubt]:
        """What is to be asked before it is imported."""
        asked: dict[tuple[Path, str], list[Taken]] = {}
        for piece in (piece for file in self.files for piece in file.taken):
            if piece.doubt:
                asked.setdefault((piece.path, piece.doubt), []).append(piece)
        return [Doubt(path, why, tuple(held)) for (path, why), held in asked.items()]

    def without(self, doubted: Collection[Doubt]) -> "Survey":
        """The same, with these texts left out."""
        gone = {id(piece) for doubt in doubted for piece in doubt.pieces}
        files = tuple(
            FileFound(path=file.path, pieces=tuple(_left_if(piece, gone) for piece in file.pieces))
            for file in self.files
        )
        return Survey(files=files, is_mixed=self.is_mixed)


def survey(
    sources: Sequence[Path], options: ReadOptions | None = None, *, unreviewed: bool = False
) -> Survey:
    """Read all sources.

    Args:
        sources: Files and folders.
        options: What the user says of them.
        unreviewed: Take what a model wrote and nobody decided about, too.

    Raises:
        PoemFileError: a source cannot be read.
        DataSetError: a path does not exist, or a folder holds nothing to read.
    """
    pieces: dict[Path, list[Found]] = {}
    for file, folder in files_of(sources).items():
        for piece in _read(file, folder, options or ReadOptions()):
            taken = _accepted(piece) if unreviewed else piece
            pieces.setdefault(piece.path, []).append(taken)
    if not unreviewed:
        _leave_readings(pieces)
    files = tuple(FileFound(path=path, pieces=tuple(held)) for path, held in pieces.items())
    is_mixed = any(source.is_dir() for source in sources) or len(files) > len(set(sources))
    return Survey(files=files, is_mixed=is_mixed)


def _leave_readings(pieces: dict[Path, list[Found]]) -> None:
    """Leave out texts that hold nothing but lines of unreviewed poems: made of them for reading."""
    found = [piece for held in pieces.values() for piece in held]
    lines = {line for piece in found if _is_unreviewed(piece) for line in _lines(piece)}
    for held in pieces.values() if lines else ():
        for place, piece in enumerate(held):
            if isinstance(piece, Taken) and piece.kind.startswith(_TEXT_KINDS):
                is_reading = lines.issuperset(_lines(piece))
                held[place] = _without(piece, UNREVIEWED) if is_reading else piece


def _is_unreviewed(piece: Found) -> bool:
    return isinstance(piece, LeftOut) and piece.reason == UNREVIEWED


def _lines(piece: Found) -> set[str]:
    poem = None if isinstance(piece, Refused) else piece.poem
    lines = poem.text.split("\n") if poem else []
    return {line.strip() for line in lines if line.strip()}


def import_poems(
    sources: Sequence[Path] | Survey, output: Path, *, replace: bool = False
) -> ImportReport:
    """Add the poems that are not in the file yet.

    Where nothing could be read as a poem, nothing is written. The poems that Verse ships with are
    an example and not the poet's: a file that holds nothing else is set aside, with its split.

    Args:
        sources: Files and folders, or what was found in them.
        output: A file of poems; made if it is not there.
        replace: Set an existing file aside and begin a new one.

    Raises:
        PoemFileError: a source cannot be read.
        DataSetError: a path does not exist, or the output cannot be written.
        JsonlError: the output exists and holds something else.
    """
    found = sources if isinstance(sources, Survey) else survey(sources)
    pieces = [piece for file in found.files for piece in file.pieces]
    poems = [piece.poem for piece in pieces if isinstance(piece, Taken)]
    was_sample = not replace and _is_sample(output, poems)
    with writing(output):
        kept_aside = set_aside(output) if poems and (replace or was_sample) else None
        if was_sample:
            set_aside(output.with_name(SPLIT_FILE))
    before = read_poems(output) if output.exists() else []
    new = _not_in(before, poems)
    if new:
        with writing(output):
            output.parent.mkdir(parents=True, exist_ok=True)
            jsonl.append(output, *new)
    return ImportReport(
        output=output,
        sentences=tuple(sentence_of(file) for file in found.files),
        refused=tuple(piece for piece in pieces if isinstance(piece, Refused)),
        doubts=tuple(doubt for file in found.files for doubt in _doubts(file.path, file.pieces)),
        num_read=len(poems),
        num_new=len(new),
        num_before=len(before),
        kept_aside=kept_aside,
        was_sample=was_sample,
    )


def sample_key(poems: Iterable[Poem]) -> str:
    """What tells a collection from others, in whatever order it stands."""
    return content_id(*sorted(poem.id for poem in poems))


def _is_sample(output: Path, poems: Sequence[Poem]) -> bool:
    """Whether a file holds only the poems that Verse ships with, and others are to be added."""
    if not poems or not output.exists():
        return False
    before = read_poems(output)
    return sample_key(before) == SAMPLE and bool(_not_in(before, poems))


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


def sentence_of(file: FileFound) -> str:
    """What a file was taken for: `train.jsonl: 61 rows of the original project, 2 refused`."""
    if kind := left_whole(file):
        return f"{file.path}: left out: {kind}"
    taken = Counter(piece.kind for piece in file.taken if not piece.doubt)
    num_doubted = sum(bool(piece.doubt) for piece in file.taken)
    left_out = Counter(piece.reason for piece in file.pieces if isinstance(piece, LeftOut))
    num_refused = sum(isinstance(piece, Refused) for piece in file.pieces)
    parts = [counted_kind(count, kind) for kind, count in taken.items()]
    parts += [f"{count} {reason} and left out" for reason, count in left_out.items()]
    parts += [f"{counted_kind(num_doubted, 'texts')} to ask about"] * bool(num_doubted)
    parts += [f"{num_refused} refused"] * bool(num_refused)
    num_marks = sum(len(_RARE.findall(piece.poem.text)) for piece in file.taken)
    parts += [f"{terminal.counted(num_marks, 'mark')} in place of rare characters"] * bool(
        num_marks
    )
    return f"{file.path}: {', '.join(parts)}"


def left_whole(file: FileFound) -> str:
    """What a file is that was left out whole, for its name or its look; else empty."""
    first = file.pieces[0]
    return first.reason if isinstance(first, LeftOut) and first.line == WHOLE_FILE else ""


def files_of(paths: Iterable[Path]) -> dict[Path, Path | None]:
    """The files with the folder each was found in, which is None where it was named by itself.

    Raises:
        DataSetError: a folder holds nothing to read.
    """
    files: dict[Path, Path | None] = {}
    for path in paths:
        if path.is_dir():
            files.update({file: path for file in _inside(path) if file not in files})
        else:
            files[path] = None
    return files


def _inside(folder: Path) -> list[Path]:
    """All files but a program's own, by name."""
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if not is_hidden(file.relative_to(folder)) and file.is_file()
    ]
    if not any(is_read(file) for file in files):
        raise DataSetError(f"{folder} holds no file that poems could be read from.")
    return files


def _read(file: Path, folder: Path | None, options: ReadOptions) -> list[Found]:
    """All that a file holds; one in a folder may be left out whole, or refused in one sentence."""
    kind = "" if folder is None else kind_by_name(file.relative_to(folder))
    if kind:
        return [_left(file, kind)]
    try:
        found = read_file(file, options, [read_document])
    except PoemFileError as error:
        if folder is None:
            raise
        problem = "it " + str(error).removeprefix(f"{file} ").rstrip(".")
        return [Refused(path=file, line=1, problem=problem)]
    by_file: dict[Path, list[Found]] = {}
    for piece in found:
        by_file.setdefault(piece.path, []).append(piece)
    return [
        piece
        for path, pieces in by_file.items()
        for piece in _looked_at(path, pieces, is_named=folder is None and path == file)
    ]


def _looked_at(path: Path, pieces: Sequence[Found], *, is_named: bool) -> Sequence[Found]:
    """What looks like something else is doubted in a file that was named, and left elsewhere."""
    looks = [_look(piece) for piece in pieces]
    if is_named:
        return [_doubted(piece, kind) for piece, kind in zip(pieces, looks, strict=True)]
    if all(looks):
        return [_left(path, looks[0])]
    if all(isinstance(piece, Refused) for piece in pieces):
        return pieces[:1]
    # Between two pieces of a manual or a log there is hardly a poem.
    likely = next(filter(None, looks), "")
    looks = [look or likely for look in looks]
    return [_doubted(piece, kind) for piece, kind in zip(pieces, looks, strict=True)]


def _doubted(piece: Found, kind: str) -> Found:
    if not kind or not isinstance(piece, Taken):
        return piece
    return msgspec.structs.replace(piece, doubt=piece.doubt or f"it looks like {kind}")


def _look(piece: Found) -> str:
    """What a piece of plain text looks like, if not like a poem."""
    is_text = isinstance(piece, Taken) and piece.kind.startswith(_TEXT_KINDS)
    return kind_by_look(piece.poem.text) if is_text and isinstance(piece, Taken) else ""


def _left(file: Path, kind: str) -> LeftOut:
    return LeftOut(path=file, line=WHOLE_FILE, reason=kind)


def _left_if(piece: Found, gone: Collection[int]) -> Found:
    if id(piece) not in gone or not isinstance(piece, Taken):
        return piece
    return _without(piece, "doubtful")


def _without(piece: Taken, reason: str) -> LeftOut:
    return LeftOut(
        path=piece.path, line=piece.line, reason=reason, kind=piece.kind, poem=piece.poem
    )


def _accepted(piece: Found) -> Found:
    if not isinstance(piece, LeftOut) or piece.reason != UNREVIEWED or piece.poem is None:
        return piece
    poem = msgspec.structs.replace(piece.poem, origin="accepted")
    return Taken(path=piece.path, line=piece.line, kind=piece.kind, poem=poem, row=piece.row)


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
