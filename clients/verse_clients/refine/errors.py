"""What can go wrong with a round.

UserError
└── RefineError
    ├── InputError       a file that a step reads is missing or holds something else
    ├── RoundError       the folder is no round, or its plan says something impossible
    └── StepFailedError  a command of a step ended with another exit code than 0

`verse.cli` prints them, with exit code 2.
"""

from verse.errors import UserError


class RefineError(UserError):
    """The root of what `verse refine` tells in one sentence."""


class InputError(RefineError):
    """A file that a step reads is missing or holds something else."""


class RoundError(RefineError):
    """The folder is no round, or its plan says something impossible."""


class StepFailedError(RefineError):
    """A command of a step ended with another exit code than 0."""
