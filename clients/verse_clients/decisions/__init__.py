"""What the poet decided, and about what: read by all who learn from it.

sources      the files that hold poems      -> items; those that hold decisions
preferences  what counts                    -> pairs of a better and a worse poem
exports      what counts                    -> training files and a book

tallies      what counts                    -> how each source fared

The file that holds decisions is read and written by `verse.decision_journal`. Names below import
those above them at most.

UserError
└── DecisionsError
    └── SourceError    a file holds no poems that can be read

`verse.cli` prints them, with exit code 2.
"""

from verse import UserError


class DecisionsError(UserError):
    """The root of what is told about poems and decisions in one sentence."""


class SourceError(DecisionsError):
    """A file holds no poems that can be read."""
