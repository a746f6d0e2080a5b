"""What is known about the poem in view: oddities, stars, source, the last decision."""

from collections.abc import Sequence
from tkinter import Misc, ttk
from typing import Protocol

from verse.records import Decision
from verse.similarity import span_of
from verse_clients.curate import wording
from verse_clients.curate.app import CurationApp
from verse_clients.curate.session import CurationSession
from verse_clients.curate.view.actions import Actions
from verse_clients.curate.view.flow import Flow
from verse_clients.curate.view.hints import Hint
from verse_clients.screening import Finding

_NUM_STARS = 5


class Owner(Protocol):
    """What the facts need of the main window."""

    app: CurationApp
    session: CurationSession
    actions: Actions
    last: Decision | None


class Facts(ttk.Frame):
    """The quiet lines between the poem and the buttons."""

    def __init__(self, master: Misc, owner: Owner) -> None:
        """Make the lines; `show` fills them."""
        super().__init__(master)
        self._owner = owner
        self._badges = Flow(self, "center")
        self._shown_badges: Sequence[tuple[str, Finding]] = ()
        self._row = Flow(self, "center", gap=14)
        self._row.pack(fill="x")
        self._place = ttk.Label(self._row, style="Quiet.TLabel")
        self._row.add(self._place)
        self._add_stars()
        self._add_source()
        self._last = ttk.Label(self, style="Quiet.TLabel", anchor="center", justify="center")
        self._last.pack(fill="x", pady=(2, 0))

    def show(self) -> None:
        """Show what is known about the current poem."""
        owner, session = self._owner, self._owner.session
        slot = session.current
        self._place.configure(text=wording.position_line(session))
        given = (session.replay.stars(slot.item.id) if slot else None) or 0
        for number, star in enumerate(self._stars, 1):
            star.configure(text="★" if number <= given else "☆")
        self._source.configure(text=wording.source_text(session, owner.app.keymap))
        self._last.configure(text=wording.last_line(owner.last, owner.app.keymap))
        self._show_badges(session.flags(slot.item.id) if slot else ())

    def copied_span(self, text: str) -> tuple[int, int]:
        """Which characters of the poem in view are copied."""
        slot = self._owner.session.current
        flags = self._owner.session.flags(slot.item.id) if slot else ()
        return next((span_of(text, f.run) for f in flags if f.reason == "copy"), (0, 0))

    def set_width(self, width: int) -> None:
        """Break long lines."""
        for label in (self._place, self._last):
            label.configure(wraplength=max(width - 60, 200))

    def set_gap(self, gap: int) -> None:
        """Change the distance between parts, in pixels."""
        self._row.set_gap(2 * gap)
        self._badges.set_gap(gap)

    def _add_stars(self) -> None:
        cell = ttk.Frame(self._row)
        self._stars: list[ttk.Button] = []
        for number in range(1, _NUM_STARS + 1):
            name = f"stars_{number}"
            star = ttk.Button(
                cell, text="☆", style="Star.TButton", takefocus=False,
                command=lambda name=name: self._owner.actions.run(name),
            )  # fmt: skip
            star.pack(side="left")
            key = self._owner.app.keymap.shown(name)
            Hint(star, f"{number} of {_NUM_STARS} stars ({key})" if key else f"{number} stars")
            self._stars.append(star)
        self._row.add(cell)

    def _add_source(self) -> None:
        self._source = ttk.Button(
            self._row, style="Quiet.TButton", takefocus=False,
            command=lambda: self._owner.actions.run("blind"),
        )  # fmt: skip
        self._row.add(self._source)
        Hint(self._source, "Show or hide adapter, checkpoint, score and rank.")

    def _show_badges(self, flags: Sequence[Finding]) -> None:
        session = self._owner.session
        badges = [(wording.flag_line(flag, session), flag) for flag in flags]
        if badges == self._shown_badges:
            return
        self._shown_badges = badges
        self._badges.clear()
        key = self._owner.app.keymap.shown("jump")
        for place, (text, flag) in enumerate(badges):
            shown = f"{text} ({key})" if key and not place and flag.reason != "truncated" else text
            badge = ttk.Button(
                self._badges, text=shown, style="Badge.TButton", takefocus=False,
                command=lambda flag=flag: self._owner.actions.jump(flag),
            )  # fmt: skip
            self._badges.add(badge)
            Hint(badge, _hint(flag))
        if badges:
            self._badges.pack(fill="x", before=self._row, pady=(0, 6))
        else:
            self._badges.pack_forget()


def _hint(flag: Finding) -> str:
    if flag.reason == "near":
        return "Go to the poem it resembles; once more comes back."
    if flag.reason == "copy":
        return f"Taken over: {flag.run}" if flag.run else "Taken over in pieces of four characters."
    return "The model reached its token limit before the poem ended."
