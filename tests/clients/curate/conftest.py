"""Poems written for these tests, and a session on them without a disk or a window."""

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from verse.records import Candidate, JournalEntry
from verse_clients.curate.session import CurationSession
from verse_clients.curate.store import WindowState
from verse_clients.decisions.sources import Item

THEMES = ("雨", "河", "灯")
LINES = (
    "旧街的灯", "一盏一盏认出自己", "在水里", "河不回头", "把窗子推开一寸", "像一封没有署名的信",
    "第一片雪", "落在信箱上", "替你敲了敲门", "月亮搬运着海",
)  # fmt: skip

MakeItems = Callable[..., list[Item]]
MakeSession = Callable[..., CurationSession]


def poem_text(number: int) -> str:
    lines = [LINES[(number * 3 + step) % len(LINES)] for step in range(3)]
    return "\n".join([f"第{number}首", *lines])


def make_items(count: int, *, mixed: bool = False) -> list[Item]:
    """Poems of one adapter, so that they are shown in the order of the file, or of several."""
    return [
        Item(
            candidate=Candidate(
                theme=THEMES[number % len(THEMES)],
                text=poem_text(number),
                adapter=("xuzhimo", "hushi", None)[number % 3] if mixed else "xuzhimo",
                checkpoint=60 + 20 * (number % 2) if mixed else 60,
                sample=number,
            ),
            number=number + 1,
        )
        for number in range(count)
    ]


class Clock:
    """Ten seconds pass between two looks at it."""

    def __init__(self) -> None:
        self._now = datetime(2026, 3, 1, 20, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        self._now += timedelta(seconds=10)
        return self._now


def make_session(
    items: Sequence[Item] | int = 6,
    entries: Iterable[JournalEntry] = (),
    write: Callable[[JournalEntry], object] | None = None,
    state: WindowState | None = None,
) -> CurationSession:
    poems = make_items(items) if isinstance(items, int) else items
    return CurationSession(
        poems,
        entries,
        write=write or (lambda _: None),
        clock=Clock(),
        session_id="test",
        state=state,
    )


def go_to_repeat(session: CurationSession) -> None:
    """Move to the first poem that is shown again and waits for an answer."""
    places = [p for p, s in enumerate(session.visible) if s.repeat and session.is_open(s)]
    session.move(places[0] - session.cursor)


def write_candidates(path: Path, count: int, *, mixed: bool = False, **fields: object) -> Path:
    rows = [
        {"theme": item.candidate.theme, "text": item.candidate.text, "sample": number}
        | {"adapter": item.candidate.adapter, "checkpoint": item.candidate.checkpoint}
        | fields
        for number, item in enumerate(make_items(count, mixed=mixed))
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def poems_file(tmp_path: Path) -> Path:
    return write_candidates(tmp_path / "poems.jsonl", 6)
