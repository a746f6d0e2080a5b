"""Puts a sitting together from files, and hands its parts to the window."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from verse.records import OrderName
from verse_clients.curate.keymap import Keymap
from verse_clients.curate.more import More, Server, more_file, read_more
from verse_clients.curate.order import default_order
from verse_clients.curate.place import Place, keep_place, read_place
from verse_clients.curate.session import Session
from verse_clients.curate.store import Store
from verse_clients.decisions import exports
from verse_clients.decisions.sources import Item, past_decisions, read_items
from verse_clients.screening import Inspector

_SEED_LIMIT = 2**31


class Desk:
    """Everything one window works with."""

    def __init__(
        self, session: Session, store: Store, keymap: Keymap, place: Place, more: More | None = None
    ) -> None:
        """Take parts that fit together: the session writes through the store."""
        self.session = session
        self.store = store
        self.keymap = keymap
        self.place = place
        """As the last window left it."""
        self.more = more
        self.inspector = Inspector()
        self.notices: list[str] = []
        """What the poet should know at the start."""

    def keep_place(self, place: Place) -> None:
        """Remember where the poet is, if it is somewhere else than before."""
        if place != self.place and keep_place(self.store.path, place):
            self.place = place

    def export(self) -> list[Path]:
        """Write all exports into a folder beside the journal.

        Raises:
            CurateError: the folder cannot be written.
        """
        return exports.export(
            self.session.replay.entries, export_folder(self.store.path), list(exports.KINDS)
        )


def export_folder(journal: Path) -> Path:
    """Where exports go unless told otherwise."""
    return journal.with_name(f"{journal.stem}-export")


def open_desk(
    files: Sequence[Path],
    journal: Path,
    keymap: Keymap,
    *,
    order: OrderName | None = None,
    show_source: bool = False,
) -> Desk:
    """Read poems and decisions and begin where the poet stopped.

    Raises:
        SourceError: a file holds no poems.
        JournalError: the decisions cannot be opened.
    """
    items = read_items(files)
    store = Store(journal)
    _take_over_past(store, items)
    items.extend(read_more(journal, len(items) + 1))
    place = _start(read_place(journal), items, order, show_source)
    now = datetime.now(UTC)
    session = Session(
        items,
        store.entries,
        write=store.write,
        clock=lambda: datetime.now(UTC),
        sitting=now.strftime("%Y%m%dT%H%M%SZ"),
        place=place,
    )
    desk = Desk(session, store, keymap, place)
    desk.notices = _notices(store, num_twice=len(items) - len(session.items))
    return desk


def make_more(desk: Desk, base_url: str | None, api_key: str | None, model: str | None) -> More:
    """A writer of more poems that connects when it is first asked."""

    def connect() -> Server:
        from verse_clients import openai_client

        return openai_client.Server(base_url, api_key)

    return More(connect, more_file(desk.store.path), model)


def _start(
    place: Place, items: Sequence[Item], order: OrderName | None, show_source: bool
) -> Place:
    changes: dict[str, object] = {"order_chosen": order is not None or _is_chosen(place)}
    wanted = order or (place.order if _is_chosen(place) else default_order(items))
    if wanted != place.order:
        changes |= {"order": wanted, "seed": random.randrange(_SEED_LIMIT)}
    if show_source:
        changes["blind"] = False
    return msgspec.structs.replace(place, **changes)


def _is_chosen(place: Place) -> bool:
    """Whether the poet asked for the order; older places do not say, and only began with `file`."""
    return place.order_chosen or place.order not in ("file", "shuffle")


def _take_over_past(store: Store, items: Sequence[Item]) -> None:
    """A journal that is still empty begins with what the original project's list says."""
    if not store.entries:
        past = past_decisions(items, datetime.now(UTC))
        if past:
            store.write(*past)
            store.entries.extend(past)


def _notices(store: Store, num_twice: int) -> list[str]:
    notices: list[str] = []
    if store.torn is not None:
        notices.append(
            f"The last line of {store.path.name} was cut off; it was put into {store.torn.name}."
        )
    if num_twice:
        notices.append(f"{num_twice} poems stand more than once in the files and are shown once.")
    return notices
