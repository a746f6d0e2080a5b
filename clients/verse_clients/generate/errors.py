"""What can go wrong for the person who lets poems be written.

UserError
└── GenerateError
    ├── InputError      themes, variants, training or accepted poems cannot be read
    ├── SelectionError  there is no such adapter, or none of its checkpoints is meant
    ├── OutputError     the output is another plan's, in use, or cannot be written
    └── UnfinishedError some poems are missing; it says how to go on

`verse.cli` prints them, with exit code 2. What a server says is in `server_errors`.
"""

from verse.errors import UserError


class GenerateError(UserError):
    """The root of what `verse generate` tells in one sentence."""


class InputError(GenerateError):
    """A file with themes, variants or poems cannot be read."""


class SelectionError(GenerateError):
    """What was asked for does not exist on this server."""


class OutputError(GenerateError):
    """The output is another plan's, in use, or cannot be written."""


class UnfinishedError(GenerateError):
    """Some poems are missing."""
