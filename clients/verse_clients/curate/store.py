"""How the window was left.

The state stands beside the journal of decisions (`verse.decision_journal`), so that opening that
again lands on the same poem; no decision depends on it.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from verse.atomic_file import replace_file
from verse.records import OrderName
from verse_clients.curate import Appearance
from verse_clients.curate.queue import Filter

_DEFAULT_SIZE = (1080, 820)
_TASK_BAR = 60
_MIN_SEEN = 80
"""Of a window at the screen's edge, in pixels."""


class WindowState(msgspec.Struct, frozen=True, kw_only=True):
    """All that a window needs to look as it did."""

    poem: str = ""
    """Id of the poem that was shown."""
    repeat: bool = False
    num_entries: int = 0
    """Length of the journal when this was kept; a longer journal knows better where to go on."""
    order: OrderName = "file"
    order_chosen: bool = False
    """Whether the poet asked for the order; if not, the poems decide it."""
    seed: int = 0
    """Of the order, so that it comes out the same."""
    filter: Filter = Filter()
    blind: bool = True
    """Whether sources are hidden."""
    seen: tuple[str, ...] = ()
    """Ids of the poems whose source was in view, as far as the journal does not say so itself."""
    geometry: str = ""
    type_percent: int = 100
    appearance: Appearance = "system"
    font: str = ""
    """The family of the poems; empty for the best one installed."""
    poems: tuple[str, ...] = ()
    """The files that were opened, as absolute paths; an export writes lists among them back."""
    draft_of: str = ""
    """Id of the poem that was being edited."""
    draft: str = ""
    """Its text so far."""


def state_file(journal: Path) -> Path:
    """The file beside a journal that keeps the state; its name is older than that word."""
    return journal.with_name(f"{journal.name}.place.json")


def read_state(journal: Path) -> WindowState:
    """The state kept beside a journal; the beginning when there is none that can be read."""
    with suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(state_file(journal).read_bytes(), type=WindowState)
    return WindowState()


def keep_state(journal: Path, state: WindowState) -> bool:
    """Keep the state; returns whether the disk took it. No decision depends on it."""
    try:
        replace_file(state_file(journal), _pretty(state))
    except OSError:
        return False
    return True


def fitting_geometry(kept: str, screen: tuple[int, int]) -> str:
    """A window's last size and place (`900x700+40+60`), as far as the screen has room for them.

    A window that has neither gets both: Tk only keeps track of a place that it was given.
    """
    match = re.fullmatch(r"(\d+)x(\d+)\+(-?\d+)\+(-?\d+)", kept)
    if match:
        width, height, x, y = (int(part) for part in match.groups())
        width, height = min(width, screen[0]), min(height, screen[1])
    else:
        width = min(_DEFAULT_SIZE[0], screen[0])
        height = min(_DEFAULT_SIZE[1], screen[1] - _TASK_BAR)
        x, y = (screen[0] - width) // 2, (screen[1] - height) // 3
    x = max(0, min(x, screen[0] - _MIN_SEEN))
    y = max(0, min(y, screen[1] - _MIN_SEEN))
    return f"{width}x{height}+{x}+{y}"


def _pretty(state: WindowState) -> Iterable[bytes]:
    yield msgspec.json.format(msgspec.json.encode(state), indent=2)
    yield b"\n"
