"""A row of widgets that breaks into more rows when the window is too narrow for it."""

from collections.abc import Callable
from tkinter import Misc, Widget, ttk
from typing import Literal

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
