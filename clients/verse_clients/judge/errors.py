"""What can go wrong for the person who lets poems be judged.

UserError
└── JudgeError
    ├── LimitError      a limit was given that cannot be kept
    └── NoVerdictError  no answer of any judge could be used

`verse.cli` prints them, with exit code 2. What all clients share is in `verse_clients.errors`.
"""

from verse.errors import UserError


class JudgeError(UserError):
    """The root of what `verse judge` tells in one sentence."""


class LimitError(JudgeError):
    """A limit was given that cannot be kept."""


class NoVerdictError(JudgeError):
    """No answer of any judge could be used."""
