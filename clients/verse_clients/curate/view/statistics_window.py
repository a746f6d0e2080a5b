"""Figures from the decisions alone: a table, and plots drawn with Tk's own canvas."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from tkinter import Canvas, Misc, ttk

from verse.replay import Replay
from verse.terminal import counted
from verse_clients.curate import statistics
from verse_clients.curate.session import CurationSession
from verse_clients.curate.view import theme
from verse_clients.curate.view.looks import Looks
from verse_clients.curate.view.theme import Fonts, Palette
from verse_clients.curate.view.widgets import Dialog
from verse_clients.decisions.tallies import AcceptanceTally, overall


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


class AcceptanceBars(Plot):
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
        small, row = font[theme.SMALL], self._row(font)
        left = max((small.measure(tally.name) for tally in self._tallies), default=0) + 12
        right = small.measure("100 %  (000)") + 12
        width = max(self.winfo_width() - left - right, 40)
        for place, tally in enumerate(self._tallies):
            y = place * row + row / 2
            half = row * 0.28
            self.create_text(
                left - 8, y, text=tally.name, anchor="e", font=theme.SMALL, fill=palette.ink
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
                left + width + 8, y, text=text, anchor="w", font=theme.SMALL, fill=palette.quiet
            )

    def _row(self, font: Fonts) -> int:
        return round(font[theme.SMALL].metrics("linespace") * 1.7)


class ShareCurve(Plot):
    """The accepted share after each decision, as a line."""

    def __init__(self, master: Misc, shares: Sequence[float]) -> None:
        """Make the plot for shares between 0 and 1."""
        super().__init__(master, 110)
        self._shares = shares

    def draw(self, palette: Palette, font: Fonts) -> None:
        """The line over three rules: none, half, all."""
        small = font[theme.SMALL]
        left, right = small.measure("100 %") + 12, font.pixels(10)
        top = small.metrics("linespace") / 2 + 2
        width = self.winfo_width() - left - right
        height = self.winfo_height() - 2 * top
        for share in (0.0, 0.5, 1.0):
            y = top + height * (1 - share)
            self.create_line(left, y, left + width, y, fill=palette.line)
            self.create_text(
                left - 8, y, text=f"{share:.0%}", anchor="e", font=theme.SMALL, fill=palette.quiet
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
        line = font[theme.SMALL].metrics("linespace")
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
                self.create_text(middle, y, text=text, font=theme.SMALL, fill=colour)


_COLUMNS = (
    ("source", "Source", 16), ("decided", "Decided", 8), ("accepted", "Accepted", 8),
    ("edited", "Edited", 8), ("rejected", "Rejected", 8), ("share", "Share", 8),
    ("interval", "95 % interval", 13),
)  # fmt: skip
_MAX_BARS = 12
_EDIT_BINS = ((1, 5), (6, 20), (21, 60), (61, None))


class StatisticsWindow(Dialog):
    """Plots and a table; scrolls when the window is smaller than they are."""

    def __init__(self, owner: Misc, session: CurationSession, looks: Looks) -> None:
        """Show the figures of the moment."""
        super().__init__(owner, "Verse · Statistics", 880, 780)
        self._looks = looks
        self._inside = _scrolling(self, looks)
        replay = session.replay
        self._label(_summary(session), "Title.TLabel", above=18)
        if session.source_shown:
            self._by_source(replay)
        else:
            self._label("Statistics by source are hidden while you read blind.", above=18)
        self._plot(
            "Accepted share over the decisions",
            ShareCurve(self._inside, statistics.running_share(replay)),
        )
        names = [("★" * number, count) for number, count in enumerate(statistics.stars(replay), 1)]
        self._plot("Stars", Columns(self._inside, names))
        self._plot("Characters changed in edits", Columns(self._inside, _edit_bins(session)))
        looks.add(self, lambda palette, _: self.paint(palette))

    def _by_source(self, replay: Replay) -> None:
        tallies = statistics.by_source(replay)
        self._plot("Accepted by source", AcceptanceBars(self._inside, tallies[:_MAX_BARS]))
        self._label("Green: accepted as written; pale: accepted with changes; line: 95 % interval.")
        if tallies:
            self._table([*tallies, overall(replay.verdicts())])

    def _label(self, text: str, style: str = "Quiet.TLabel", above: int = 6) -> None:
        label = ttk.Label(self._inside, text=text, style=style, wraplength=780)
        label.pack(fill="x", padx=24, pady=(above, 4))
        label.bind("<Configure>", lambda e: label.configure(wraplength=max(e.width - 4, 100)))

    def _plot(self, title: str, plot: Plot) -> None:
        self._label(title, above=18)
        plot.pack(fill="x", padx=24)
        self._looks.add(plot, plot.paint)

    def _table(self, tallies: list[AcceptanceTally]) -> None:
        table = ttk.Treeview(
            self._inside, columns=[name for name, _, _ in _COLUMNS], show="headings",
            height=len(tallies), selectmode="none", takefocus=False,
        )  # fmt: skip
        zero = self._looks.fonts[theme.UI].measure("0")
        for name, title, width in _COLUMNS:
            anchor = "w" if name == "source" else "e"
            table.heading(name, text=title, anchor=anchor)
            table.column(name, width=width * zero, minwidth=4 * zero, anchor=anchor)
        for tally in tallies:
            table.insert("", "end", values=_row(tally))
        table.pack(fill="x", padx=24, pady=(10, 0))


def _summary(session: CurationSession) -> str:
    replay = session.replay
    total = overall(replay.verdicts())
    if not total.decided:
        return "No decisions yet."
    parts = [f"{total.decided} decided, {total.share:.0%} accepted"]
    same, shown = statistics.consistency(replay)
    if shown:
        parts.append(f"{same} of {counted(shown, 'repeat')} decided the same way")
    compared = sum(1 for _ in replay.pairs())
    if compared:
        parts.append(f"{counted(compared, 'pair')} compared")
    return " · ".join(parts)


def _row(tally: AcceptanceTally) -> tuple[str, ...]:
    low, high = tally.interval
    counts = (tally.decided, tally.accepted, tally.edited, tally.rejected)
    return (tally.name, *map(str, counts), f"{tally.share:.0%}", f"{low:.0%} – {high:.0%}")


def _edit_bins(session: CurationSession) -> list[tuple[str, int]]:
    distances = statistics.edit_distances(session.replay)
    return [
        (
            f"{low}–{high}" if high else f"over {low - 1}",
            sum(1 for d in distances if low <= d and (high is None or d <= high)),
        )
        for low, high in _EDIT_BINS
    ]


def _scrolling(dialog: Dialog, looks: Looks) -> ttk.Frame:
    """A frame inside the dialog that is as wide as it and as long as it likes."""
    canvas = Canvas(dialog.body, highlightthickness=0, borderwidth=0)
    bar = ttk.Scrollbar(dialog.body, orient="vertical", command=canvas.yview)  # pyright: ignore
    canvas.configure(yscrollcommand=bar.set)
    looks.add(canvas, lambda palette, _: _paint_canvas(canvas, palette))
    bar.pack(side="right", fill="y")
    canvas.pack(side="left", fill="both", expand=True)
    inside = ttk.Frame(canvas)
    window = canvas.create_window(0, 0, window=inside, anchor="nw")
    inside.bind("<Configure>", lambda _: canvas.configure(scrollregion=canvas.bbox("all")))
    canvas.bind("<Configure>", lambda event: canvas.itemconfigure(window, width=event.width))
    _scroll_by_keys(dialog, canvas)
    return inside


def _paint_canvas(canvas: Canvas, palette: Palette) -> None:
    canvas.configure(background=palette.paper)


def _scroll_by_keys(dialog: Dialog, canvas: Canvas) -> None:
    def lines(count: int) -> Callable[[object], None]:
        return lambda _: canvas.yview_scroll(count, "units")

    def pages(count: int) -> Callable[[object], None]:
        return lambda _: canvas.yview_scroll(count, "pages")

    for key, handler in (
        ("Up", lines(-2)), ("Down", lines(2)), ("Button-4", lines(-2)), ("Button-5", lines(2)),
        ("Prior", pages(-1)), ("Next", pages(1)), ("space", pages(1)),
    ):  # fmt: skip
        dialog.bind(f"<{key}>", handler)
    dialog.bind("<MouseWheel>", lambda event: canvas.yview_scroll(-event.delta // 40, "units"))
