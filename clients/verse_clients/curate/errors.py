"""What can go wrong for the poet.

UserError
├── CurateError
│   ├── KeymapError    the file with the keys says something impossible
│   ├── DisplayError   there is no screen to open a window on
│   └── WriterError    the server did not write new poems
└── JournalError       see decisions.errors
    └── LockedError    another window has the decisions open

`verse.cli` prints them, with exit code 2.
"""

from verse.errors import UserError
from verse_clients.decisions import JournalError


class CurateError(UserError):
    """The root of what `verse curate` tells in one sentence."""


class LockedError(JournalError):
    """Another window has the decisions open."""


class KeymapError(CurateError):
    """The file with the keys says something impossible."""


class DisplayError(CurateError):
    """There is no screen to open a window on."""


class WriterError(CurateError):
    """The server did not write new poems."""
