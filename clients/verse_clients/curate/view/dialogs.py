"""The two small windows: all keys, whatever a tooltip says included, and the choice of type."""

from collections.abc import Callable
from tkinter import Misc, StringVar, Text, ttk
from typing import cast

from verse_clients.curate import Appearance
from verse_clients.curate.keymap import ACTIONS, Keymap, default_path, show_key
from verse_clients.curate.view import theme
from verse_clients.curate.view.looks import Looks
from verse_clients.curate.view.reading import scroll_by_bar
from verse_clients.curate.view.theme import Fonts, Palette
from verse_clients.curate.view.widgets import Dialog, Flow, bind_keys

_WHILE_EDITING = (
    ("Mod+Return", "Save your version and accept it."),
    ("Escape", "Cancel without saving."),
    ("Mod+z", "Undo typing."),
)
_PARTS = (
    ("Reading", "↑ ↓ Space", "Scroll a long poem; Shift+← and Shift+→ scroll a wide one."),
    ("Pairs", "← → ↓ x", "Left, right, tie, both bad."),
)


class HelpWindow(Dialog):
    """A table of keys that scrolls."""

    def __init__(self, owner: Misc, keymap: Keymap, looks: Looks) -> None:
        """Show the keys as the poet set them."""
        super().__init__(owner, "Verse · Keys", 680, 780)
        self.body.rowconfigure(0, weight=1)
        self.body.columnconfigure(0, weight=1)
        self.text = Text(
            self.body, wrap="word", font=theme.UI, borderwidth=0, highlightthickness=0,
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
        column = font[theme.UI].measure("Ctrl+Shift+Z  Ctrl+Y  Y") + font.pixels(24)
        self.text.configure(background=palette.paper, foreground=palette.ink, tabs=(column,))
        self.text.tag_configure("title", font=theme.THEME, foreground=palette.quiet, spacing1=14)
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


_APPEARANCES = (("System", "system"), ("Light", "light"), ("Dark", "dark"))
_SAMPLE = "床前明月光\n疑是地上霜"
_WIDTH, _HEIGHT = 520, 420


class TypeWindow(Dialog):
    """Every choice shows at once, here and in the window behind."""

    def __init__(self, owner: Misc, looks: Looks, set_size: Callable[[int], None]) -> None:
        """Open with what is set now."""
        font = looks.fonts
        super().__init__(owner, "Verse · Font", font.pixels(_WIDTH), font.pixels(_HEIGHT))
        self._looks, self._set_size = looks, set_size
        self._family = StringVar(self, font.family)
        self._appearance = StringVar(self, looks.appearance)
        rows = Flow(self.body, "left", gap=font.pixels(12))
        rows.pack(fill="x", padx=font.pixels(22), pady=font.pixels(18))
        rows.add(self._family_box(rows))
        rows.add(self._size_row(rows))
        rows.add(self._appearance_row(rows))
        rows.add(self._close_button(rows))
        sample = ttk.Label(self.body, text=_SAMPLE, font=theme.POEM, anchor="center")
        sample.pack(fill="both", expand=True, pady=(0, 12))
        looks.add(self, lambda palette, _: self.paint(palette))
        self._show_size()

    def _family_box(self, master: Misc) -> ttk.Frame:
        cell = _cell(master, "Font")
        box = ttk.Combobox(
            cell, textvariable=self._family, values=self._looks.fonts.families, state="readonly",
            width=22, font=theme.UI,
        )  # fmt: skip
        box.pack(side="left")
        box.bind("<<ComboboxSelected>>", lambda _: self._choose(box))
        return cell

    def _size_row(self, master: Misc) -> ttk.Frame:
        cell = _cell(master, "Size")
        for text, step in (("−", -theme.STEP_PERCENT), ("+", theme.STEP_PERCENT)):
            ttk.Button(
                cell, text=text, width=3, takefocus=False, command=lambda step=step: self._add(step)
            ).pack(side="left", padx=2)
        self._size = ttk.Label(cell, anchor="center", width=6)
        self._size.pack(side="left")
        return cell

    def _appearance_row(self, master: Misc) -> ttk.Frame:
        cell = ttk.Frame(master)
        for text, value in _APPEARANCES:
            ttk.Radiobutton(
                cell, text=text, value=value, variable=self._appearance,
                command=lambda: self._looks.choose(cast("Appearance", self._appearance.get())),
            ).pack(anchor="w")  # fmt: skip
        return cell

    def _close_button(self, master: Misc) -> ttk.Button:
        return ttk.Button(master, text="Close (Esc)", command=self.close, takefocus=False)

    def _choose(self, box: ttk.Combobox) -> None:
        box.selection_clear()
        self._looks.choose_family(self._family.get())
        self._set_size(self._looks.fonts.percent)

    def _add(self, step: int) -> None:
        self._set_size(self._looks.fonts.percent + step)
        self._show_size()

    def _show_size(self) -> None:
        self._size.configure(text=f"{self._looks.fonts.percent} %")


def _cell(master: Misc, label: str) -> ttk.Frame:
    cell = ttk.Frame(master)
    ttk.Label(cell, text=label, style="Quiet.TLabel").pack(side="left", padx=(0, 8))
    return cell
