"""What every key does: from an action's name to the session, and back to the window."""

import random
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, cast

from verse.records import OrderName
from verse.terminal import counted
from verse_clients.curate import wording
from verse_clients.curate.more import Written
from verse_clients.curate.queue import Filter
from verse_clients.curate.session import Plain
from verse_clients.curate.view.dialogs import HelpWindow, TypeWindow
from verse_clients.curate.view.pairs_window import PairsWindow
from verse_clients.curate.view.statistics_window import StatisticsWindow
from verse_clients.curate.view.widgets import Dialog
from verse_clients.decisions import DecisionsError
from verse_clients.decisions.sources import Item
from verse_clients.screening import Finding

if TYPE_CHECKING:
    from verse_clients.curate.view.main_window import MainWindow

_SEED_LIMIT = 2**31
_INSPECT_SECONDS, _INSPECT_PAUSE_MS = 0.008, 12
_SCROLL = {"Up": -2, "Down": 2}
_SIDE = {"Shift+Left": -8, "Shift+Right": 8}
_PAGES = {"Prior": -1, "Next": 1, "space": 1, "Shift+space": -1}


class Actions:
    """The controller between keys, buttons and the session."""

    def __init__(self, window: "MainWindow") -> None:
        """Work for a window; nothing happens yet."""
        self._window = window
        self._waiting: deque[Item] = deque()
        self._is_inspecting = False
        self._came_from: str | None = None
        """Where the last jump started."""
        self._table: dict[str, Callable[[], object]] = {
            **{name: self._decider(name) for name in ("accept", "reject", "skip")},
            **{f"stars_{n}": self._rater(n) for n in range(1, 6)},
            "edit": window.open_editor,
            "undo": lambda: self._take_back(again=False),
            "redo": lambda: self._take_back(again=True),
            "previous": lambda: self._move(-1),
            "next": lambda: self._move(1),
            "blind": self._toggle_blind,
            "jump": self._jump_first,
            "more": self._more,
            "pairs": lambda: self._open(PairsWindow),
            "find": window.open_find,
            "statistics": lambda: self._open(StatisticsWindow),
            "export": self._export,
            "type": lambda: self._open(TypeWindow),
            "larger": lambda: self.set_type(window.looks.fonts.percent + 10),
            "smaller": lambda: self.set_type(window.looks.fonts.percent - 10),
            "normal": lambda: self.set_type(100),
            "help": lambda: self._open(HelpWindow),
            "close": window.close,
        }

    def on_key(self, key: str) -> bool:
        """Do what a key stands for; returns whether it stands for anything."""
        action = self._window.app.keymap.action(key)
        if action is not None:
            self.run(action)
        elif key in _SCROLL:
            self._window.page.scroll(_SCROLL[key])
        elif key in _SIDE:
            self._window.page.scroll_side(_SIDE[key])
        elif key in _PAGES:
            self._window.page.scroll_page(_PAGES[key])
        else:
            return False
        return True

    def run(self, action: str) -> None:
        """Do an action by name."""
        if not self._window.is_editing:
            self._window.clear_message()
            self._table[action]()

    def decide_with(self, decide: Callable[[], object]) -> None:
        """Let the session decide, and show what came next."""
        slot = self._window.session.current
        decide()
        replay = self._window.session.replay
        self._window.last = replay.verdict(slot.item.id) if slot else None
        self._came_from = None
        if slot is not None and slot == self._window.session.current:
            self._window.show_message(self._finished())
        self._window.refresh()

    def filter(self, filter_: Filter) -> None:
        """Show other poems."""
        self._window.session.set_filter(filter_)
        self._window.refresh()

    def order(self, order: OrderName) -> None:
        """Arrange the queue anew."""
        self._window.session.set_order(order, random.randrange(_SEED_LIMIT))
        self._window.refresh()

    def set_type(self, percent: int) -> None:
        """Change the size of all type."""
        self._window.looks.scale(percent)
        self._window.refresh()

    def inspect(self, items: Iterable[Item]) -> None:
        """Look for oddities, a few poems at a time, so that no key ever waits.

        Not in a thread: it would take the interpreter from the window at every call into Tk.
        """
        self._waiting.extend(items)
        if len(self._waiting) and not self._is_inspecting:
            self._is_inspecting = True
            self._window.root.after(_INSPECT_PAUSE_MS, self._inspect_some)

    def _inspect_some(self) -> None:
        try:
            self._inspect_until(time.perf_counter() + _INSPECT_SECONDS)
        finally:  # a poem that cannot be looked at keeps nobody else waiting
            self._is_inspecting = bool(self._waiting)
            if self._waiting:
                self._window.root.after(_INSPECT_PAUSE_MS, self._inspect_some)

    def _inspect_until(self, end: float) -> None:
        found: list[tuple[str, Finding]] = []
        try:
            while self._waiting and time.perf_counter() < end:
                poem = self._waiting.popleft().candidate
                found.extend(self._window.app.inspector.findings([poem]))
        finally:
            self._take_flags(found)

    def _take_flags(self, found: list[tuple[str, Finding]]) -> None:
        self._window.session.add_flags(found)
        slot = self._window.session.current
        if slot is not None and any(poem == slot.item.id for poem, _ in found):
            self._window.refresh()

    def jump(self, flag: Finding) -> None:
        """Go to what a poem resembles; from there the same key comes back."""
        session, slot = self._window.session, self._window.session.current
        if flag.reason == "copy":
            self._window.show_message(
                f"{flag.other}: {flag.run}" if flag.run else wording.copy_line(flag)
            )
        elif flag.reason == "near" and slot is not None:
            back = self._came_from
            self._came_from = slot.item.id
            session.go_to(back if back and back != slot.item.id else flag.other)
            self._window.refresh()

    def _open(self, kind: type[Dialog]) -> None:
        """Open a window, or bring the one that is open to the front."""
        for child in self._window.root.winfo_children():
            if isinstance(child, kind):
                child.deiconify()  # brings it to the front
                child.focus_force()
                return
        self._make(kind)

    def _make(self, kind: type[Dialog]) -> None:
        root, app, looks = self._window.root, self._window.app, self._window.looks
        if kind is PairsWindow:
            PairsWindow(root, app, looks, self._window.refresh)
        elif kind is StatisticsWindow:
            StatisticsWindow(root, app.session, looks)
        elif kind is TypeWindow:
            TypeWindow(root, looks, self.set_type)
        else:
            HelpWindow(root, app.keymap, looks)

    def _decider(self, name: str) -> Callable[[], None]:
        action = cast("Plain", name)
        return lambda: self.decide_with(lambda: self._window.session.decide(action))

    def _rater(self, stars: int) -> Callable[[], None]:
        def rate() -> None:
            self._window.session.rate(stars)
            self._window.refresh()

        return rate

    def _move(self, steps: int) -> None:
        self._window.session.move(steps)
        self._came_from = None
        self._window.refresh()

    def _take_back(self, *, again: bool) -> None:
        session = self._window.session
        decision = session.redo() if again else session.undo()
        self._window.last = None
        self._window.show_message(wording.undone_line(decision, again=again))
        self._window.refresh()

    def _toggle_blind(self) -> None:
        self._window.session.toggle_blind()
        for child in self._window.root.winfo_children():
            if isinstance(child, StatisticsWindow):
                child.close()  # its figures are by source, or lack what may be seen now
        self._window.offer_filters()
        self._window.refresh()

    def _jump_first(self) -> None:
        session, slot = self._window.session, self._window.session.current
        flags = session.flags(slot.item.id) if slot else ()
        for flag in [flag for flag in flags if wording.leads_somewhere(flag)][:1]:
            self.jump(flag)

    def _finished(self) -> str:
        session = self._window.session
        verdicts = (session.replay.verdict(item.id) for item in session.items)
        skipped = sum(1 for verdict in verdicts if verdict and verdict.action == "skip")
        left = f" {skipped} were skipped; use Find to see them." if skipped else ""
        return f"All poems shown here have been decided.{left}"

    def _export(self) -> None:
        try:
            written = self._window.app.export()
        except DecisionsError as error:
            self._window.show_message(str(error))
        else:
            names = ", ".join(path.name for path in written)
            self._window.show_message(f"Written to {written[0].parent}: {names}.")

    def _more(self) -> None:
        window, slot = self._window, self._window.session.current
        if slot is None or window.app.more is None:
            return
        if window.app.more.ask(slot.item, window.background.deliver(self._take_more)):
            window.show_message(f"Writing two more poems on 《{slot.item.candidate.theme}》 …")
        else:
            window.show_message("Poems are already being written.")

    def _take_more(self, written: Written) -> None:
        window = self._window
        number = len(window.session.items)
        fresh = [
            Item(candidate=poem, number=number + place)
            for place, poem in enumerate(written.poems, 1)
        ]
        session = window.session
        added = session.add_items(fresh, source_known=written.by_name)
        self.inspect(added)
        if written.problem:
            shown = session.source_shown
            window.show_message(
                written.problem
                if shown
                else wording.without_sources(written.problem, session.items)
            )
        else:
            window.show_message(f"Next: {counted(len(added), 'new poem')} on 《{written.theme}》.")
        window.refresh()
