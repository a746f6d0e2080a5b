"""Tooltips that leave nothing behind.

tkinter-tooltip stays on the screen when its widget is destroyed, and when the pointer does not move
while a key takes the window elsewhere. Here a tooltip dies with its widget and hides at any key.
"""

from collections.abc import Callable
from tkinter import Misc, Widget
from typing import Any, cast

import tktooltip

from verse_clients.curate.view import fonts
from verse_clients.curate.view.theme import Palette

_DELAY_SECONDS = 0.6
_HINTS: list["Hint"] = []


class Hint:
    """What a widget is for, shown when the pointer rests on it."""

    def __init__(self, widget: Widget, text: str | Callable[[], str]) -> None:
        """Attach to a widget for as long as it lives."""
        # The package types its keyword arguments as a bare dict.
        make = cast("Callable[..., Any]", tktooltip.ToolTip)
        self._tip = make(
            widget,
            msg=text,
            delay=_DELAY_SECONDS,
            parent_kwargs={"master": widget.winfo_toplevel(), "padx": 1, "pady": 1},
            font=fonts.SMALL,
            padx=8,
            pady=4,
        )
        _HINTS.append(self)
        widget.bind("<Destroy>", lambda _: self._destroy(), add="+")
        widget.bind("<Unmap>", lambda _: self.hide(), add="+")

    def hide(self) -> None:
        """Take it off the screen until the pointer comes again."""
        if self in _HINTS and self._tip.winfo_exists():
            self._tip.on_leave()

    def paint(self, palette: Palette) -> None:
        """Give it the theme's colours."""
        self._tip.configure(background=palette.line)
        self._tip.message_widget.configure(background=palette.raised, foreground=palette.ink)

    def _destroy(self) -> None:
        if self in _HINTS:
            _HINTS.remove(self)
            self._tip.destroy()


def hide_all() -> None:
    """Take every tooltip off the screen."""
    for hint in tuple(_HINTS):
        hint.hide()


def paint_all(palette: Palette) -> None:
    """Give every tooltip the theme's colours."""
    for hint in tuple(_HINTS):
        hint.paint(palette)


def hide_on_keys(window: Misc) -> None:
    """Hide tooltips whenever a key is pressed in a window, or it loses the focus."""
    window.bind("<Key>", lambda _: hide_all(), add="+")
    window.bind("<FocusOut>", lambda _: hide_all(), add="+")
