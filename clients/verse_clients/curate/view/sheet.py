"""A window beside the main one: fits on the screen, closes with Esc, follows the theme."""

from collections.abc import Callable
from tkinter import Misc, Toplevel, ttk

from verse_clients.curate.view.hints import hide_on_keys
from verse_clients.curate.view.keys import let_input_method_rest
from verse_clients.curate.view.theme import Palette

_SCREEN_SHARE = 0.96


class Sheet(Toplevel):
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
        hide_on_keys(self)
        let_input_method_rest(self)
        self.focus_set()

    def close(self) -> None:
        """Give the keyboard back to the owner."""
        self.on_close()
        self.destroy()
        self._owner.focus_force()

    def paint(self, palette: Palette) -> None:
        """Take the theme's colours; sheets with more than ttk widgets add to this."""
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
