import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.curate.conftest import make_session
from verse.decision_journal import JournalError, LockedError, open_journal, read_journal
from verse.records import Candidate, Undo
from verse.replay import Replay, ReplayError
from verse_clients.curate.queue import Filter
from verse_clients.curate.store import (
    WindowState,
    fitting_geometry,
    keep_state,
    read_state,
    state_file,
)


def test_a_decision_is_in_the_file_when_write_returns(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    store = open_journal(path)
    session = make_session(write=store.write)
    session.decide("accept")
    assert read_journal(path) == session.replay.entries


def test_a_second_window_is_refused_until_the_first_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    first = open_journal(path)
    with pytest.raises(LockedError, match="open in another window"):
        open_journal(path)
    first.close()
    open_journal(path).close()


def run_python(code: str, *arguments: Path) -> None:
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, timeout=60)


def test_a_window_that_died_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    run_python(
        "import os, sys, pathlib\n"
        "from verse.decision_journal import open_journal\n"
        "store = open_journal(pathlib.Path(sys.argv[1]))\n"
        "os._exit(0)",
        path,
    )
    assert path.exists()
    open_journal(path).close()


def test_a_torn_last_line_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    store = open_journal(path)
    session = make_session(write=store.write)
    session.decide("accept")
    session.decide("reject")
    store.close()
    path.write_bytes(path.read_bytes()[:-20])
    again = open_journal(path)
    assert again.entries == session.replay.entries[:1]
    assert again.torn == path.with_name("decisions.jsonl.torn")
    assert path.with_name("decisions.jsonl.torn").exists()


def test_a_file_that_is_no_journal_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    path.write_text('{"theme": "雨"}\n{"theme": "雨"}\n', "utf-8")
    with pytest.raises(JournalError, match="holds no decisions"):
        open_journal(path)
    assert path.read_text("utf-8").count("\n") == 2


def test_a_folder_is_no_journal(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="is a folder"):
        open_journal(tmp_path)


def test_an_undo_of_something_that_does_not_come_before_is_refused() -> None:
    session = make_session()
    session.decide("accept")
    undo = Undo(undone=2, time=session.replay.entries[0].time)
    with pytest.raises(ReplayError, match="does not come before"):
        Replay([*session.replay.entries, undo])


def test_what_the_disk_refuses_waits_in_memory_and_is_written_later(tmp_path: Path) -> None:
    folder, away = tmp_path / "work", tmp_path / "away"
    folder.mkdir()
    store = open_journal(folder / "decisions.jsonl")
    session = make_session(write=store.write)
    session.decide("accept")
    folder.rename(away)
    session.decide("reject")
    session.decide("skip")
    assert store.num_waiting == 2
    assert store.problem == "No such file or directory"
    away.rename(folder)
    assert store.retry()
    assert store.problem is None
    assert read_journal(folder / "decisions.jsonl") == session.replay.entries


FULL_DISK = """
import resource, sys
from datetime import UTC, datetime
from pathlib import Path
from verse.records import Candidate, Decision
from verse.decision_journal import open_journal
from verse.decision_journal import read_journal

NO_LIMIT = resource.RLIM_INFINITY
path = Path(sys.argv[1])
store = open_journal(path)
skip = Decision(
    action="skip", candidate=Candidate(theme="雨", text="雨"), blind=True, time=datetime.now(UTC)
)
assert store.write(skip)
size = path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, NO_LIMIT))
assert not store.write(skip)
assert store.num_waiting == 1 and store.problem == "File too large"
assert path.stat().st_size == size
resource.setrlimit(resource.RLIMIT_FSIZE, (NO_LIMIT, NO_LIMIT))
assert store.write(skip)
assert store.num_waiting == 0 and len(read_journal(path)) == 3
"""


def test_a_full_disk_leaves_no_half_line_and_loses_nothing(tmp_path: Path) -> None:
    run_python(FULL_DISK, tmp_path / "decisions.jsonl")


def test_a_journal_that_cannot_be_begun_waits_too(tmp_path: Path) -> None:
    store = open_journal(tmp_path / "missing" / "decisions.jsonl")
    assert store.problem == "No such file or directory"
    session = make_session(write=store.write)
    session.decide("accept")
    assert store.num_waiting == 1
    (tmp_path / "missing").mkdir()
    assert store.close()
    assert len(read_journal(tmp_path / "missing" / "decisions.jsonl")) == 1


def test_the_state_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    journal = tmp_path / "decisions.jsonl"
    state = WindowState(
        poem="abc", filter=Filter(theme="雨"), geometry="900x700+10+20", blind=False
    )
    assert keep_state(journal, state)
    assert read_state(journal) == state


def test_a_state_kept_before_orders_were_chosen_still_loads(tmp_path: Path) -> None:
    journal = tmp_path / "decisions.jsonl"
    state_file(journal).write_text(
        '{"poem": "abc", "repeat": false, "num_entries": 7, "order": "active", "seed": 5,'
        ' "filter": {"state": "open", "theme": "", "adapter": "", "flag": "cut", "search": ""},'
        ' "blind": true, "geometry": "900x700+10+20", "type_percent": 120,'
        ' "appearance": "dark", "font": "", "draft_of": "", "draft": ""}',
        "utf-8",
    )
    state = read_state(journal)
    assert state == WindowState(
        poem="abc", num_entries=7, order="active", seed=5, geometry="900x700+10+20",
        filter=Filter(state="open", flag="cut"), type_percent=120, appearance="dark",
    )  # fmt: skip
    assert (state.order_chosen, state.seen) == (False, ())


def test_a_damaged_state_is_the_beginning(tmp_path: Path) -> None:
    journal = tmp_path / "decisions.jsonl"
    state_file(journal).write_text("{half", "utf-8")
    assert read_state(journal) == WindowState()


def test_a_decision_stands_alone_without_the_source_file(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    store = open_journal(path)
    session = make_session(write=store.write)
    session.edit("改过的")
    [entry] = read_journal(path)
    candidate = getattr(entry, "candidate", None)
    assert isinstance(candidate, Candidate)
    assert candidate == session.items[0].candidate


@pytest.mark.parametrize(
    ("kept", "geometry"),
    [
        ("900x700+40+60", "900x700+40+60"),
        ("900x700+3000+60", "900x700+1200+60"),
        ("3000x2000+-50+-9", "1280x900+0+0"),
        ("", "1080x820+100+26"),
        ("nonsense", "1080x820+100+26"),
    ],
)
def test_a_window_opens_where_it_was_as_far_as_the_screen_reaches(kept: str, geometry: str) -> None:
    assert fitting_geometry(kept, (1280, 900)) == geometry
