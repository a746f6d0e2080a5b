"""What can be wrong with poems and decisions on the disk.

UserError
└── DecisionsError
    ├── SourceError    a file holds no poems that can be read
    └── JournalError   the decisions cannot be opened or do not fit together

`verse.cli` prints them, with exit code 2.
"""

from verse.errors import UserError


class DecisionsError(UserError):
    """The root of what is told about poems and decisions in one sentence."""


class SourceError(DecisionsError):
    """A file holds no poems that can be read."""


class JournalError(DecisionsError):
    """The decisions cannot be opened or do not fit together."""
