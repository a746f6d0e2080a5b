"""The main window: one poem, what is known about it, and the keys that decide."""

import sys
import time
import traceback
from tkinter import Event, Misc, Tk, ttk

import msgspec

from verse.records import Decision
from verse_clients.curate import Appearance, wording
from verse_clients.curate.app import CurationApp
from verse_clients.curate.store import WindowState, fitting_geometry
from verse_clients.curate.view import theme
from verse_clients.curate.view.actions import Actions
from verse_clients.curate.view.background import Background, repeat
from verse_clients.curate.view.editing import Editor
from verse_clients.curate.view.find_bar import FindBar
from verse_clients.curate.view.looks import Looks, system_is_dark
from verse_clients.curate.view.panels import DecisionButtons, Facts, TopBar
from verse_clients.curate.view.reading import Page
from verse_clients.curate.view.theme import Fonts, Palette
from verse_clients.curate.view.widgets import (
    bind_keys,
    hide_hints,
    hide_hints_on_keys,
    let_input_method_rest,
)

_MIN_SIZE = (560, 480)
_KEEP_MS = 250
_RETRY_MS = 2000
_ASK_SYSTEM_SECONDS = 10
_MARGIN = 16


class MainWindow:
    """Shows the session and passes keys on; holds no decision of its own."""

    def __init__(
        self,
        root: Tk,
        app: CurationApp,
        *,
        appearance: Appearance,
        type_percent: int | None = None,
    ) -> None:
        """Build the window and show the poem the poet stopped at."""
        self.root, self.app, self.session = root, app, app.session
        state = app.state
        self.looks = Looks(root, appearance, state.font, type_percent or state.type_percent)
        self.background = Background(root)
        self.last: Decision | None = None
        self._draft: tuple[str, str] = ("", "")
        self._message = ""
        self._keep_waiting: str | None = None
        self._discards = False
        self._asked_system = time.monotonic()
        self.actions = Actions(self)
        self._build()
        self._open(state)

    # Showing

    def refresh(self) -> None:
        """Show the session as it is now."""
        session = self.session
        slot = session.current
        if self.is_editing:
            pass
        elif slot is None:
            self.page.show("", "No poem matches the filter.")
        else:
            text = session.text
            self.page.show(slot.item.candidate.theme, text, self.facts.copied_span(text))
        self.top.show(wording.progress_line(session), self._done_share())
        self.facts.show()
        self.deciding.show(bool(slot))
        self._show_banner()
        self.keep_soon()

    def show_message(self, message: str) -> None:
        """Show one line until the next key."""
        self._message = message
        self._show_banner()

    def clear_message(self) -> None:
        """The poet has gone on."""
        self._message = ""
        self._discards = False

    @property
    def is_editing(self) -> bool:
        """Whether the editor stands in place of the poem."""
        return bool(self.editor.winfo_manager())

    # Editing

    def open_editor(self, draft: str | None = None) -> None:
        """Put the editor in place of the poem."""
        slot = self.session.current
        if slot is None:
            return
        hide_hints()
        candidate = slot.item.candidate
        self.page.grid_remove()
        self.bottom.grid_remove()
        self.editor.grid(row=4, column=0, sticky="nsew")
        self.editor.open(candidate.theme, candidate.text, draft or self.session.text)
        self.refresh()

    def close_editor(self) -> None:
        """Put the poem back."""
        self._draft = ("", "")
        self.editor.grid_remove()
        self.page.grid()
        self.bottom.grid()
        self.root.focus_set()
        self.refresh()

    def _save_edit(self, text: str) -> None:
        if not text.strip():
            self.show_message("An empty poem cannot be accepted; cancel and reject it instead.")
            return
        self.actions.decide_with(lambda: self.session.edit(text))
        self.close_editor()

    def _keep_draft(self, text: str) -> None:
        slot = self.session.current
        self._draft = (slot.item.id, text) if slot else ("", "")
        self.keep_soon()

    # Finding

    def open_find(self) -> None:
        """Show the bar with filters and put the cursor into the search."""
        self.offer_filters()
        # The keys that decide are dead while typing, so their buttons make room.
        self.bottom.grid_remove()
        self.find_bar.grid(row=3, column=0, sticky="ew")
        self.find_bar.focus_search()

    def offer_filters(self) -> None:
        """Let the bar offer what there is to choose from now."""
        session = self.session
        self.find_bar.offer(
            session.items, session.filter, session.order, with_adapters=session.source_shown
        )

    def close_find(self) -> None:
        """Hide the bar; the filter stays."""
        self.find_bar.grid_remove()
        self.bottom.grid()
        self.root.focus_set()
        self.refresh()

    # Keeping the state

    def keep_soon(self) -> None:
        """Remember the state in a moment; moving fast writes once."""
        if self._keep_waiting is None:
            self._keep_waiting = self.root.after(_KEEP_MS, self.keep)

    def keep(self) -> None:
        """Remember the state now."""
        self._keep_waiting = None
        self.app.keep_state(self._state())

    def _state(self) -> WindowState:
        return msgspec.structs.replace(
            self.session.state(),
            geometry=self.root.geometry(),
            type_percent=self.looks.fonts.percent,
            appearance=self.looks.appearance,
            font=self.looks.fonts.family,
            draft_of=self._draft[0],
            draft=self._draft[1],
        )

    # Closing

    def close(self) -> None:
        """Close, unless decisions would be lost: then say so first, and close when asked again."""
        if self.app.journal.num_waiting and not self.app.journal.retry() and not self._discards:
            self.show_message(
                f"{wording.unsaved_line(self.app.journal.num_waiting, self.app.journal.problem)} "
                "Close again to discard them."
            )
            self._discards = True
            return
        self.keep()
        self.stop()

    def stop(self) -> None:
        """End the window and all that it planned to do."""
        # By Tcl alone: `after_cancel` would delete commands that belong to other widgets.
        self.root.tk.eval("foreach planned [after info] {after cancel $planned}")
        self.root.destroy()

    def close_files(self) -> None:
        """Let go of the files."""
        self.app.journal.close()

    # Inside

    def _build(self) -> None:
        root = self.root
        root.title(f"Verse · {self.app.journal.path.name}")
        root.minsize(*_MIN_SIZE)
        root.columnconfigure(0, weight=1)
        root.rowconfigure(4, weight=1)
        self.looks.paint()
        self.top = TopBar(root, self.app.keymap, self.actions.run)
        self.top.grid(row=0, column=0, sticky="ew", padx=_MARGIN, pady=(8, 0))
        self.banner = ttk.Label(root, style="Banner.TLabel", anchor="center", justify="center")
        self.find_bar = FindBar(
            root, self.actions.filter, self.actions.order, on_close=self.close_find
        )
        self.page = Page(root, self.looks.fonts)
        self.page.grid(row=4, column=0, sticky="nsew", padx=_MARGIN)
        self.editor = Editor(
            root, save=self._save_edit, leave=self.close_editor, changed=self._keep_draft
        )
        self.bottom = ttk.Frame(root)
        self.bottom.grid(row=5, column=0, sticky="ew", padx=_MARGIN, pady=(4, 8))
        self.facts = Facts(self.bottom, self)
        self.facts.pack(fill="x")
        self.deciding = DecisionButtons(self.bottom, self.app.keymap, self.actions.run)
        self.deciding.pack(fill="x", pady=(8, 0))
        self._bind()

    def _bind(self) -> None:
        root = self.root
        hide_hints_on_keys(root)
        bind_keys(root, self.actions.on_key)
        let_input_method_rest(root)
        root.protocol("WM_DELETE_WINDOW", self.close)
        if root.tk.call("tk", "windowingsystem") == "aqua":
            root.createcommand("tk::mac::Quit", self.close)
        root.bind("<Configure>", self._on_configure, add="+")
        root.bind("<FocusIn>", lambda _: self._ask_system(), add="+")
        root.report_callback_exception = self._on_error
        self.looks.add(root, self._paint)
        self.looks.add(self.page, lambda palette, _: self.page.paint(palette))
        self.looks.add(self.editor, self.editor.paint)

    def _open(self, state: WindowState) -> None:
        screen = self.root.winfo_screenwidth(), self.root.winfo_screenheight()
        self.root.geometry(fitting_geometry(state.geometry, screen))
        notices = [*self.app.notices]
        font = theme.missing_font_notice(self.looks.fonts.families)
        if font:
            notices.append(font)
        if self.session.filter != type(self.session.filter)():
            notices.append(f"Filter: {wording.filter_line(self.session.filter)}.")
        self._message = " ".join(notices)
        slot = self.session.current
        if state.draft_of and slot is not None and slot.item.id == state.draft_of:
            self._draft = (state.draft_of, state.draft)
            self.open_editor(state.draft)
        self.refresh()
        self.actions.inspect(self.session.items)
        repeat(self.root, _RETRY_MS, self._retry)

    def _paint(self, palette: Palette, font: Fonts) -> None:
        self.root.configure(background=palette.paper)
        for flow in (self.top, self.facts, self.deciding):
            flow.set_gap(font.pixels(8))

    def _on_configure(self, event: "Event[Misc]") -> None:
        # A window hears of its children's sizes too.
        if event.widget is self.root:
            self._on_resize()

    def _on_resize(self) -> None:
        width = self.root.winfo_width()
        self.banner.configure(wraplength=max(width - 60, 200))
        self.top.set_width(width)
        self.facts.set_width(width)
        self.keep_soon()

    def _show_banner(self) -> None:
        journal = self.app.journal
        unsaved = wording.unsaved_line(journal.num_waiting, journal.problem)
        parts = [unsaved, journal.recovered or "", self._message]
        text = " ".join(part for part in parts if part)
        if self._discards:
            text = self._message
        self.banner.configure(text=text)
        if text:
            self.banner.grid(row=2, column=0, sticky="ew", pady=(6, 0))
        else:
            self.banner.grid_remove()

    def _done_share(self) -> float:
        total = len(self.session.items)
        done = sum(1 for _ in self.session.verdicts())
        return done / total if total else 0.0

    def _retry(self) -> None:
        if self.app.journal.num_waiting:
            self.app.journal.retry()
            self._show_banner()

    def _ask_system(self) -> None:
        """Whoever switches the desktop to dark comes back to this window afterwards."""
        now = time.monotonic()
        if self.looks.appearance == "system" and now - self._asked_system > _ASK_SYSTEM_SECONDS:
            self._asked_system = now
            tell = self.background.deliver(self.looks.follow_system)
            self.background.start(lambda: tell(system_is_dark()), "curate-appearance")

    def _on_error(self, kind: type[BaseException], error: BaseException, _: object) -> None:
        """A fault of ours costs the poet nothing: the decisions are on the disk."""
        if isinstance(error, KeyboardInterrupt):
            self.stop()
            return
        traceback.print_exception(kind, error, error.__traceback__, file=sys.stderr)
        self.show_message(f"Something went wrong ({error}); your decisions are safe.")
