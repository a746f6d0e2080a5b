"""The lines and buttons around the poem: every button shows its key."""

from collections.abc import Callable, Sequence
from tkinter import Misc, ttk
from typing import TYPE_CHECKING

from verse.similarity import span_of
from verse.terminal import counted
from verse_clients.curate import wording
from verse_clients.curate.keymap import BY_NAME, Keymap
from verse_clients.curate.view.widgets import Flow, Hint
from verse_clients.screening import Finding

_TOOLS = ("find", "more", "pairs", "statistics", "export", "type", "help")
_DECISIONS = (
    ("undo", "TButton"), ("previous", "TButton"), ("reject", "No.TButton"), ("skip", "TButton"),
    ("edit", "TButton"), ("accept", "Yes.TButton"), ("next", "TButton"),
)  # fmt: skip

Run = Callable[[str], object]
_LINE_PIXELS = 3


class TopBar(ttk.Frame):
    """Progress on the left, tools on the right, a thin line of progress below."""

    def __init__(self, master: Misc, keymap: Keymap, run: Run) -> None:
        """Make the bar; `run` gets the name of an action."""
        super().__init__(master)
        self.columnconfigure(1, weight=1)
        self._progress = ttk.Label(self, style="Quiet.TLabel")
        self._progress.grid(row=0, column=0, sticky="w")
        self._tools = Flow(self, "right", gap=2)
        self._tools.grid(row=0, column=1, sticky="ew", padx=(12, 0))
        for name in _TOOLS:
            action_button(self._tools, name, "Quiet.TButton", keymap, run)
        rest = ttk.Frame(self, style="Rest.TFrame", height=_LINE_PIXELS)
        rest.grid(row=1, column=0, columnspan=2, sticky="ew", pady=(6, 0))
        self._done = ttk.Frame(rest, style="Done.TFrame", height=_LINE_PIXELS)

    def show(self, progress: str, share: float) -> None:
        """Say how far the poet has come; `share` is 0 to 1."""
        self._progress.configure(text=progress)
        self._done.place(x=0, y=0, relwidth=share)

    def set_width(self, width: int) -> None:
        """Break the progress line so that the tools keep more than half of the window."""
        self._progress.configure(wraplength=int(width * 0.4))

    def set_gap(self, gap: int) -> None:
        """Change the distance between the tools, in pixels."""
        self._tools.set_gap(gap // 4)


class DecisionButtons(Flow):
    """The row of buttons that decide."""

    def __init__(self, master: Misc, keymap: Keymap, run: Run) -> None:
        """Make the row; `run` gets the name of an action."""
        super().__init__(master, "center", gap=8)
        self._buttons = [
            action_button(self, name, style, keymap, run) for name, style in _DECISIONS
        ]

    def show(self, has_poem: bool) -> None:
        """Without a poem only undo and the arrows make sense."""
        for button in self._buttons[2:6]:
            button.state(["!disabled"] if has_poem else ["disabled"])


def action_button(flow: Flow, name: str, style: str, keymap: Keymap, run: Run) -> ttk.Button:
    """A button for an action, with its key on it and its meaning as a hint."""
    action = BY_NAME[name]
    key = keymap.shown(name)
    text = f"{action.title} ({key})" if key else action.title
    # Keys decide; a button that kept the focus would take Space and Enter for itself.
    button = ttk.Button(flow, text=text, style=style, command=lambda: run(name), takefocus=False)
    flow.add(button)
    Hint(button, action.help)
    return button


if TYPE_CHECKING:
    from verse_clients.curate.view.main_window import MainWindow

_NUM_STARS = 5


class Facts(ttk.Frame):
    """The quiet lines between the poem and the buttons."""

    def __init__(self, master: Misc, window: "MainWindow") -> None:
        """Make the lines; `show` fills them."""
        super().__init__(master)
        self._window = window
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
        window, session = self._window, self._window.session
        slot = session.current
        self._place.configure(text=wording.position_line(session))
        given = (session.replay.stars(slot.item.id) if slot else None) or 0
        for number, star in enumerate(self._stars, 1):
            star.configure(text="★" if number <= given else "☆")
        self._source.configure(text=wording.source_text(session, window.app.keymap))
        self._last.configure(text=wording.last_line(window.last, window.app.keymap))
        self._show_badges(session.flags(slot.item.id) if slot else ())

    def copied_span(self, text: str) -> tuple[int, int]:
        """Which characters of the poem in view are copied."""
        slot = self._window.session.current
        flags = self._window.session.flags(slot.item.id) if slot else ()
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
                command=lambda name=name: self._window.actions.run(name),
            )  # fmt: skip
            star.pack(side="left")
            key = self._window.app.keymap.shown(name)
            Hint(
                star, f"{number} of {_NUM_STARS} stars ({key})" if key else counted(number, "star")
            )
            self._stars.append(star)
        self._row.add(cell)

    def _add_source(self) -> None:
        self._source = ttk.Button(
            self._row, style="Quiet.TButton", takefocus=False,
            command=lambda: self._window.actions.run("blind"),
        )  # fmt: skip
        self._row.add(self._source)
        Hint(self._source, "Show or hide adapter, checkpoint, score and rank.")

    def _show_badges(self, flags: Sequence[Finding]) -> None:
        session = self._window.session
        badges = [(wording.flag_line(flag, session), flag) for flag in flags]
        if badges == self._shown_badges:
            return
        self._shown_badges = badges
        self._badges.clear()
        key = self._window.app.keymap.shown("jump")
        first = next(filter(wording.leads_somewhere, flags), None)
        for text, flag in badges:
            shown = f"{text} ({key})" if key and flag is first else text
            badge = ttk.Button(
                self._badges, text=shown, style="Badge.TButton", takefocus=False,
                command=lambda flag=flag: self._window.actions.jump(flag),
            )  # fmt: skip
            self._badges.add(badge)
            Hint(badge, _hint(flag))
        if badges:
            self._badges.pack(fill="x", before=self._row, pady=(0, 6))
        else:
            self._badges.pack_forget()


def _hint(flag: Finding) -> str:
    if flag.reason == "near":
        return "Go to the poem it resembles; press again to come back."
    if flag.reason == "copy":
        return (
            f"Copied: {flag.run}" if flag.run else "Pieced together from runs of four characters."
        )
    if flag.reason == "thought":
        return "A tag of the model's thinking is left in the poem."
    return "The model reached its token limit before the poem ended."
