"""The same poems, judged and written otherwise: what must look the same to who reads blind."""

from collections.abc import Sequence
from typing import NamedTuple

from hypothesis import strategies as st

from verse.records import Candidate
from verse_clients.decisions.sources import Item

TEXTS = (
    "旧街的灯\n一盏一盏认出自己", "旧街的灯\n一盏一盏认出自已", "河不回头\n带走一点",
    "河不回头\n带走一点", "把窗子推开一寸", "像一封没有署名的信", "第一片雪\n落在信箱上",
    "替你敲了敲门", "月亮搬运着海", "月亮搬运着海啊", "雨落在屋檐", "夜深了，灯还亮着",
)  # fmt: skip
THEMES = ("雨", "河", "灯")


class Hidden(NamedTuple):
    """All that must not be told of a poem."""

    adapter: str | None
    checkpoint: int | None
    score: float | None
    rank: int | None
    disagreement: float | None


def hidden() -> st.SearchStrategy[Hidden]:
    numbers = st.none() | st.floats(0, 5)
    return st.builds(
        Hidden,
        adapter=st.sampled_from([None, "xuzhimo", "hushi"]),
        checkpoint=st.sampled_from([None, 60, 80]),
        score=numbers,
        rank=st.none() | st.integers(1, 99),
        disagreement=numbers,
    )


def ranked_file(attributes: Sequence[Hidden]) -> list[Item]:
    """Poems with these attributes, in the order a judge or a generator writes them: by them."""
    poems = [
        Item(
            candidate=Candidate(
                id=f"poem-{place}",
                theme=THEMES[place % len(THEMES)],
                text=TEXTS[place % len(TEXTS)],
                adapter=own.adapter,
                checkpoint=own.checkpoint,
                finish_reason="length" if place % 5 == 4 else "stop",
            ),
            score=own.score,
            rank=own.rank,
            disagreement=own.disagreement,
        )
        for place, own in enumerate(attributes)
    ]
    poems.sort(key=lambda item: (item.rank or 0, -(item.score or 0), item.source))
    return [
        Item(
            candidate=item.candidate,
            number=number,
            score=item.score,
            rank=item.rank,
            disagreement=item.disagreement,
        )
        for number, item in enumerate(poems, 1)
    ]
