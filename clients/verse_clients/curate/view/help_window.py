"""The sheet with all keys: whatever a tooltip says is here too."""

from tkinter import Misc, Text

from verse_clients.curate.keymap import ACTIONS, Keymap, default_path, show_key
from verse_clients.curate.view import fonts
from verse_clients.curate.view.fonts import Fonts
from verse_clients.curate.view.keys import bind_keys
from verse_clients.curate.view.looks import Looks
from verse_clients.curate.view.reading import scroll_by_bar
from verse_clients.curate.view.sheet import Sheet
from verse_clients.curate.view.theme import Palette

_WHILE_EDITING = (
    ("Mod+Return", "Save your version: it is accepted, the next poem comes."),
    ("Escape", "Leave without saving."),
    ("Mod+z", "Take typing back."),
)
_PARTS = (
    ("Reading", "↑ ↓ Space", "Scroll a long poem; Shift+← and Shift+→ a wide one."),
    ("Pairs", "← → ↓ x", "Left, right, tie, both bad."),
)


class HelpWindow(Sheet):
    """A table of keys that scrolls."""

    def __init__(self, owner: Misc, keymap: Keymap, looks: Looks) -> None:
        """Show the keys as the poet set them."""
        super().__init__(owner, "Verse · Keys", 680, 780)
        self.body.rowconfigure(0, weight=1)
        self.body.columnconfigure(0, weight=1)
        self.text = Text(
            self.body, wrap="word", font=fonts.UI, borderwidth=0, highlightthickness=0,
            cursor="arrow", padx=28, pady=20, width=1, height=1,
        )  # fmt: skip
        self.text.grid(row=0, column=0, sticky="nsew")
        scroll_by_bar(self.body, self.text, vertical=True, place=(0, 1, "ns"))
        self._write(keymap)
        looks.add(self, self._paint)
        bind_keys(self, self._on_key)

    def _write(self, keymap: Keymap) -> None:
        self._section("Keys")
        for action in ACTIONS:
            keys = "  ".join(show_key(key) for key in keymap.keys(action.name))
            self._line(keys or "–", action.help)
        self._section("While editing")
        for key, what in _WHILE_EDITING:
            self._line(show_key(key), what)
        for title, keys, what in _PARTS:
            self._section(title)
            self._line(keys, what)
        self._section("Your own keys")
        self.text.insert("end", f"{default_path()}\n", "plain")
        self.text.configure(state="disabled")

    def _section(self, title: str) -> None:
        self.text.insert("end", f"{title}\n", "title")

    def _line(self, keys: str, what: str) -> None:
        self.text.insert("end", keys, "key", f"\t{what}\n", "plain")

    def _paint(self, palette: Palette, font: Fonts) -> None:
        self.paint(palette)
        column = font[fonts.UI].measure("Ctrl+Shift+Z  Ctrl+Y  Y") + font.pixels(24)
        self.text.configure(background=palette.paper, foreground=palette.ink, tabs=(column,))
        self.text.tag_configure("title", font=fonts.THEME, foreground=palette.quiet, spacing1=14)
        self.text.tag_configure("key", foreground=palette.seal, lmargin2=column, spacing1=3)
        self.text.tag_configure("plain", lmargin2=column)

    def _on_key(self, key: str) -> bool:
        pages = {"space": 1, "Next": 1, "Prior": -1, "Shift+space": -1}
        units = {"Down": 2, "Up": -2}
        if key in pages:
            self.text.yview_scroll(pages[key], "pages")
        elif key in units:
            self.text.yview_scroll(units[key], "units")
        elif key in ("question", "q"):
            self.close()
        else:
            return False
        return True
