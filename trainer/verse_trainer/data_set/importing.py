"""`verse data import`: poems from what poets have, into one file of Verse's own records."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from verse import jsonl, verdicts
from verse.records import Poem
from verse_trainer.data_set.found import Found, LeftOut, Refused, Taken, counted, doubt_about
from verse_trainer.data_set.sources import files_of, read_source
from verse_trainer.data_set.writing import set_aside, writing
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
        DataSetError: a source cannot be read, or the output not written.
        JsonlError: the output exists and holds something else.
    """
    found = {file: read_source(file) for file in files_of(sources)}
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
        doubts=tuple(doubt for in_file in found.values() for doubt in _doubts(in_file)),
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


def _doubts(pieces: Sequence[Found]) -> Iterator[str]:
    """Once for each key of a file, with its first value."""
    told: set[str] = set()
    for piece in pieces:
        for key, value in piece.unknown if isinstance(piece, Taken) else ():
            if key not in told:
                told.add(key)
                yield f"{piece.path}:{piece.line}: {doubt_about(key, value)}."


def _sentence(path: Path, pieces: Sequence[Found]) -> str:
    """What a file was taken for: `train.jsonl: 61 rows of the original project, 2 refused`."""
    taken = Counter(piece.kind for piece in pieces if isinstance(piece, Taken))
    left_out = Counter(piece.reason for piece in pieces if isinstance(piece, LeftOut))
    num_refused = sum(isinstance(piece, Refused) for piece in pieces)
    parts = [counted(count, kind) for kind, count in taken.items()]
    parts += [f"{count} {reason} and left out" for reason, count in left_out.items()]
    parts += [f"{num_refused} refused"] * bool(num_refused)
    return f"{path}: {', '.join(parts)}"
