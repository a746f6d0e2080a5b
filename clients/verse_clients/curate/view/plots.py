"""Small plots on a canvas, in the theme's colours: no toolkit but Tk's own."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from tkinter import Canvas, Misc

from verse_clients.curate.view import fonts
from verse_clients.curate.view.fonts import Fonts
from verse_clients.curate.view.theme import Palette
from verse_clients.decisions.journal import AcceptanceTally


class Plot(Canvas, ABC):
    """A canvas that draws itself anew when its size or the theme changes."""

    def __init__(self, master: Misc, height: int) -> None:
        """Make an empty plot; `height` is in pixels at normal type."""
        super().__init__(master, highlightthickness=0, borderwidth=0, width=10)
        self._normal_height = height
        self._palette: Palette | None = None
        self._fonts: Fonts | None = None
        self.bind("<Configure>", lambda _: self.redraw())

    def paint(self, palette: Palette, font: Fonts) -> None:
        """Take colours and sizes, and draw."""
        self._palette, self._fonts = palette, font
        self.configure(background=palette.paper, height=self.wanted_height(font))
        self.redraw()

    def wanted_height(self, font: Fonts) -> int:
        """In pixels."""
        return font.pixels(self._normal_height)

    def redraw(self) -> None:
        """Draw anew."""
        self.delete("all")
        if self._palette is not None and self._fonts is not None and self.winfo_width() > 1:
            self.draw(self._palette, self._fonts)

    @abstractmethod
    def draw(self, palette: Palette, font: Fonts) -> None:
        """Put lines and text on the canvas."""


class Shares(Plot):
    """One bar per source: how often it was accepted, with the 95 % interval."""

    def __init__(self, master: Misc, tallies: Sequence[AcceptanceTally]) -> None:
        """Make the plot for some sources."""
        super().__init__(master, 0)
        self._tallies = tallies

    def wanted_height(self, font: Fonts) -> int:
        """A row per source."""
        return self._row(font) * max(len(self._tallies), 1)

    def draw(self, palette: Palette, font: Fonts) -> None:
        """Bars of accepted and edited, a whisker for the interval."""
        small, row = font[fonts.SMALL], self._row(font)
        left = max((small.measure(tally.name) for tally in self._tallies), default=0) + 12
        right = small.measure("100 %  (000)") + 12
        width = max(self.winfo_width() - left - right, 40)
        for place, tally in enumerate(self._tallies):
            y = place * row + row / 2
            half = row * 0.28
            self.create_text(
                left - 8, y, text=tally.name, anchor="e", font=fonts.SMALL, fill=palette.ink
            )
            self.create_rectangle(
                left, y - half, left + width, y + half, fill=palette.raised, width=0
            )
            plain = width * tally.accepted / max(tally.decided, 1)
            whole = width * tally.share
            self.create_rectangle(left, y - half, left + plain, y + half, fill=palette.yes, width=0)
            self.create_rectangle(
                left + plain, y - half, left + whole, y + half, fill=palette.inserted, width=0
            )
            low, high = (left + width * end for end in tally.interval)
            self.create_line(low, y, high, y, fill=palette.ink, width=1)
            text = f"{tally.share:.0%}  ({tally.decided})"
            self.create_text(
                left + width + 8, y, text=text, anchor="w", font=fonts.SMALL, fill=palette.quiet
            )

    def _row(self, font: Fonts) -> int:
        return round(font[fonts.SMALL].metrics("linespace") * 1.7)


class Course(Plot):
    """The accepted share after each decision, as a line."""

    def __init__(self, master: Misc, shares: Sequence[float]) -> None:
        """Make the plot for shares between 0 and 1."""
        super().__init__(master, 110)
        self._shares = shares

    def draw(self, palette: Palette, font: Fonts) -> None:
        """The line over three rules: none, half, all."""
        small = font[fonts.SMALL]
        left, right = small.measure("100 %") + 12, font.pixels(10)
        top = small.metrics("linespace") / 2 + 2
        width = self.winfo_width() - left - right
        height = self.winfo_height() - 2 * top
        for share in (0.0, 0.5, 1.0):
            y = top + height * (1 - share)
            self.create_line(left, y, left + width, y, fill=palette.line)
            self.create_text(
                left - 8, y, text=f"{share:.0%}", anchor="e", font=fonts.SMALL, fill=palette.quiet
            )
        if len(self._shares) > 1:
            step = width / (len(self._shares) - 1)
            points = [
                value
                for place, share in enumerate(self._shares)
                for value in (left + place * step, top + height * (1 - share))
            ]
            self.create_line(*points, fill=palette.seal, width=max(2, font.pixels(2)))


class Columns(Plot):
    """A few named counts as columns."""

    def __init__(self, master: Misc, counts: Sequence[tuple[str, int]]) -> None:
        """Make the plot for names and their counts."""
        super().__init__(master, 120)
        self._counts = counts

    def draw(self, palette: Palette, font: Fonts) -> None:
        """Columns with their counts above and names below."""
        line = font[fonts.SMALL].metrics("linespace")
        step = self.winfo_width() / len(self._counts)
        height = self.winfo_height() - 2.4 * line
        highest = max(1, *(count for _, count in self._counts))
        for place, (name, count) in enumerate(self._counts):
            middle = step * (place + 0.5)
            base = self.winfo_height() - 1.2 * line
            top = base - height * count / highest
            half = step * 0.26
            self.create_rectangle(
                middle - half, top, middle + half, base, fill=palette.pressed, width=0
            )
            for y, text, colour in (
                (top - line / 2, str(count), palette.quiet),
                (base + line / 2, name, palette.ink),
            ):
                self.create_text(middle, y, text=text, font=fonts.SMALL, fill=colour)
