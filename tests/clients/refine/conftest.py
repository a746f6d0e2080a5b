"""Poems, decisions and a round's folder for these tests."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from verse.poem_split import PoemSplit, write_split
from verse.records import Candidate, Decision, Poem

NOW = datetime(2026, 3, 1, 20, tzinfo=UTC)
LINES = (
    "旧街的灯一盏一盏认出自己", "在水里，河不回头", "把窗子推开一寸", "像一封没有署名的信",
    "第一片雪落在信箱上", "替你敲了敲门", "月亮搬运着海", "父亲数完了船上的麻袋",
    "井沿的青苔比去年厚", "火车过桥时她放下针线", "盐罐空了，雨还没来", "收音机里有人报着潮位",
)  # fmt: skip


def poem_text(number: int, lines: int = 4) -> str:
    """Poems of different numbers share no line at the same place, and few at all."""
    picked = [LINES[(number * 5 + step * (1 + number % 3)) % len(LINES)] for step in range(lines)]
    return "\n".join(f"{line}{chr(0x4E00 + number * 7 + step)}" for step, line in enumerate(picked))


def own_text(number: int, length: int = 24) -> str:
    """Characters that no other number has."""
    first = 0x4E00 + number * length
    letters = [chr(first + step) for step in range(length)]
    half = length // 2
    return "".join(letters[:half]) + "\n" + "".join(letters[half:])


def decision(theme: str, text: str, action: str = "accept", **fields: Any) -> Decision:
    final = fields.pop("final", None)
    when = fields.pop("time", NOW)
    blind = fields.pop("blind", True)
    stars = fields.pop("stars", None)
    return Decision(
        action=action,  # pyright: ignore[reportArgumentType]
        candidate=Candidate(theme=theme, text=text, **fields),
        text=final,
        blind=blind,
        order="shuffle",
        stars=stars,
        time=when,
    )


def write_lines(path: Path, records: Iterable[msgspec.Struct]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.Encoder().encode_lines(list(records)))
    return path


def write_poets_files(folder: Path, poems: Sequence[Poem], num_valid: int) -> tuple[Path, Path]:
    """poems.jsonl and split.json; the last poems are the valid ones."""
    path = write_lines(folder / "poems.jsonl", poems)
    valid = tuple(poem.id for poem in poems[len(poems) - num_valid :])
    write_split(folder / "split.json", PoemSplit(valid=valid, share=0.1, seed=0))
    return path, folder / "split.json"


def later(minutes: int) -> datetime:
    return NOW + timedelta(minutes=minutes)
