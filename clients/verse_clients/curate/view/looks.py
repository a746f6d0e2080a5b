"""How the windows look: palette, type, and everybody who has to know when one changes."""

import subprocess
import sys
from collections.abc import Callable
from tkinter import Misc

from verse_clients.curate import Appearance
from verse_clients.curate.view import theme
from verse_clients.curate.view.theme import DARK, LIGHT, Fonts, Palette
from verse_clients.curate.view.widgets import paint_hints

if sys.platform == "darwin":
    _QUESTION = ("defaults", "read", "-g", "AppleInterfaceStyle")
else:
    _QUESTION = ("gsettings", "get", "org.gnome.desktop.interface", "color-scheme")


def system_is_dark(seconds: float = 0.5) -> bool:
    """Ask once; a desktop that cannot be asked counts as light."""
    try:
        answer = subprocess.run(
            _QUESTION, capture_output=True, text=True, timeout=seconds, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return "dark" in answer.stdout.lower()


Painter = Callable[[Palette, Fonts], None]


class Looks:
    """Palette and fonts of one program run."""

    def __init__(self, root: Misc, appearance: Appearance, family: str, percent: int) -> None:
        """Nothing is painted before `paint`."""
        self.appearance: Appearance = appearance
        self.fonts = Fonts(root, family, percent)
        self._root = root
        self._painters: list[tuple[Misc, Painter]] = []
        self._system_dark = system_is_dark() if appearance == "system" else False

    @property
    def palette(self) -> Palette:
        """The colours of the moment."""
        dark = self._system_dark if self.appearance == "system" else self.appearance == "dark"
        return DARK if dark else LIGHT

    def add(self, widget: Misc, painter: Painter) -> None:
        """Paint a widget now and at every change, for as long as it exists."""
        self._painters.append((widget, painter))
        painter(self.palette, self.fonts)

    def paint(self) -> None:
        """Give everything its colours and distances."""
        theme.apply(self._root, self.palette, self.fonts)
        paint_hints(self.palette)
        self._painters = [(w, paint) for w, paint in self._painters if w.winfo_exists()]
        for _, painter in self._painters:
            painter(self.palette, self.fonts)

    def choose(self, appearance: Appearance) -> None:
        """Light, dark, or as the desktop is."""
        self.appearance = appearance
        if appearance == "system":
            self._system_dark = system_is_dark()
        self.paint()

    def follow_system(self, dark: bool) -> None:
        """The desktop was asked again."""
        if self.appearance == "system" and dark != self._system_dark:
            self._system_dark = dark
            self.paint()

    def scale(self, percent: int) -> None:
        """Set the size of all type."""
        self.fonts.scale(percent)
        self.paint()

    def choose_family(self, family: str) -> None:
        """Set the poems in another typeface."""
        self.fonts.choose(family)
        self.paint()
