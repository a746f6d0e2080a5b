"""A fake server, poems in a file, and the command against them."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.clients.fake_openai import FakeOpenAI
from tests.clients.judge.simulated import noisy, poems, qualities
from verse import cli, jsonl
from verse.records import Candidate, Decision
from verse_clients.judge.ranked import Ranked, read_ranked

NUM_POEMS = 12
CACHE = Path("ranked.judgments.jsonl")


@pytest.fixture
def written() -> list[Candidate]:
    return poems(NUM_POEMS)


@pytest.fixture
def fake(written: list[Candidate]) -> Iterator[FakeOpenAI]:
    """A server whose judge knows the truth, about."""
    with FakeOpenAI() as server:
        server.script.write = noisy(qualities(written))
        yield server


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: list[Candidate]) -> Path:
    """A folder of one's own, with a file of poems, and no settings from outside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    jsonl.append(Path("poems.jsonl"), *written)
    return tmp_path


def verse_judge(fake: FakeOpenAI | str, *arguments: str) -> int:
    """Run the command in this process; returns its exit code."""
    base_url = fake if isinstance(fake, str) else fake.base_url
    return cli.main(["judge", "--base-url", base_url, *arguments])


def ranked(path: str = "ranked.json") -> Ranked:
    return read_ranked(Path(path))


def decisions(
    candidates: Sequence[Candidate], taken: Sequence[bool], *, blind: bool = True
) -> list[Decision]:
    time = datetime(2026, 3, 1, tzinfo=UTC)
    return [
        Decision(
            action="accept" if took else "reject",
            candidate=poem,
            blind=blind,
            order="shuffle",
            time=time,
        )
        for poem, took in zip(candidates, taken, strict=True)
    ]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def num_lines(path: Path) -> int:
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def questions(fake: FakeOpenAI) -> list[str]:
    return [json.dumps(body["messages"], ensure_ascii=False) for body in fake.asked]
