"""What can go wrong for the person who lets poems be judged.

UserError
└── JudgeError
    ├── InputError       poems, weights, examples or decisions cannot be read or used
    ├── OutputError      the output is another run's, in use, or cannot be written
    ├── LimitError       a limit was given that cannot be kept
    ├── UnfinishedError  a server ended the run; it says how to go on
    └── NoVerdictError   no answer of any judge could be used

`verse.cli` prints them, with exit code 2. What a server says is in `server_errors`.
"""

from verse.errors import UserError


class JudgeError(UserError):
    """The root of what `verse judge` tells in one sentence."""


class InputError(JudgeError):
    """A file cannot be read, or options do not fit together."""


class OutputError(JudgeError):
    """A file is another run's, in use, or cannot be written."""


class LimitError(JudgeError):
    """A limit was given that cannot be kept."""


class UnfinishedError(JudgeError):
    """A server ended the run; the answers so far are on the disk."""


class NoVerdictError(JudgeError):
    """No answer of any judge could be used."""
