"""The bar above the poem and the buttons below it; every button shows its key."""

from collections.abc import Callable
from tkinter import Misc, ttk

from verse_clients.curate.keymap import BY_NAME, Keymap
from verse_clients.curate.view.flow import Flow
from verse_clients.curate.view.hints import Hint

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


class Deciding(Flow):
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
