"""How the poems fare, from the decisions alone."""

from collections.abc import Callable
from tkinter import Canvas, Misc, ttk

from verse_clients.curate import statistics
from verse_clients.curate.session import CurationSession
from verse_clients.curate.view import fonts
from verse_clients.curate.view.looks import Looks
from verse_clients.curate.view.plots import Columns, Course, Plot, Shares
from verse_clients.curate.view.sheet import Sheet
from verse_clients.curate.view.theme import Palette
from verse_clients.decisions.journal import AcceptanceTally, Replay, overall

_COLUMNS = (
    ("source", "Source", 16), ("decided", "Decided", 8), ("accepted", "Accepted", 8),
    ("edited", "Edited", 8), ("rejected", "Rejected", 8), ("share", "Share", 8),
    ("interval", "95 % interval", 13),
)  # fmt: skip
_MAX_BARS = 12
_EDIT_BINS = ((1, 5), (6, 20), (21, 60), (61, None))


class StatisticsWindow(Sheet):
    """Plots and a table; scrolls when the window is smaller than they are."""

    def __init__(self, owner: Misc, session: CurationSession, looks: Looks) -> None:
        """Show the figures of the moment."""
        super().__init__(owner, "Verse · Figures", 880, 780)
        self._looks = looks
        self._inside = _scrolling(self, looks)
        replay = session.replay
        self._label(_summary(session), "Title.TLabel", above=18)
        if session.source_shown:
            self._by_source(replay)
        else:
            self._label("Figures by source are hidden while sources are.", above=18)
        self._plot(
            "Accepted share over the decisions",
            Course(self._inside, statistics.running_share(replay)),
        )
        names = [("★" * number, count) for number, count in enumerate(statistics.stars(replay), 1)]
        self._plot("Stars", Columns(self._inside, names))
        self._plot("Characters changed in edits", Columns(self._inside, _edit_bins(session)))
        looks.add(self, lambda palette, _: self.paint(palette))

    def _by_source(self, replay: Replay) -> None:
        tallies = statistics.by_source(replay)
        self._plot("Accepted by source", Shares(self._inside, tallies[:_MAX_BARS]))
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
        zero = self._looks.fonts[fonts.UI].measure("0")
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
        return "Nothing is decided yet."
    parts = [f"{total.decided} decided, {total.share:.0%} accepted"]
    same, shown = statistics.consistency(replay)
    if shown:
        parts.append(f"{same} of {shown} repeats decided alike")
    compared = sum(1 for _ in replay.pairs())
    if compared:
        parts.append(f"{compared} pairs compared")
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


def _scrolling(sheet: Sheet, looks: Looks) -> ttk.Frame:
    """A frame inside the sheet that is as wide as it and as long as it likes."""
    canvas = Canvas(sheet.body, highlightthickness=0, borderwidth=0)
    bar = ttk.Scrollbar(sheet.body, orient="vertical", command=canvas.yview)  # pyright: ignore
    canvas.configure(yscrollcommand=bar.set)
    looks.add(canvas, lambda palette, _: _paint_canvas(canvas, palette))
    bar.pack(side="right", fill="y")
    canvas.pack(side="left", fill="both", expand=True)
    inside = ttk.Frame(canvas)
    window = canvas.create_window(0, 0, window=inside, anchor="nw")
    inside.bind("<Configure>", lambda _: canvas.configure(scrollregion=canvas.bbox("all")))
    canvas.bind("<Configure>", lambda event: canvas.itemconfigure(window, width=event.width))
    _scroll_by_keys(sheet, canvas)
    return inside


def _paint_canvas(canvas: Canvas, palette: Palette) -> None:
    canvas.configure(background=palette.paper)


def _scroll_by_keys(sheet: Sheet, canvas: Canvas) -> None:
    def lines(count: int) -> Callable[[object], None]:
        return lambda _: canvas.yview_scroll(count, "units")

    def pages(count: int) -> Callable[[object], None]:
        return lambda _: canvas.yview_scroll(count, "pages")

    for key, handler in (
        ("Up", lines(-2)), ("Down", lines(2)), ("Button-4", lines(-2)), ("Button-5", lines(2)),
        ("Prior", pages(-1)), ("Next", pages(1)), ("space", pages(1)),
    ):  # fmt: skip
        sheet.bind(f"<{key}>", handler)
    sheet.bind("<MouseWheel>", lambda event: canvas.yview_scroll(-event.delta // 40, "units"))
