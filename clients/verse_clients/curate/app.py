"""Puts everything one window works with together from files."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from verse.decision_journal import open_journal
from verse.journal import Journal
from verse.records import JournalEntry, OrderName
from verse.terminal import counted
from verse_clients.curate.keymap import Keymap
from verse_clients.curate.more import More, PoemServer, more_file, read_more
from verse_clients.curate.order import default_order
from verse_clients.curate.session import CurationSession
from verse_clients.curate.store import WindowState, keep_state, read_state
from verse_clients.decisions import exports
from verse_clients.decisions.sources import Item, past_decisions, read_items
from verse_clients.screening import Inspector

_SEED_LIMIT = 2**31


class CurationApp:
    """Everything one window works with."""

    def __init__(
        self,
        session: CurationSession,
        journal: Journal[JournalEntry],
        keymap: Keymap,
        state: WindowState,
        more: More | None = None,
    ) -> None:
        """Take parts that fit together: the session writes through the journal."""
        self.session = session
        self.journal = journal
        self.keymap = keymap
        self.state = state
        """As the last window left it."""
        self.more = more
        self.inspector = Inspector()
        self.notices: list[str] = []
        """What the poet should know at the start."""

    def keep_state(self, state: WindowState) -> None:
        """Remember where the poet is, if it is somewhere else than before."""
        state = msgspec.structs.replace(state, poems=self.state.poems)
        if state != self.state and keep_state(self.journal.path, state):
            self.state = state

    def export(self) -> list[Path]:
        """Write all exports into a folder beside the journal.

        Raises:
            DecisionsError: the folder cannot be written.
        """
        return exports.export(
            self.session.replay.entries,
            export_folder(self.journal.path),
            list(exports.KINDS),
            map(Path, self.state.poems),
        )


def export_folder(journal: Path) -> Path:
    """Where exports go unless told otherwise."""
    return journal.with_name(f"{journal.stem}-export")


def open_app(
    files: Sequence[Path],
    path: Path,
    keymap: Keymap,
    *,
    order: OrderName | None = None,
    show_source: bool = False,
) -> CurationApp:
    """Read poems and the journal at a path, and begin where the poet stopped.

    Raises:
        SourceError: a file holds no poems.
        JournalError: the decisions cannot be opened.
    """
    items = read_items(files)
    journal = open_journal(path)
    entries = _with_past(journal, items)
    items.extend(read_more(path, len(items) + 1))
    state = _start(read_state(path), items, order, show_source)
    state = msgspec.structs.replace(state, poems=tuple(str(file.resolve()) for file in files))
    session = CurationSession(
        items,
        entries,
        write=journal.write,
        clock=lambda: datetime.now(UTC),
        session_id=datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"),
        state=state,
    )
    app = CurationApp(session, journal, keymap, state)
    app.notices = _notices(journal, num_twice=len(items) - len(session.items))
    return app


def make_more(
    app: CurationApp, base_url: str | None, api_key: str | None, model: str | None
) -> More:
    """A writer of more poems that connects when it is first asked."""

    def connect() -> PoemServer:
        from verse_clients import openai_client

        return openai_client.Server(base_url, api_key)

    return More(connect, more_file(app.journal.path), model)


def _start(
    state: WindowState, items: Sequence[Item], order: OrderName | None, show_source: bool
) -> WindowState:
    changes: dict[str, object] = {"order_chosen": order is not None or _is_chosen(state)}
    wanted = order or (state.order if _is_chosen(state) else default_order(items))
    if wanted != state.order:
        changes |= {"order": wanted, "seed": random.randrange(_SEED_LIMIT)}
    if show_source:
        changes["blind"] = False
    return msgspec.structs.replace(state, **changes)


def _is_chosen(state: WindowState) -> bool:
    """Whether the poet asked for the order; older states do not say, and only began with `file`."""
    return state.order_chosen or state.order not in ("file", "shuffle")


def _with_past(journal: Journal[JournalEntry], items: Sequence[Item]) -> list[JournalEntry]:
    """The journal's entries; one that is still empty begins with what the files say was decided."""
    if journal.entries:
        return list(journal.entries)
    past = past_decisions(items, datetime.now(UTC))
    if past:
        journal.write(*past)
    return list(past)


def _notices(journal: Journal[JournalEntry], num_twice: int) -> list[str]:
    notices: list[str] = []
    if journal.torn is not None:
        notices.append(
            f"The last line of {journal.path.name} was cut off; it was moved to "
            f"{journal.torn.name}."
        )
    if num_twice:
        notices.append(
            f"{counted(num_twice, 'poem')} more than once in the files; each is shown once."
        )
    return notices
