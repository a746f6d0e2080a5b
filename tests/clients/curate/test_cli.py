from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.clients.curate.conftest import make_session, write_candidates
from verse import UserError
from verse.decision_journal import open_journal, read_journal
from verse_clients.curate import cli
from verse_clients.curate.app import CurationApp
from verse_clients.curate.cli import app


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    store = open_journal(tmp_path / "decisions.jsonl")
    session = make_session(write=store.write)
    session.decide("accept")
    session.decide("reject")
    store.close()
    return store.path


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_export_writes_all_files_beside_the_journal(journal: Path) -> None:
    lines = run("export", "-i", journal).splitlines()
    folder = journal.with_name("decisions-export")
    assert sorted(path.name for path in folder.iterdir()) == sorted(Path(p).name for p in lines)
    assert len(lines) == 5
    assert (folder / "sft.jsonl").read_bytes().count(b"\n") == 1


def test_export_writes_the_kinds_asked_for(journal: Path, tmp_path: Path) -> None:
    run("export", "-i", journal, "-o", tmp_path / "out", "--what", "sft,chapbook")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"sft.jsonl", "chapbook.md"}


def test_export_leaves_the_journal_as_it_is(journal: Path) -> None:
    torn = journal.read_bytes() + b'{"entry": "deci'
    journal.write_bytes(torn)
    run("export", "-i", journal)
    assert journal.read_bytes() == torn


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["export", "-i", "nowhere.jsonl"], "nowhere.jsonl cannot be read"),
        (["export", "-i", "decisions.jsonl", "--what", "pdf"], "no export 'pdf'"),
        (["nowhere.jsonl"], "nowhere.jsonl cannot be read"),
        (["--order", "score", "nowhere.jsonl"], "nowhere.jsonl cannot be read"),
        (["open", "nowhere.jsonl"], "nowhere.jsonl cannot be read"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    journal: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(journal.parent)
    with pytest.raises(UserError) as caught:
        run(*arguments)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_poems_touches_nothing(tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"nonsense": 1}\n', "utf-8")
    with pytest.raises(UserError, match="poem 1: it has no poem"):
        run(other)
    assert list(tmp_path.iterdir()) == [other]


def test_poem_files_are_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poems = write_candidates(tmp_path / "poems.jsonl", 3)
    before = poems.read_bytes(), poems.stat().st_mtime_ns
    monkeypatch.setenv("DISPLAY", "")
    with pytest.raises(UserError, match="needs a screen"):
        run(poems)
    assert (poems.read_bytes(), poems.stat().st_mtime_ns) == before


def test_a_journal_that_was_removed_meanwhile_is_told_when_the_window_closes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decide_twice(app: CurationApp, **_: object) -> int:
        app.session.decide("accept")
        app.journal.path.unlink()
        app.session.decide("reject")
        app.journal.close()
        return app.journal.num_waiting

    monkeypatch.setattr(cli, "_view", lambda: decide_twice)
    poems = write_candidates(tmp_path / "poems.jsonl", 3)
    with pytest.raises(UserError, match=r"decisions\.jsonl was removed while it was in use"):
        run("open", poems)
    assert len(read_journal(tmp_path / "decisions.jsonl")) == 2
