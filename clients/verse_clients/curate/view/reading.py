"""The poem on the page: large, in the middle, with exactly its own line breaks."""

from tkinter import Event, Misc, Text, ttk

from verse_clients.curate.view import theme
from verse_clients.curate.view.theme import Fonts, Palette

_SPACING = 0.32
"""Between lines, as a share of the type's height."""
_OPTICAL_MIDDLE = 0.42
"""A short poem stands a little above the middle, where the eye looks for it."""
_FROM_TOP = 0.1
_MIN_MARGIN = 12


class Page(ttk.Frame):
    """Shows a theme and a poem; scrolls when the poem is longer or wider than the window."""

    def __init__(
        self, master: Misc, font: Fonts, family: str = theme.POEM, *, from_top: bool = False
    ) -> None:
        """Make an empty page.

        Args:
            master: The frame it stands in.
            font: The window's fonts.
            family: Name of the one for the poem.
            from_top: Begin every poem at one height, so that two pages can be compared.
        """
        super().__init__(master)
        self._fonts = font
        self._family = family
        self._from_top = from_top
        self._theme, self._poem, self._marked = "", "", (0, 0)
        self.text = Text(
            self, wrap="none", font=family, borderwidth=0, highlightthickness=0, cursor="arrow",
            takefocus=False, state="disabled", padx=0, pady=0, width=1, height=1,
        )  # fmt: skip
        self._build_scrolling()
        self.text.bind("<Configure>", self._on_resize)
        self._size = (0, 0)

    def show(self, theme: str, poem: str, marked: tuple[int, int] = (0, 0)) -> None:
        """Show a poem from its first line.

        Args:
            theme: Above the poem, small.
            poem: As written.
            marked: Start and end of the characters to underline.
        """
        self._theme, self._poem, self._marked = theme, poem, marked
        self._fill()
        self.text.yview_moveto(0)
        self.text.xview_moveto(0)

    def paint(self, palette: Palette) -> None:
        """Take the theme's colours."""
        self.text.configure(
            background=palette.paper,
            foreground=palette.ink,
            selectbackground=palette.selected,
            selectforeground=palette.ink,
            inactiveselectbackground=palette.selected,
        )
        self.text.tag_configure("theme", foreground=palette.quiet, font=theme.THEME)
        self.text.tag_configure("copied", underline=True, underlinefg=palette.seal)
        self._fill()

    def scroll(self, lines: int) -> None:
        """Scroll down, or up if negative."""
        self.text.yview_scroll(lines, "units")

    def scroll_side(self, columns: int) -> None:
        """Scroll right, or left if negative."""
        self.text.xview_scroll(columns, "units")

    def scroll_page(self, pages: int) -> None:
        """Scroll by what the window shows."""
        self.text.yview_scroll(pages, "pages")

    def _build_scrolling(self) -> None:
        self.rowconfigure(0, weight=1)
        self.columnconfigure(0, weight=1)
        self.text.grid(row=0, column=0, sticky="nsew")
        for orient, place in (("vertical", (0, 1, "ns")), ("horizontal", (1, 0, "ew"))):
            scroll_by_bar(self, self.text, vertical=orient == "vertical", place=place)

    def _on_resize(self, event: "Event[Misc]") -> None:
        if (event.width, event.height) != self._size:
            self._size = (event.width, event.height)
            self._fill()

    def _fill(self) -> None:
        start, end = self._marked
        self.text.configure(state="normal")
        self.text.delete("1.0", "end")
        self.text.insert("end", f"{self._theme}\n", "theme", self._poem[:start], "poem")
        self.text.insert("end", self._poem[start:end], ("poem", "copied"))
        self.text.insert("end", self._poem[end:], "poem")
        self.text.configure(state="disabled")
        self._lay_out()

    def _lay_out(self) -> None:
        """Put the poem in the middle as one block, so that indents keep their meaning."""
        poem, title = self._fonts[self._family], self._fonts[theme.THEME]
        width, height = self.text.winfo_width(), self.text.winfo_height()
        lines = self._poem.split("\n")
        block = max(poem.measure(line) for line in lines)
        between = round(poem.metrics("linespace") * _SPACING)
        gap = round(title.metrics("linespace") * 1.2)
        used = title.metrics("linespace") + gap + len(lines) * (poem.metrics("linespace") + between)
        free = height * _FROM_TOP if self._from_top else (height - used) * _OPTICAL_MIDDLE
        above = max(round(free), self._fonts.pixels(_MIN_MARGIN))
        margin = max((width - block) // 2, self._fonts.pixels(_MIN_MARGIN))
        theme_margin = max((width - title.measure(self._theme)) // 2, 0)
        self.text.tag_configure("poem", lmargin1=margin, spacing3=between)
        self.text.tag_configure("theme", lmargin1=theme_margin, spacing1=above, spacing3=gap)


def scroll_by_bar(
    frame: ttk.Frame, text: Text, *, vertical: bool, place: tuple[int, int, str]
) -> None:
    """Give a text a scroll bar that is only there when there is something to scroll."""
    bar = ttk.Scrollbar(
        frame,
        orient="vertical" if vertical else "horizontal",
        command=text.yview if vertical else text.xview,  # pyright: ignore
    )
    row, column, sticky = place
    bar.grid(row=row, column=column, sticky=sticky)

    def on_scroll(first: float, last: float) -> None:
        bar.set(first, last)
        # Tk hands over text, whatever the stubs say.
        if float(first) <= 0 and float(last) >= 1:
            bar.grid_remove()
        else:
            bar.grid()

    if vertical:
        text.configure(yscrollcommand=on_scroll)
    else:
        text.configure(xscrollcommand=on_scroll)
