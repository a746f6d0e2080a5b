"""What can go wrong with a round.

UserError
└── RefineError
    ├── RoundError       the folder is no round, or its plan says something impossible
    └── StepFailedError  a command of a step ended with another exit code than 0

`verse.cli` prints them, with exit code 2. What all clients share is in `verse_clients.errors`.
"""

from verse.errors import UserError


class RefineError(UserError):
    """The root of what `verse refine` tells in one sentence."""


class RoundError(RefineError):
    """The folder is no round, or its plan says something impossible."""


class StepFailedError(RefineError):
    """A command of a step ended with another exit code than 0."""
