"""Typeface, size, light or dark."""

from collections.abc import Callable
from tkinter import Misc, StringVar, ttk
from typing import cast

from verse_clients.curate.store import Appearance
from verse_clients.curate.view import fonts
from verse_clients.curate.view.flow import Flow
from verse_clients.curate.view.looks import Looks
from verse_clients.curate.view.sheet import Sheet

_APPEARANCES = (("As the desktop", "system"), ("Light", "light"), ("Dark", "dark"))
_SAMPLE = "床前明月光\n疑是地上霜"
_WIDTH, _HEIGHT = 520, 420


class TypeWindow(Sheet):
    """Every choice shows at once, here and in the window behind."""

    def __init__(self, owner: Misc, looks: Looks, set_size: Callable[[int], None]) -> None:
        """Open with what is set now."""
        font = looks.fonts
        super().__init__(owner, "Verse · Type", font.pixels(_WIDTH), font.pixels(_HEIGHT))
        self._looks, self._set_size = looks, set_size
        self._family = StringVar(self, font.family)
        self._appearance = StringVar(self, looks.appearance)
        rows = Flow(self.body, "left", gap=font.pixels(12))
        rows.pack(fill="x", padx=font.pixels(22), pady=font.pixels(18))
        rows.add(self._family_box(rows))
        rows.add(self._size_row(rows))
        rows.add(self._appearance_row(rows))
        rows.add(self._close_button(rows))
        sample = ttk.Label(self.body, text=_SAMPLE, font=fonts.POEM, anchor="center")
        sample.pack(fill="both", expand=True, pady=(0, 12))
        looks.add(self, lambda palette, _: self.paint(palette))
        self._show_size()

    def _family_box(self, master: Misc) -> ttk.Frame:
        cell = _cell(master, "Poems in")
        box = ttk.Combobox(
            cell, textvariable=self._family, values=self._looks.fonts.families, state="readonly",
            width=22, font=fonts.UI,
        )  # fmt: skip
        box.pack(side="left")
        box.bind("<<ComboboxSelected>>", lambda _: self._choose(box))
        return cell

    def _size_row(self, master: Misc) -> ttk.Frame:
        cell = _cell(master, "Size")
        for text, step in (("−", -fonts.STEP_PERCENT), ("+", fonts.STEP_PERCENT)):
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
