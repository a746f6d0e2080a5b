"""What a file of poems may be: one reading of it for every command.

reading        `read_file`: the one entry point; encodings, and which formats there are
json_files     JSON and JSON Lines, by the keys of their rows
shapes         the shapes of a row: the table
text_files     plain text and Markdown
bylines        authors, dates and the like beside a poem
candidates     Verse's own rows: candidates, and decisions about them
conversations  rows of mlx-lm: `messages`, `prompt` and `completion`, ChatML
pieces         what comes out: `Taken`, `LeftOut`, `Refused`

Every piece says its file and line, what kind of row it was, its poem with theme and text, what its
file says of its acceptance (`verse.verdicts`), and the row itself. Nothing is guessed: what is no
poem for certain is `Refused` and says why.
"""

from verse.poem_files.pieces import Found, LeftOut, Refused, Taken, counted_kind, doubts
from verse.poem_files.reading import (
    SUFFIXES,
    DocumentParser,
    PoemFileError,
    ReadOptions,
    read_content,
    read_file,
)

__all__ = (
    "SUFFIXES",
    "DocumentParser",
    "Found",
    "LeftOut",
    "PoemFileError",
    "ReadOptions",
    "Refused",
    "Taken",
    "counted_kind",
    "doubts",
    "read_content",
    "read_file",
)
