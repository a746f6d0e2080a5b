"""The files in `journals/` were written by the version before `verse.journal`; they still load."""

import asyncio
import shutil
from pathlib import Path

import pytest

from verse import jsonl
from verse.decision_journal import open_journal, read_journal
from verse.records import Candidate, Decision, PairDecision, Undo
from verse.replay import Replay
from verse_clients.generate.inputs import read_candidates
from verse_clients.generate.output import Output
from verse_clients.judge.judgments import Judgments, read_judgments

OLD = Path(__file__).parent / "journals"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "journals"))


def test_poems(folder: Path) -> None:
    async def add_one(path: Path) -> list[Candidate]:
        output = Output(path, print)
        await output.write(Candidate(theme="晚饭", text="一碗汤"))
        await output.close()
        return output.poems

    path = folder / "poems.jsonl"
    poems = asyncio.run(add_one(path))
    assert [(p.theme, p.model, p.sample, p.blocked) for p in poems] == [
        ("灯塔", "harbour@200", 0, None),
        ("灯塔", "base", 1, "duplicate"),
        ("晚饭", "base", 2, "empty"),
    ]
    assert poems[0].text == "灯塔把光借给海\n  海还给它一夜的咸"
    assert poems[1].duplicate_of == poems[0].id
    assert read_candidates(path)[:3] == poems
    assert path.read_bytes().startswith((OLD / "poems.jsonl").read_bytes())


def test_judgments(folder: Path) -> None:
    path = folder / "judgments.jsonl"
    judgments = Judgments(path)
    found = {key: judgments.find(key) for key in ("k1", "k2", "k3", "k4")}
    outcomes = {key: judgment and judgment.outcome for key, judgment in found.items()}
    assert outcomes == {"k1": "judged", "k2": "judged", "k3": None, "k4": "unparsed"}
    assert judgments.format_of("http://127.0.0.1:8000/v1", "base") == "text"
    asyncio.run(judgments.close())
    assert [j.key for j in read_judgments(path)] == ["k1", "k2", "k3", "k4"]
    assert path.read_bytes() == (OLD / "judgments.jsonl").read_bytes()


def test_decisions(folder: Path) -> None:
    path = folder / "decisions.jsonl"
    store = open_journal(path)
    assert list(map(type, store.entries)) == [Decision, Decision, Undo, PairDecision, Decision]
    assert store.entries == read_journal(path)
    [verdict] = Replay(store.entries).verdicts()
    assert (verdict.action, verdict.text) == ("edit", "灯塔把光借给海\n海还它一夜的咸")
    store.close()
    assert path.read_bytes() == (OLD / "decisions.jsonl").read_bytes()


def test_a_line_that_is_torn_is_the_only_one_that_does_not_load(folder: Path) -> None:
    for name in ("poems.jsonl", "judgments.jsonl", "decisions.jsonl"):
        path = folder / name
        path.write_bytes(path.read_bytes()[:-9])
    assert len(read_candidates(folder / "poems.jsonl")) == 2
    assert len(read_judgments(folder / "judgments.jsonl")) == 3
    assert len(read_journal(folder / "decisions.jsonl")) == 4
    assert jsonl.set_torn_line_aside(folder / "decisions.jsonl") is not None
