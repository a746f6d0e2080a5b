"""What every key does: from an action's name to the session, and back to the window."""

import random
import time
from collections import deque
from collections.abc import Callable, Iterable
from tkinter import Tk
from typing import Protocol, cast

from verse.records import Decision, OrderName
from verse_clients.curate import wording
from verse_clients.curate.app import CurationApp
from verse_clients.curate.more import Written
from verse_clients.curate.queue import Filter
from verse_clients.curate.session import CurationSession, Plain
from verse_clients.curate.view.background import Background
from verse_clients.curate.view.help_window import HelpWindow
from verse_clients.curate.view.looks import Looks
from verse_clients.curate.view.pairs_window import PairsWindow
from verse_clients.curate.view.reading import Page
from verse_clients.curate.view.sheet import Sheet
from verse_clients.curate.view.statistics_window import StatisticsWindow
from verse_clients.curate.view.type_window import TypeWindow
from verse_clients.decisions import DecisionsError
from verse_clients.decisions.sources import Item
from verse_clients.screening import Finding

_SEED_LIMIT = 2**31
_INSPECT_SECONDS, _INSPECT_PAUSE_MS = 0.008, 12
_SCROLL = {"Up": -2, "Down": 2}
_SIDE = {"Shift+Left": -8, "Shift+Right": 8}
_PAGES = {"Prior": -1, "Next": 1, "space": 1, "Shift+space": -1}


class Owner(Protocol):
    """What the actions need of the main window."""

    root: Tk
    app: CurationApp
    session: CurationSession
    looks: Looks
    background: Background
    page: Page
    last: Decision | None

    @property
    def is_editing(self) -> bool:
        """Whether the editor is open."""
        ...

    def refresh(self) -> None:
        """Show the session."""
        ...

    def say(self, message: str) -> None:
        """Show one line."""
        ...

    def clear_message(self) -> None:
        """Forget the line."""
        ...

    def open_editor(self, draft: str | None = None) -> None:
        """Start editing."""
        ...

    def open_find(self) -> None:
        """Show the filters."""
        ...

    def offer_filters(self) -> None:
        """Offer the filters that there are now."""
        ...

    def close(self) -> None:
        """Close the window."""
        ...


