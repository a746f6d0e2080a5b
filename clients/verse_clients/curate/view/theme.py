"""All colours and all widget styles. No other file of the view names a colour."""

from tkinter import Misc, ttk
from typing import NamedTuple

from verse_clients.curate.view import fonts
from verse_clients.curate.view.fonts import Fonts


class Palette(NamedTuple):
    """Colours by what they are for."""

    paper: str
    """Behind everything."""
    raised: str
    """Buttons and fields."""
    pressed: str
    line: str
    ink: str
    quiet: str
    """Text that may be overlooked."""
    seal: str
    """The one accent, the red of a name seal."""
    on_seal: str
    yes: str
    no: str
    inserted: str
    """Behind characters that the poet added."""
    deleted: str
    """Behind characters that the poet took out."""
    selected: str


LIGHT = Palette(
    paper="#fbf8f1", raised="#f1ebde", pressed="#e6ddca", line="#ddd4c2", ink="#25211b",
    quiet="#766d5e", seal="#9c3a2a", on_seal="#fffaf3", yes="#356048", no="#93402f",
    inserted="#d5e6d3", deleted="#f2d5cc", selected="#ead9b5",
)  # fmt: skip
DARK = Palette(
    paper="#1b1a18", raised="#292723", pressed="#37342e", line="#3b3731", ink="#e7dfd1",
    quiet="#9b9181", seal="#c8684f", on_seal="#1b1411", yes="#8fbd9b", no="#d98f7c",
    inserted="#2c4633", deleted="#5a2f27", selected="#544626",
)  # fmt: skip


def apply(root: Misc, palette: Palette, font: Fonts) -> None:
    """Give every ttk widget its colours, and the type its distances."""
    style = ttk.Style(root)
    style.theme_use("clam")
    style.configure(
        ".",
        background=palette.paper,
        foreground=palette.ink,
        fieldbackground=palette.raised,
        bordercolor=palette.line,
        lightcolor=palette.line,
        darkcolor=palette.line,
        troughcolor=palette.raised,
        arrowcolor=palette.quiet,
        insertcolor=palette.ink,
        selectbackground=palette.selected,
        selectforeground=palette.ink,
        focuscolor=palette.seal,
        font=fonts.UI,
    )
    _buttons(style, palette, font)
    _labels(style, palette, font)
    _fields(style, palette, font)
    _table(style, palette, font)
    _list_box(root, palette)


def _buttons(style: ttk.Style, palette: Palette, font: Fonts) -> None:
    style.configure(
        "TButton",
        background=palette.raised,
        foreground=palette.ink,
        borderwidth=1,
        relief="flat",
        padding=(font.pixels(14), font.pixels(7)),
        anchor="center",
        width=-4,
    )
    _states(style, "TButton", palette.pressed, palette)
    for name, colour in (("Yes", palette.yes), ("No", palette.no)):
        style.configure(f"{name}.TButton", foreground=colour)
    style.configure("Main.TButton", background=palette.seal, foreground=palette.on_seal)
    _states(style, "Main.TButton", palette.no, palette)
    style.configure(
        "Quiet.TButton",
        background=palette.paper,
        bordercolor=palette.paper,
        lightcolor=palette.paper,
        darkcolor=palette.paper,
        foreground=palette.quiet,
        font=fonts.SMALL,
        padding=(font.pixels(7), font.pixels(4)),
    )
    _states(style, "Quiet.TButton", palette.raised, palette)
    style.configure(
        "Star.TButton",
        background=palette.paper,
        bordercolor=palette.paper,
        lightcolor=palette.paper,
        darkcolor=palette.paper,
        foreground=palette.seal,
        padding=(font.pixels(2), 0),
        width=2,
    )
    style.configure(
        "Badge.TButton",
        foreground=palette.seal,
        font=fonts.SMALL,
        padding=(font.pixels(9), font.pixels(3)),
    )


def _states(style: ttk.Style, name: str, active: str, palette: Palette) -> None:
    style.map(
        name,
        background=[("disabled", palette.paper), ("pressed", active), ("active", active)],
        foreground=[("disabled", palette.line)],
        bordercolor=[("focus", palette.seal)],
    )


def _labels(style: ttk.Style, palette: Palette, font: Fonts) -> None:
    style.configure("Quiet.TLabel", foreground=palette.quiet, font=fonts.SMALL)
    style.configure("Stars.TLabel", foreground=palette.seal, font=fonts.UI)
    style.configure("Title.TLabel", font=fonts.THEME)
    style.configure(
        "Banner.TLabel",
        background=palette.raised,
        foreground=palette.seal,
        padding=(font.pixels(16), font.pixels(8)),
    )
    style.configure("Rest.TFrame", background=palette.line)
    style.configure("Done.TFrame", background=palette.seal)


def _fields(style: ttk.Style, palette: Palette, font: Fonts) -> None:
    for name in ("TEntry", "TCombobox", "TSpinbox"):
        style.configure(name, padding=font.pixels(4), foreground=palette.ink)
        style.map(
            name,
            fieldbackground=[("readonly", palette.raised)],
            foreground=[("readonly", palette.ink)],
            background=[("active", palette.pressed)],
            bordercolor=[("focus", palette.seal)],
        )
    style.configure("TCombobox", background=palette.raised, arrowsize=font.pixels(14))
    style.configure("TRadiobutton", indicatorsize=font.pixels(12), padding=font.pixels(4))
    style.configure(
        "TRadiobutton", indicatorbackground=palette.raised, indicatorforeground=palette.seal
    )
    style.map(
        "TRadiobutton",
        background=[("active", palette.raised)],
        indicatorbackground=[("pressed", palette.pressed)],
    )
    for name in ("Vertical.TScrollbar", "Horizontal.TScrollbar"):
        style.configure(
            name,
            background=palette.pressed,
            troughcolor=palette.paper,
            bordercolor=palette.paper,
            gripcount=0,
            arrowsize=font.pixels(11),
        )
        style.map(name, background=[("disabled", palette.paper), ("active", palette.quiet)])


def _table(style: ttk.Style, palette: Palette, font: Fonts) -> None:
    style.configure(
        "Treeview",
        background=palette.paper,
        fieldbackground=palette.paper,
        foreground=palette.ink,
        bordercolor=palette.paper,
        rowheight=font[fonts.UI].metrics("linespace") + font.pixels(8),
    )
    style.configure(
        "Treeview.Heading",
        background=palette.paper,
        foreground=palette.quiet,
        font=fonts.SMALL,
        relief="flat",
    )
    style.map("Treeview.Heading", background=[("active", palette.paper)])
    style.map("Treeview", background=[("selected", palette.selected)])


def _list_box(root: Misc, palette: Palette) -> None:
    """A combobox opens a classic list, which ttk styles do not reach."""
    for option, value in (
        ("background", palette.raised),
        ("foreground", palette.ink),
        ("selectBackground", palette.selected),
        ("selectForeground", palette.ink),
        ("font", fonts.UI),
    ):
        root.tk.call("option", "add", f"*TCombobox*Listbox.{option}", value)
