"""From key events to actions; letters stay letters while the poet types."""

import sys
from collections.abc import Callable
from tkinter import Event, Misc, TclError, Text, ttk
from typing import TypeAlias

from verse_clients.curate.keymap import normal_key

_SHIFT, _CONTROL, _ALT = 0x1, 0x4, 0x8
_COMMAND = 0x8  # on a Mac, where Alt is 0x10
_KEYPAD = {"Add": "plus", "Subtract": "minus", "Enter": "Return"}

KeyEvent: TypeAlias = "Event[Misc]"


def bind_keys(window: Misc, handle: Callable[[str], bool]) -> None:
    """Send a window's keys, spelled as `normal_key` does, to `handle`, except while typing.

    `handle` returns whether it used the key.
    """

    def on_key(event: KeyEvent) -> str | None:
        if is_typing(window):
            return None
        return "break" if handle(key_of(event)) else None

    window.bind("<Key>", on_key, add="+")


def is_typing(window: Misc) -> bool:
    """Whether the keyboard belongs to a field of text."""
    try:
        focus = window.focus_get()
    except KeyError:  # the open list of a combobox, which tkinter does not know
        return True
    if isinstance(focus, Text):
        return str(focus.cget("state")) == "normal"
    return isinstance(focus, ttk.Entry) and "readonly" not in focus.state()


def key_of(event: KeyEvent) -> str:
    """The key of an event in the keymap's spelling."""
    state = int(event.state)
    name = event.keysym
    if name.startswith("KP_"):
        name = _KEYPAD.get(name[3:], name[3:])
    held = _modifiers(state)
    # Shift is part of a character such as "?", and no more than Caps Lock for a letter alone.
    if state & _SHIFT and ((name[0].isupper() and len(name) > 1) or (held and len(name) == 1)):
        held.append("Shift")
    return normal_key("+".join([*held, name]))


def let_input_method_rest(window: Misc) -> None:
    """Keep an input method from swallowing the deciding keys: it works in fields of text only."""
    if window.tk.call("tk", "windowingsystem") != "x11":
        return

    def follow(_: KeyEvent) -> None:
        try:
            window.tk.call("tk", "useinputmethods", is_typing(window))
        except TclError:  # the window is closing
            return

    window.bind("<FocusIn>", follow, add="+")


def _modifiers(state: int) -> list[str]:
    held = ["Ctrl"] if state & _CONTROL else []
    if sys.platform == "darwin":
        return ["Cmd", *held] if state & _COMMAND else held
    return [*held, "Alt"] if state & _ALT else held
