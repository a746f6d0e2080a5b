"""Typefaces: a serif for poems that has Chinese characters, and sizes that grow together."""

import sys
from collections.abc import Sequence
from tkinter import Misc
from tkinter import font as tkfont

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
