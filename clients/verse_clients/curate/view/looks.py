"""How the windows look: palette, type, and everybody who has to know when one changes."""

from collections.abc import Callable
from tkinter import Misc

from verse_clients.curate.store import Appearance
from verse_clients.curate.view import hints, theme
from verse_clients.curate.view.appearance import system_is_dark
from verse_clients.curate.view.fonts import Fonts
from verse_clients.curate.view.theme import DARK, LIGHT, Palette

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
        hints.paint_all(self.palette)
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
