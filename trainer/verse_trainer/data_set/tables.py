"""Tables as sources of poems: CSV and TSV by the standard library, Parquet by pyarrow.

Which column is the theme and which the poem is told by headers that can mean nothing else, or by
the user (`--theme-column`, `--text-column`: a name, or a number counted from 1). Where several
columns may be it, or none, the table is refused and nothing is guessed. What other columns say of
acceptance, author and date is read as in a row of JSON.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from verse.poem_files.json_files import read_row
from verse.poem_files.pieces import Found, Refused
from verse.poem_files.reading import MAX_BYTES, ContentError, ReadOptions, decode
from verse.poem_files.shapes import CORPUS_TEXT_KEYS, CORPUS_THEME_KEYS, TEXT_KEYS, THEME_KEYS

TABLE_SUFFIXES = (".csv", ".tsv", ".tab")
_PARQUET_MARK = b"PAR1"
_DELIMITERS = ",;\t|"
_MAX_ROWS = 200_000
_THEMES = frozenset((*THEME_KEYS, *CORPUS_THEME_KEYS, "主题", "題", "题"))
_TEXTS = frozenset((*TEXT_KEYS, *CORPUS_TEXT_KEYS))
_ROW_SHAPES = (
    {"prompt", "completion"},
    {"instruction", "output"},
    {"messages"},
    {"conversations"},
)
"""Columns that together are rows of another kind, which are read as in JSON."""


class _Columns(msgspec.Struct, frozen=True):
    theme: str
    text: str


def read_table(content: bytes, path: Path, options: ReadOptions) -> list[Found] | None:
    """The poems of a table; None if the file is none.

    Raises:
        ContentError: it cannot be told which columns to take, or the file is broken.
    """
    if content.startswith(_PARQUET_MARK) and content.endswith(_PARQUET_MARK):
        header, rows = _parquet(content)
        return _read(header, rows, path, options, "rows of Parquet")
    if path.suffix.lower() not in TABLE_SUFFIXES:
        return None
    decoded = decode(content, options.encoding)
    header, rows = _separated(decoded.text, is_tsv=path.suffix.lower() != ".csv")
    kind = "rows of a table" + (f" ({decoded.encoding})" if decoded.encoding else "")
    return _read(header, rows, path, options, kind)


def _read(
    header: Sequence[str],
    rows: Iterable[tuple[int, Mapping[str, Any]]],
    path: Path,
    options: ReadOptions,
    kind: str,
) -> list[Found]:
    columns = _columns(header, options)
    found = [_piece(row, path, line, columns, kind) for line, row in rows]
    return found or [Refused(path=path, line=1, problem="the table has no rows", fault="empty")]


def _piece(
    row: Mapping[str, Any], path: Path, line: int, columns: _Columns | None, kind: str
) -> Found:
    if columns is not None:
        others = {
            key: value for key, value in row.items() if key.casefold() not in _THEMES | _TEXTS
        }
        others.pop(columns.theme, None)
        others.pop(columns.text, None)
        row = others | {"title": row[columns.theme] or "", "content": row[columns.text] or ""}
    piece = read_row(msgspec.json.encode(row, enc_hook=str), path, line)
    if columns is None or isinstance(piece, Refused):
        return piece
    return msgspec.structs.replace(piece, kind=kind)


def _columns(header: Sequence[str], options: ReadOptions) -> _Columns | None:
    """Which columns to take; None where the rows say it themselves.

    Raises:
        ContentError: that cannot be told.
    """
    is_named = options.theme_column or options.text_column
    if not is_named and any(shape <= set(header) for shape in _ROW_SHAPES):
        return None
    return _Columns(
        _column(header, options.theme_column, _THEMES, "theme"),
        _column(header, options.text_column, _TEXTS, "poem"),
    )


def _column(header: Sequence[str], asked: str | None, known: frozenset[str], what: str) -> str:
    option = "--theme-column" if what == "theme" else "--text-column"
    if asked is not None:
        return _asked_column(header, asked, option)
    fitting = [name for name in header if name.casefold() in known]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ContentError(
            f"{len(fitting)} of its columns may hold the {what} ({', '.join(fitting)}); "
            f"name one with {option}"
        )
    names = ", ".join(name or "(no name)" for name in header)
    raise ContentError(f"none of its columns is called {what} ({names}); name one with {option}")


def _asked_column(header: Sequence[str], asked: str, option: str) -> str:
    by_name = [name for name in header if name.casefold() == asked.strip().casefold()]
    if by_name:
        return by_name[0]
    if asked.isdecimal() and 0 < int(asked) <= len(header):
        return header[int(asked) - 1]
    raise ContentError(f"it has no column {asked!r} for {option}; it has {', '.join(header)}")


def _separated(
    text: str, *, is_tsv: bool
) -> tuple[list[str], Iterator[tuple[int, Mapping[str, Any]]]]:
    """Header and rows, each row with the line it begins in."""
    first = text.lstrip().partition("\n")[0]
    delimiter = "\t" if is_tsv else max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    _, names = next(_records(reader), (1, list[str]()))
    header = [name.strip() for name in names]
    if not header:
        raise ContentError("the table is empty")
    if len(set(header)) < len(header):
        raise ContentError("two of its columns have the same name; give each its own")
    return header, _rows(header, reader)


def _rows(header: Sequence[str], reader: Any) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line, cells in _records(reader):
        if len(cells) > len(header) and any(cell.strip() for cell in cells[len(header) :]):
            raise ContentError(
                "a row has more cells than the table has columns; put poems with commas or lines "
                "into quotes",
                line,
            )
        filled = [*cells, *[""] * (len(header) - len(cells))]
        yield line, {name: cell or None for name, cell in zip(header, filled, strict=False)}


def _records(reader: Any) -> Iterator[tuple[int, list[str]]]:
    line = reader.line_num + 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise ContentError(f"the table is broken here: {error}", line) from error


def _parquet(content: bytes) -> tuple[list[str], Iterator[tuple[int, Mapping[str, Any]]]]:
    try:
        library: Any = import_module("pyarrow.parquet")  # it has no types
        broken: type[Exception] = import_module("pyarrow").ArrowException
    except ModuleNotFoundError as error:
        raise ContentError(
            "reading Parquet needs pyarrow; in the folder of Verse run: pip install -e '.[parquet]'"
        ) from error
    try:
        file = library.ParquetFile(io.BytesIO(content))
        metadata = file.metadata
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        num_rows, num_bytes = metadata.num_rows, sum(group.total_byte_size for group in groups)
        is_small = num_rows <= _MAX_ROWS and num_bytes <= MAX_BYTES
        names: list[str] = list(file.schema_arrow.names)
        rows: list[dict[str, Any]] = file.read().to_pylist() if is_small else []
    except (broken, OSError, ValueError) as error:
        raise ContentError("the Parquet file is broken") from error
    if not is_small:
        raise ContentError(
            f"it has {num_rows} rows and unpacked {num_bytes >> 20} MB; "
            f"{_MAX_ROWS} rows and {MAX_BYTES >> 20} MB are read"
        )
    return names, ((line, row) for line, row in enumerate(rows, start=1))