class Actions:
    """The controller between keys, buttons and the session."""

    def __init__(self, owner: Owner) -> None:
        """Work for a window; nothing happens yet."""
        self._owner = owner
        self._waiting: deque[Item] = deque()
        self._is_inspecting = False
        self._came_from: str | None = None
        """Where the last jump started."""
        self._table: dict[str, Callable[[], object]] = {
            **{name: self._decider(name) for name in ("accept", "reject", "skip")},
            **{f"stars_{n}": self._rater(n) for n in range(1, 6)},
            "edit": owner.open_editor,
            "undo": lambda: self._take_back(again=False),
            "redo": lambda: self._take_back(again=True),
            "previous": lambda: self._move(-1),
            "next": lambda: self._move(1),
            "blind": self._toggle_blind,
            "jump": self._jump_first,
            "more": self._more,
            "pairs": lambda: self._open(PairsWindow),
            "find": owner.open_find,
            "statistics": lambda: self._open(StatisticsWindow),
            "export": self._export,
            "type": lambda: self._open(TypeWindow),
            "larger": lambda: self.set_type(owner.looks.fonts.percent + 10),
            "smaller": lambda: self.set_type(owner.looks.fonts.percent - 10),
            "normal": lambda: self.set_type(100),
            "help": lambda: self._open(HelpWindow),
            "close": owner.close,
        }

    def on_key(self, key: str) -> bool:
        """Do what a key stands for; returns whether it stands for anything."""
        action = self._owner.app.keymap.action(key)
        if action is not None:
            self.run(action)
        elif key in _SCROLL:
            self._owner.page.scroll(_SCROLL[key])
        elif key in _SIDE:
            self._owner.page.scroll_side(_SIDE[key])
        elif key in _PAGES:
            self._owner.page.scroll_page(_PAGES[key])
        else:
            return False
        return True

    def run(self, action: str) -> None:
        """Do an action by name."""
        if not self._owner.is_editing:
            self._owner.clear_message()
            self._table[action]()

    def decide_with(self, decide: Callable[[], object]) -> None:
        """Let the session decide, and show what came next."""
        slot = self._owner.session.current
        decide()
        replay = self._owner.session.replay
        self._owner.last = replay.verdict(slot.item.id) if slot else None
        self._came_from = None
        if slot is not None and slot == self._owner.session.current:
            self._owner.say(self._finished())
        self._owner.refresh()

    def filter(self, filter_: Filter) -> None:
        """Show other poems."""
        self._owner.session.set_filter(filter_)
        self._owner.refresh()

    def order(self, order: OrderName) -> None:
        """Arrange the queue anew."""
        self._owner.session.set_order(order, random.randrange(_SEED_LIMIT))
        self._owner.refresh()

    def set_type(self, percent: int) -> None:
        """Change the size of all type."""
        self._owner.looks.scale(percent)
        self._owner.refresh()

    def inspect(self, items: Iterable[Item]) -> None:
        """Look for oddities, a few poems at a time, so that no key ever waits.

        Not in a thread: it would take the interpreter from the window at every call into Tk.
        """
        self._waiting.extend(items)
        if len(self._waiting) and not self._is_inspecting:
            self._is_inspecting = True
            self._owner.root.after(_INSPECT_PAUSE_MS, self._inspect_some)

    def _inspect_some(self) -> None:
        try:
            self._inspect_until(time.perf_counter() + _INSPECT_SECONDS)
        finally:  # a poem that cannot be looked at keeps nobody else waiting
            self._is_inspecting = bool(self._waiting)
            if self._waiting:
                self._owner.root.after(_INSPECT_PAUSE_MS, self._inspect_some)

    def _inspect_until(self, end: float) -> None:
        found: list[tuple[str, Finding]] = []
        try:
            while self._waiting and time.perf_counter() < end:
                poem = self._waiting.popleft().candidate
                found.extend(self._owner.app.inspector.findings([poem]))
        finally:
            self._take_flags(found)

    def _take_flags(self, found: list[tuple[str, Finding]]) -> None:
        self._owner.session.add_flags(found)
        slot = self._owner.session.current
        if slot is not None and any(poem == slot.item.id for poem, _ in found):
            self._owner.refresh()

    def jump(self, flag: Finding) -> None:
        """Go to what a poem resembles; from there the same key comes back."""
        session, slot = self._owner.session, self._owner.session.current
        if flag.reason == "copy":
            self._owner.say(f"{flag.other}: {flag.run}" if flag.run else wording.copy_line(flag))
        elif flag.reason == "near" and slot is not None:
            back = self._came_from
            self._came_from = slot.item.id
            session.go_to(back if back and back != slot.item.id else flag.other)
            self._owner.refresh()

    def _open(self, kind: type[Sheet]) -> None:
        """Open a window, or bring the one that is open to the front."""
        for child in self._owner.root.winfo_children():
            if isinstance(child, kind):
                child.deiconify()  # brings it to the front
                child.focus_force()
                return
        self._make(kind)

    def _make(self, kind: type[Sheet]) -> None:
        root, app, looks = self._owner.root, self._owner.app, self._owner.looks
        if kind is PairsWindow:
            PairsWindow(root, app, looks, self._owner.refresh)
        elif kind is StatisticsWindow:
            StatisticsWindow(root, app.session, looks)
        elif kind is TypeWindow:
            TypeWindow(root, looks, self.set_type)
        else:
            HelpWindow(root, app.keymap, looks)

    def _decider(self, name: str) -> Callable[[], None]:
        action = cast("Plain", name)
        return lambda: self.decide_with(lambda: self._owner.session.decide(action))

    def _rater(self, stars: int) -> Callable[[], None]:
        def rate() -> None:
            self._owner.session.rate(stars)
            self._owner.refresh()

        return rate

    def _move(self, steps: int) -> None:
        self._owner.session.move(steps)
        self._came_from = None
        self._owner.refresh()

    def _take_back(self, *, again: bool) -> None:
        session = self._owner.session
        decision = session.redo() if again else session.undo()
        self._owner.last = None
        self._owner.say(wording.undone_line(decision, again=again))
        self._owner.refresh()

    def _toggle_blind(self) -> None:
        self._owner.session.toggle_blind()
        for child in self._owner.root.winfo_children():
            if isinstance(child, StatisticsWindow):
                child.close()  # its figures are by source, or lack what may be seen now
        self._owner.offer_filters()
        self._owner.refresh()

    def _jump_first(self) -> None:
        session, slot = self._owner.session, self._owner.session.current
        flags = session.flags(slot.item.id) if slot else ()
        for flag in [flag for flag in flags if flag.reason != "truncated"][:1]:
            self.jump(flag)

    def _finished(self) -> str:
        skipped = sum(
            1
            for item in self._owner.session.items
            if (verdict := self._owner.session.replay.verdict(item.id)) and verdict.action == "skip"
        )
        left = f" {skipped} were skipped; Find shows them." if skipped else ""
        return f"All poems shown here are decided.{left}"

    def _export(self) -> None:
        try:
            written = self._owner.app.export()
        except DecisionsError as error:
            self._owner.say(str(error))
        else:
            names = ", ".join(path.name for path in written)
            self._owner.say(f"Written to {written[0].parent}: {names}.")

    def _more(self) -> None:
        owner, slot = self._owner, self._owner.session.current
        if slot is None or owner.app.more is None:
            return
        if owner.app.more.ask(slot.item, owner.background.deliver(self._take_more)):
            owner.say(f"Two more poems on 《{slot.item.candidate.theme}》 are being written …")
        else:
            owner.say("Poems are being written already; they come in a moment.")

    def _take_more(self, written: Written) -> None:
        owner = self._owner
        number = len(owner.session.items)
        fresh = [
            Item(candidate=poem, number=number + place)
            for place, poem in enumerate(written.poems, 1)
        ]
        session = owner.session
        added = session.add_items(fresh, source_known=written.by_name)
        self.inspect(added)
        if written.problem:
            shown = session.source_shown
            owner.say(
                written.problem
                if shown
                else wording.without_sources(written.problem, session.items)
            )
        else:
            owner.say(f"{len(added)} new poems on 《{written.theme}》 come next.")
        owner.refresh()
