"""What the poet changed, character by character."""

from typing import Literal, NamedTuple

from rapidfuzz.distance import Levenshtein

Change = Literal["same", "deleted", "inserted"]


class Piece(NamedTuple):
    """A stretch of characters that met one fate."""

    change: Change
    text: str


def difference(original: str, edited: str) -> list[Piece]:
    """The shortest way from one text to the other, in reading order.

    Without the inserted pieces it spells the original, without the deleted ones the edited text.
    """
    pieces: list[Piece] = []
    deleted = inserted = ""
    for step in Levenshtein.opcodes(original, edited):
        old, new = original[step.src_start : step.src_end], edited[step.dest_start : step.dest_end]
        if step.tag == "equal":
            pieces += [*_changed(deleted, inserted), Piece("same", old)]
            deleted = inserted = ""
        else:
            deleted, inserted = deleted + old, inserted + new
    return [*pieces, *_changed(deleted, inserted)]


def _changed(deleted: str, inserted: str) -> list[Piece]:
    """One change reads best in one piece: what went, then what came."""
    pieces = [Piece("deleted", deleted), Piece("inserted", inserted)]
    return [piece for piece in pieces if piece.text]


def edit_distance(original: str, edited: str) -> int:
    """Characters to insert, delete or replace."""
    return Levenshtein.distance(original, edited)
