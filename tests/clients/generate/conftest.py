"""A fake server, and the command against it."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from tests.clients.fake_openai import FakeOpenAI
from verse import cli, jsonl
from verse.records import Candidate


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as server:
        yield server


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own, with a file of themes, and no settings from outside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (tmp_path / "themes.txt").write_text("风\n雨\n雪\n", "utf-8")
    return tmp_path


def verse_generate(fake: FakeOpenAI | str, *arguments: str) -> int:
    """Run the command in this process; returns its exit code."""
    base_url = fake if isinstance(fake, str) else fake.base_url
    themes = [] if {"--themes", "-p"} & set(arguments) else ["--themes", "themes.txt"]
    return cli.main(["generate", *themes, "--base-url", base_url, *arguments])


def poems_in(path: Path | str) -> list[Candidate]:
    return jsonl.read(Path(path), msgspec.json.Decoder(Candidate))


def texts(poems: Sequence[Candidate]) -> set[str]:
    return {poem.text for poem in poems}
