"""All colours, typefaces and widget styles. No other file of the view names a colour.

Poems are set in a serif that has Chinese characters; all sizes grow together.
"""

import sys
from collections.abc import Sequence
from tkinter import Misc, ttk
from tkinter import font as tkfont
from typing import NamedTuple

_SERIF = (
    "Noto Serif CJK SC", "Source Han Serif SC", "Source Han Serif CN", "Songti SC", "STSong",
    "Noto Serif SC", "AR PL UMing CN", "AR PL SungtiL GB", "SimSun", "NSimSun", "KaiTi", "Kaiti SC",
    "AR PL UKai CN", "AR PL KaitiM GB", "cwTeXMing", "LXGW WenKai",
)  # fmt: skip
_OTHER = (
    "Noto Sans CJK SC", "PingFang SC", "Source Han Sans SC", "Source Han Sans CN",
    "Hiragino Sans GB", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Microsoft YaHei", "Heiti SC",
    "Droid Sans Fallback",
)  # fmt: skip
_UI = ("Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", "WenQuanYi Micro Hei", "DejaVu Sans")
_POINTS = {
    "VersePoem": 24, "VerseTheme": 15, "VerseUi": 11, "VerseSmall": 10, "VerseEdit": 18,
}  # fmt: skip
MIN_PERCENT, MAX_PERCENT, STEP_PERCENT = 50, 300, 10

POEM, THEME, UI, SMALL, EDIT = _POINTS


def chinese_families(root: Misc) -> list[str]:
    """Installed families that can set a Chinese poem, serifs first."""
    installed = set(tkfont.families(root))
    return [family for family in (*_SERIF, *_OTHER) if family in installed]


def missing_font_notice(families: Sequence[str]) -> str | None:
    """One line that names what to install; None when there is a serif."""
    if any(family in _SERIF for family in families):
        return None
    what = "typeface with Chinese characters" if not families else "Chinese serif"
    if sys.platform == "darwin":
        return f"No {what} is installed; switch on Songti SC in Font Book."
    return f"No {what} is installed; install fonts-noto-cjk (or the smaller fonts-arphic-uming)."


class Fonts:
    """The window's named fonts; changing one changes every widget that uses it."""

    def __init__(self, root: Misc, family: str, percent: int) -> None:
        """Make the fonts.

        Args:
            root: Any widget of the window.
            family: The poems' family; the best one installed if empty or not there.
            percent: Size of all type.
        """
        self.families = chinese_families(root)
        self._fonts = {name: tkfont.Font(root=root, name=name) for name in _POINTS}
        ui = next((f for f in _UI if f in set(tkfont.families(root))), None)
        self._ui = ui or str(tkfont.nametofont("TkDefaultFont", root).actual("family"))
        self.percent = percent
        self.choose(family)

    def choose(self, family: str) -> None:
        """Set the poems in another family."""
        known = family if family in self.families else next(iter(self.families), "")
        self.family = known or "TkDefaultFont"
        for name, font in self._fonts.items():
            serif = name in (POEM, THEME, EDIT)
            font.configure(family=self.family if serif else self._ui)
        self.scale(self.percent)

    def scale(self, percent: int) -> None:
        """Set the size of the poems; what stands around them grows half as fast."""
        self.percent = min(max(percent, MIN_PERCENT), MAX_PERCENT)
        for name, points in _POINTS.items():
            share: float = self.percent if name in (POEM, THEME, EDIT) else self._around
            self._fonts[name].configure(size=round(points * share / 100))

    def pixels(self, amount: float) -> int:
        """A distance that grows with the type."""
        return round(amount * self._around / 100)

    @property
    def _around(self) -> float:
        """Percent for all that is not poem: half as far from normal, to leave the poem its room."""
        return 100 + (self.percent - 100) / 2

    def __getitem__(self, name: str) -> tkfont.Font:
        return self._fonts[name]


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
        font=UI,
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
        font=SMALL,
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
        font=SMALL,
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
    style.configure("Quiet.TLabel", foreground=palette.quiet, font=SMALL)
    style.configure("Stars.TLabel", foreground=palette.seal, font=UI)
    style.configure("Title.TLabel", font=THEME)
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
            foreground=[("disabled", palette.quiet), ("readonly", palette.ink)],
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
        rowheight=font[UI].metrics("linespace") + font.pixels(8),
    )
    style.configure(
        "Treeview.Heading",
        background=palette.paper,
        foreground=palette.quiet,
        font=SMALL,
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
        ("font", UI),
    ):
        root.tk.call("option", "add", f"*TCombobox*Listbox.{option}", value)
