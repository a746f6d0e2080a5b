"""What all windows are made of: keys, tooltips, rows that break, and the frame of a second window.

Letters stay letters while the poet types. tkinter-tooltip stays on the screen when its widget is
destroyed, and when the pointer does not move while a key takes the window elsewhere; here a tooltip
dies with its widget and hides at any key.
"""

import sys
from collections.abc import Callable
from tkinter import Event, Misc, TclError, Text, Toplevel, Widget, ttk
from typing import Any, Literal, TypeAlias, cast

import tktooltip

from verse_clients.curate.keymap import normal_key
from verse_clients.curate.view import theme
from verse_clients.curate.view.theme import Palette

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
            font=theme.SMALL,
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


def hide_hints() -> None:
    """Take every tooltip off the screen."""
    for hint in tuple(_HINTS):
        hint.hide()


def paint_hints(palette: Palette) -> None:
    """Give every tooltip the theme's colours."""
    for hint in tuple(_HINTS):
        hint.paint(palette)


def hide_hints_on_keys(window: Misc) -> None:
    """Hide tooltips whenever a key is pressed in a window, or it loses the focus."""
    window.bind("<Key>", lambda _: hide_hints(), add="+")
    window.bind("<FocusOut>", lambda _: hide_hints(), add="+")


Align = Literal["left", "center", "right"]


class Flow(ttk.Frame):
    """Lays out its children in reading order; no child is ever cut off at the side."""

    def __init__(self, master: Misc, align: Align = "left", gap: int = 6) -> None:
        """Make an empty row; `gap` is in pixels, between children both ways."""
        super().__init__(master)
        self._align: Align = align
        self._gap = gap
        self._items: list[Widget] = []
        self._pending = False
        self.bind("<Configure>", lambda _: self.arrange_soon())

    def add(self, widget: Widget) -> None:
        """Put a child at the end; it makes room when its own size changes."""
        self._items.append(widget)
        widget.bind("<Configure>", lambda _: self.arrange_soon(), add="+")
        self.arrange_soon()

    def clear(self) -> None:
        """Destroy all children."""
        for widget in self._items:
            widget.destroy()
        self._items.clear()
        self.arrange_soon()

    def set_gap(self, gap: int) -> None:
        """Change the distance between children, in pixels."""
        self._gap = gap
        self.arrange_soon()

    def arrange_soon(self) -> None:
        """Lay out once, after all changes of this moment."""
        if not self._pending:
            self._pending = True
            self.after_idle(self._when_alive(self.arrange))

    def arrange(self) -> None:
        """Lay out now."""
        self._pending = False
        y = 0
        for row in self._rows(max(self.winfo_width(), 1)):
            height = max(widget.winfo_reqheight() for widget in row)
            x = self._start(row)
            for widget in row:
                offset = (height - widget.winfo_reqheight()) // 2
                widget.place(x=x, y=y + offset)
                x += widget.winfo_reqwidth() + self._gap
            y += height + self._gap
        height = max(y - self._gap, 1)
        if int(float(str(self.cget("height")))) != height:
            self.configure(height=height)

    def _rows(self, width: int) -> list[list[Widget]]:
        rows: list[list[Widget]] = []
        used = 0
        for widget in self._items:
            needed = widget.winfo_reqwidth()
            if rows and used + self._gap + needed <= width:
                rows[-1].append(widget)
                used += self._gap + needed
            else:
                rows.append([widget])
                used = needed
        return rows

    def _start(self, row: list[Widget]) -> int:
        used = sum(widget.winfo_reqwidth() + self._gap for widget in row) - self._gap
        free = max(self.winfo_width() - used, 0)
        return {"left": 0, "center": free // 2, "right": free}[self._align]

    def _when_alive(self, call: Callable[[], None]) -> Callable[[], None]:
        return lambda: call() if self.winfo_exists() else None


_SCREEN_SHARE = 0.96


class Dialog(Toplevel):
    """The frame that all other windows share; put widgets into `body`."""

    def __init__(self, owner: Misc, title: str, width: int, height: int) -> None:
        """Open over the owner, no larger than the screen (sizes in pixels)."""
        super().__init__(owner)
        self.title(title)
        self._owner = owner.winfo_toplevel()
        self.body = ttk.Frame(self)
        self.body.pack(fill="both", expand=True)
        self._place(width, height)
        self.transient(self._owner)
        self.bind("<Escape>", lambda _: self.close())
        self.protocol("WM_DELETE_WINDOW", self.close)
        self.on_close: Callable[[], None] = lambda: None
        hide_hints_on_keys(self)
        let_input_method_rest(self)
        self.focus_set()

    def close(self) -> None:
        """Give the keyboard back to the owner."""
        self.on_close()
        self.destroy()
        self._owner.focus_force()

    def paint(self, palette: Palette) -> None:
        """Take the theme's colours; dialogs with more than ttk widgets add to this."""
        self.configure(background=palette.paper)

    def _place(self, width: int, height: int) -> None:
        limit_x = int(self.winfo_screenwidth() * _SCREEN_SHARE)
        limit_y = int(self.winfo_screenheight() * _SCREEN_SHARE)
        width, height = min(width, limit_x), min(height, limit_y - 30)
        x = self._owner.winfo_rootx() + (self._owner.winfo_width() - width) // 2
        y = self._owner.winfo_rooty() + (self._owner.winfo_height() - height) // 2
        x = min(max(x, 0), max(limit_x - width, 0))
        y = min(max(y, 0), max(limit_y - height, 0))
        self.geometry(f"{width}x{height}+{x}+{y}")
