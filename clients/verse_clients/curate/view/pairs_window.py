"""Two poems on one theme, side by side: which is the better one?"""

import random
from collections.abc import Callable
from tkinter import Misc, ttk

from verse.terminal import counted
from verse_clients.curate.app import CurationApp
from verse_clients.curate.order import Pair, next_pair
from verse_clients.curate.session import PairVerdict
from verse_clients.curate.view import theme
from verse_clients.curate.view.looks import Looks
from verse_clients.curate.view.reading import Page
from verse_clients.curate.view.widgets import Dialog, Flow, Hint, bind_keys

_CHOICES: tuple[tuple[str, str, PairVerdict, str], ...] = (
    ("Left", "Left is better (←)", "left", "The left one is better."),
    ("Down", "Tie (↓)", "tie", "Both are equally good."),
    ("x", "Both bad (x)", "both_bad", "Neither is worth learning from."),
    ("Right", "Right is better (→)", "right", "The right one is better."),
)
_BY_KEY: dict[str, PairVerdict] = {key: verdict for key, _, verdict, _ in _CHOICES}
_SCROLL = {"Prior": -1, "Next": 1, "space": 1, "Shift+space": -1}


class PairsWindow(Dialog):
    """Shows pair after pair until all are compared; each answer is saved before the next pair."""

    def __init__(
        self, owner: Misc, app: CurationApp, looks: Looks, changed: Callable[[], object]
    ) -> None:
        """Open with the next pair; `changed` is called after every answer."""
        super().__init__(owner, "Verse · Pairs", 1080, 760)
        self._app, self._changed = app, changed
        self._rng = random.Random()
        self._pair: Pair | None = None
        self._back: list[Pair] = []
        self._note = ttk.Label(self.body, style="Quiet.TLabel", anchor="center")
        self._note.pack(fill="x", pady=(12, 0), padx=16)
        # The buttons come first, so that a small window takes room from the poems, not from them.
        self._buttons()
        columns = ttk.Frame(self.body)
        columns.pack(fill="both", expand=True, padx=8)
        columns.rowconfigure(0, weight=1)
        columns.columnconfigure((0, 2), weight=1, uniform="half")
        self.pages = [Page(columns, looks.fonts, theme.EDIT, from_top=True) for _ in range(2)]
        for column, page in zip((0, 2), self.pages, strict=True):
            page.grid(row=0, column=column, sticky="nsew", padx=8)
        ttk.Separator(columns, orient="vertical").grid(row=0, column=1, sticky="ns", pady=30)
        bind_keys(self, self._on_key)
        looks.add(self, lambda palette, _: self.paint(palette))
        for page in self.pages:
            looks.add(page, lambda palette, _, page=page: page.paint(palette))
        self._next()

    def answer(self, verdict: PairVerdict) -> None:
        """Record an answer and show the next pair."""
        if self._pair is None:
            return
        self._app.session.compare(*self._pair, verdict)
        self._back.append(self._pair)
        self._changed()
        self._next()

    def undo(self) -> None:
        """Take the last answer of this window back and show its pair again."""
        if not self._back:
            return
        self._app.session.undo()
        self._pair = self._back.pop()
        self._changed()
        self._show()

    def _buttons(self) -> None:
        row = Flow(self.body, "center", gap=10)
        row.pack(side="bottom", fill="x", padx=16, pady=(8, 14))
        for _, text, verdict, hint in _CHOICES:
            self._button(row, text, self._answerer(verdict), hint)
        self._button(row, "Undo (u)", self.undo, "Undo the last answer.")
        self._button(row, "Close (Esc)", self.close, "Back to single poems.")

    def _answerer(self, verdict: PairVerdict) -> Callable[[], None]:
        return lambda: self.answer(verdict)

    def _button(self, row: Flow, text: str, command: Callable[[], None], hint: str) -> None:
        button = ttk.Button(row, text=text, command=command, takefocus=False)
        row.add(button)
        Hint(button, hint)

    def _on_key(self, key: str) -> bool:
        if key in _BY_KEY:
            self.answer(_BY_KEY[key])
        elif key == "u" or self._app.keymap.action(key) == "undo":
            self.undo()
        elif key in _SCROLL:
            for page in self.pages:
                page.scroll_page(_SCROLL[key])
        else:
            return False
        return True

    def _next(self) -> None:
        session = self._app.session
        self._pair = next_pair(session.items, session.replay, self._rng)
        self._show()

    def _show(self) -> None:
        compared = sum(1 for _ in self._app.session.replay.pairs())
        if self._pair is None:
            self._note.configure(text=f"{counted(compared, 'pair')} compared · no pairs left")
            for page in self.pages:
                page.show("", "")
            return
        self._note.configure(text=f"{counted(compared, 'pair')} compared · which one is better?")
        for page, item in zip(self.pages, self._pair, strict=True):
            page.show(item.candidate.theme, item.candidate.text)
