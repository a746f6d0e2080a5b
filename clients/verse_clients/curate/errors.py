"""What can go wrong for the poet.

UserError
└── CurateError
    ├── SourceError    a file holds no poems that can be read
    ├── JournalError   the decisions cannot be opened or do not fit together
    │   └── LockedError    another window has them open
    ├── KeymapError    the file with the keys says something impossible
    ├── DisplayError   there is no screen to open a window on
    └── WriterError    the server did not write new poems

`verse.cli` prints them, with exit code 2.
"""

from verse.errors import UserError


class CurateError(UserError):
    """The root of what `verse curate` tells in one sentence."""


class SourceError(CurateError):
    """A file holds no poems that can be read."""


class JournalError(CurateError):
    """The decisions cannot be opened or do not fit together."""


class LockedError(JournalError):
    """Another window has the decisions open."""


class KeymapError(CurateError):
    """The file with the keys says something impossible."""


class DisplayError(CurateError):
    """There is no screen to open a window on."""


class WriterError(CurateError):
    """The server did not write new poems."""
