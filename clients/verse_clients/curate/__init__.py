"""`verse curate`: the poet decides, by keyboard, and nothing is lost.

keymap      which key does what
queue       the poems in their order, those that the filter shows, and where the poet is
order       the order of the queue, and of pairs to compare
store       how the window was left
session     decisions, undo, what is shown; pure, with no window and no disk
statistics  figures about the decisions
wording     the sentences of the window
more        poems that a server is asked for
app         puts the parts together from files
view        the windows; tkinter lives there and nowhere else

What is read, and what decisions become, is in `verse_clients.decisions`.

UserError
├── CurateError
│   ├── KeymapError    the file with the keys says something impossible
│   ├── DisplayError   there is no screen to open a window on
│   └── WriterError    the server did not write new poems
└── JournalError       see `verse.decision_journal`

`verse.cli` prints them, with exit code 2.
"""

from typing import Literal

from verse import UserError

Appearance = Literal["system", "light", "dark"]
"""Of the window; `system` is what the screen's other windows have."""


class CurateError(UserError):
    """The root of what `verse curate` tells in one sentence."""


class KeymapError(CurateError):
    """The file with the keys says something impossible."""


class DisplayError(CurateError):
    """There is no screen to open a window on."""


class WriterError(CurateError):
    """The server did not write new poems."""
