"""The poet's version beside the original, with every difference marked."""

from collections.abc import Callable
from tkinter import Event, Misc, TclError, Text, ttk

from verse.decision_journal import edit_distance
from verse_clients.curate.keymap import show_key
from verse_clients.curate.view import theme
from verse_clients.curate.view.reading import scroll_by_bar
from verse_clients.curate.view.theme import Fonts, Palette
from verse_clients.curate.view.widgets import Flow, Hint
from verse_clients.curate.wording import difference

_QUIET_MS = 120
"""The difference follows the typing at this distance."""


class Editor(ttk.Frame):
    """Two columns: what changes, and the text to type in."""

    def __init__(
        self,
        master: Misc,
        *,
        save: Callable[[str], None],
        leave: Callable[[], None],
        changed: Callable[[str], None],
    ) -> None:
        """Make an empty editor.

        Args:
            master: The frame it stands in.
            save: Called with the poet's version.
            leave: Called when the poet gives up the changes.
            changed: Called with every new state of the text.
        """
        super().__init__(master)
        self._save, self._leave, self._changed = save, leave, changed
        self._original = ""
        self._waiting: str | None = None
        self._columns()
        self._buttons()
        self._bind()

    def open(self, theme: str, original: str, text: str) -> None:
        """Start from a text that may already differ from the original."""
        self._original = original
        self._theme.configure(text=theme)
        self.text.delete("1.0", "end")
        self.text.insert("1.0", text)
        self.text.edit_reset()
        self.text.edit_modified(False)
        self.text.mark_set("insert", "1.0")
        self._show_difference()
        self.text.focus_set()

    def paint(self, palette: Palette, font: Fonts) -> None:
        """Take the theme's colours and distances."""
        for widget in (self.text, self.changes):
            widget.configure(
                background=palette.paper if widget is self.changes else palette.raised,
                foreground=palette.ink,
                insertbackground=palette.seal,
                selectbackground=palette.selected,
                selectforeground=palette.ink,
                insertwidth=max(2, font.pixels(2)),
                spacing3=font.pixels(8),
                padx=font.pixels(18),
                pady=font.pixels(14),
            )
        self.changes.tag_configure("same", foreground=palette.ink)
        self.changes.tag_configure("inserted", background=palette.inserted, foreground=palette.ink)
        self.changes.tag_configure(
            "deleted", background=palette.deleted, foreground=palette.quiet, overstrike=True
        )

    def _columns(self) -> None:
        self.rowconfigure(2, weight=1)
        self.columnconfigure((0, 1), weight=1, uniform="half")
        self._theme = ttk.Label(self, style="Quiet.TLabel", font=theme.THEME, anchor="center")
        self._theme.grid(row=0, column=0, columnspan=2, pady=(8, 6))
        self._count = ttk.Label(self, style="Quiet.TLabel")
        self._count.grid(row=1, column=0, sticky="w", padx=20, pady=(0, 4))
        ttk.Label(self, text="Your version", style="Quiet.TLabel").grid(
            row=1, column=1, sticky="w", padx=20, pady=(0, 4)
        )
        self.changes, self.text = self._text(0), self._text(1)
        self.changes.configure(state="disabled", takefocus=False, cursor="arrow")
        self.text.configure(undo=True, maxundo=-1, autoseparators=True)

    def _text(self, column: int) -> Text:
        frame = ttk.Frame(self)
        frame.grid(row=2, column=column, sticky="nsew", padx=(16, 8) if not column else (8, 16))
        frame.rowconfigure(0, weight=1)
        frame.columnconfigure(0, weight=1)
        text = Text(
            frame, wrap="none", font=theme.EDIT, borderwidth=0, highlightthickness=0, width=1,
            height=1,
        )  # fmt: skip
        text.grid(row=0, column=0, sticky="nsew")
        scroll_by_bar(frame, text, vertical=True, place=(0, 1, "ns"))
        scroll_by_bar(frame, text, vertical=False, place=(1, 0, "ew"))
        return text

    def _buttons(self) -> None:
        row = Flow(self, "center")
        row.grid(row=3, column=0, columnspan=2, sticky="ew", padx=16, pady=(12, 4))
        for text, style, command, hint in (
            (f"Save and accept ({show_key('Mod+Return')})", "Main.TButton", self.save,
             "Accept your version and go on."),
            ("Start over", "TButton", self._start_again, "Restore the original."),
            ("Cancel (Esc)", "TButton", self._leave,
             "Discard your changes; the poem stays undecided."),
        ):  # fmt: skip
            button = ttk.Button(row, text=text, style=style, command=command, takefocus=False)
            row.add(button)
            Hint(button, hint)

    def _bind(self) -> None:
        for key in ("<Control-Return>", "<Control-KP_Enter>", "<Command-Return>"):
            try:
                self.text.bind(key, self._on_save)
            except TclError:  # there is no Command key here
                continue
        self.text.bind("<Escape>", self._on_escape)
        self.text.bind("<Control-a>", self._select_all)
        self.text.bind("<<Paste>>", self._replace_selection, add="+")
        self.text.bind("<<Modified>>", self._on_modified)

    def save(self) -> None:
        """Hand over what stands in the editor."""
        self._save(self._content())

    def _content(self) -> str:
        return self.text.get("1.0", "end-1c")

    def _start_again(self) -> None:
        self.text.delete("1.0", "end")
        self.text.insert("1.0", self._original)
        self.text.focus_set()

    def _on_save(self, _: "Event[Misc]") -> str:
        self.save()
        return "break"

    def _on_escape(self, _: "Event[Misc]") -> str:
        self._leave()
        return "break"

    def _select_all(self, _: "Event[Misc]") -> str:
        self.text.tag_add("sel", "1.0", "end-1c")
        return "break"

    def _replace_selection(self, _: "Event[Misc]") -> None:
        """On X11 pasting would leave the selected text beside the pasted one."""
        if self.text.tag_ranges("sel"):
            self.text.delete("sel.first", "sel.last")

    def _on_modified(self, _: "Event[Misc]") -> None:
        if not self.text.edit_modified():
            return
        self.text.edit_modified(False)
        if self._waiting is not None:
            self.after_cancel(self._waiting)
        self._waiting = self.after(_QUIET_MS, self._follow)

    def _follow(self) -> None:
        self._waiting = None
        if self.winfo_ismapped():
            self._show_difference()
            self._changed(self._content())

    def _show_difference(self) -> None:
        content = self._content()
        distance = edit_distance(self._original, content)
        self._count.configure(text=_characters(distance))
        self.changes.configure(state="normal")
        self.changes.delete("1.0", "end")
        for piece in difference(self._original, content):
            self.changes.insert("end", _visible(piece.text, piece.change), piece.change)
        self.changes.configure(state="disabled")


def _characters(distance: int) -> str:
    if not distance:
        return "No changes yet"
    return f"{distance} character{'s' * (distance > 1)} changed"


def _visible(text: str, change: str) -> str:
    """A line break that came or went must be seen; one that went must not break the line."""
    if change == "deleted":
        return text.replace("\n", "⏎")
    return text.replace("\n", "⏎\n") if change == "inserted" else text
