"""Where `models/`, `adapters/` and `data/` are: one rule, the same for every command.

A flag says it. Where none is given, the first of these that has the folder:

1. the folder that VERSE_HOME names,
2. the folder a command is run in, then the ones above it,
3. the folder Verse is installed from, which has the embedded base, its adapters and sample poems.

What is written never goes into the third: where the first two have no such folder, it is made in
the first of them that applies. `rounds/`, which ships with nothing, is found in the same way.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from verse import UserError

HOME_VARIABLE = "VERSE_HOME"
EMBEDDED_BASE = "models/verse-tiny"
RULE = (
    "models/, adapters/ and data/ are looked for in $VERSE_HOME, here, in the folders above, and "
    "where Verse is installed; a flag takes precedence."
)
"""For `--help`."""

_INSTALLED = Path(__file__).resolve().parents[2]


class HomeError(UserError):
    """VERSE_HOME names no folder."""


def found(path: str) -> Path:
    """What to read, such as `data/poems.jsonl`, in the first folder of that name there is.

    Args:
        path: Begins with the folder's name. The folder decides: a file that it lacks is not
            looked for in the next one.

    Raises:
        HomeError: VERSE_HOME names no folder.
    """
    name = Path(path).parts[0]
    roots = (*_own_roots(), _INSTALLED)
    root = next((root for root in roots if (root / name).is_dir()), None)
    return own(path) if root is None else root / path


def own(path: str) -> Path:
    """What to write, or to read only if the user has it: as `found`, but never the installed.

    Raises:
        HomeError: VERSE_HOME names no folder.
    """
    name = Path(path).parts[0]
    roots = list(_own_roots())
    root = next((root for root in roots if (root / name).is_dir()), roots[0])
    return root / path


def located_model(path_or_id: str) -> str:
    """A model as it was named, or where the rule finds it if its name begins with `models/`."""
    parts = Path(path_or_id).parts
    if not parts or parts[0] != "models" or Path(path_or_id).exists():
        return path_or_id
    path = found(path_or_id)
    return str(path) if path.is_dir() else path_or_id


def _own_roots() -> Iterator[Path]:
    """The current folder as `.`, so that what lies there is named as one would type it."""
    if home := os.environ.get(HOME_VARIABLE):
        path = Path(os.path.expanduser(home))  # noqa: PTH111  Path's own raises for unknown users
        if not path.is_dir():
            raise HomeError(f"{HOME_VARIABLE} is {home}, which is no folder; make it or unset it.")
        yield path
    yield Path()
    with suppress(OSError):  # the current folder may have been removed
        # The topmost is left out: a container's /data and /models are nobody's workshop.
        yield from list(Path.cwd().parents)[:-1]
