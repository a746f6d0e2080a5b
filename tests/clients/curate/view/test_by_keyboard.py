"""The program as its user has it: a process, a keyboard, and the file it leaves."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.curate.conftest import write_candidates
from tests.clients.curate.view.conftest import VERSE, App, Screen, StartApp, wait_until
from verse.records import Decision, JournalEntry, Undo
from verse_clients.curate.store import read_state

pytestmark = pytest.mark.gui


def actions(entries: list[JournalEntry]) -> list[str]:
    return [entry.action for entry in entries if isinstance(entry, Decision)]


def run_to_its_end(environment: dict[str, str], poems: Path) -> tuple[int, str]:
    result = subprocess.run(
        [sys.executable, "-c", VERSE, str(poems)],
        env=environment, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
    )  # fmt: skip
    return result.returncode, result.stderr


def shown_by(app: App, count: int) -> str:
    """Which poem was in view: the one that the last of `count` entries is about."""
    entry = app.wait_for(count)[-1]
    assert isinstance(entry, Decision)
    return entry.candidate.text.split("\n")[0]


def test_a_hundred_decisions_by_keyboard_alone(
    screen: Screen, start_app: StartApp, tmp_path: Path
) -> None:
    app = start_app(write_candidates(tmp_path / "poems.jsonl", 101))
    keys = ["a", "r", "s", "a", "r"] * 20
    screen.keys(*keys, delay_ms=12)
    entries = app.wait_for(100)
    named = {"a": "accept", "r": "reject", "s": "skip"}
    assert actions(entries) == [named[key] for key in keys]
    texts = [e.candidate.text.split("\n")[0] for e in entries if isinstance(e, Decision)]
    assert texts == [f"第{number}首" for number in range(100)]


def test_killed_after_a_decision_it_opens_at_the_same_place(
    screen: Screen, start_app: StartApp, tmp_path: Path
) -> None:
    poems = write_candidates(tmp_path / "poems.jsonl", 30)
    app = start_app(poems)
    screen.run("xdotool", "windowsize", "--sync", app.window, "900", "640")
    screen.run("xdotool", "windowmove", "--sync", app.window, "140", "90")
    screen.keys("f")
    screen.type("2")
    screen.keys("Return")
    wait_until(lambda: read_state(app.journal).filter.search == "2", "the filter to be kept")
    screen.keys("a", "r")  # 第2首, 第12首
    app.wait_for(2)
    moved = "900x640+140+90"
    wait_until(lambda: read_state(app.journal).geometry == moved, "size and position to be kept")
    before = app.geometry()
    app.kill()

    again = start_app(poems)
    wait_until(lambda: again.geometry() == before, "the window where it was")
    screen.keys("a")
    assert shown_by(again, 3) == "第20首"
    screen.keys("a")
    assert shown_by(again, 4) == "第21首"


def test_typed_and_pasted_chinese_is_edited_saved_and_undone(
    screen: Screen, start_app: StartApp, tmp_path: Path
) -> None:
    app = start_app(write_candidates(tmp_path / "poems.jsonl", 3))
    with screen.clipboard("诗行，𠮷"):
        screen.keys("e", "ctrl+Home", delay_ms=120)
        screen.type("雨asr1")
        screen.keys("ctrl+v", "ctrl+Return", delay_ms=120)
        app.wait_for(1)
    [entry] = app.wait_for(1)
    assert isinstance(entry, Decision)
    assert entry.action == "edit"
    assert entry.text == "雨asr1诗行，𠮷" + entry.candidate.text
    assert entry.edit_distance == 9
    screen.keys("u")
    undo = app.wait_for(2)[-1]
    assert isinstance(undo, Undo)
    assert undo.undone == 1


def test_escape_leaves_an_edit_without_a_decision(
    screen: Screen, start_app: StartApp, tmp_path: Path
) -> None:
    app = start_app(write_candidates(tmp_path / "poems.jsonl", 3))
    screen.keys("e", "x", "y", "Escape", "r", delay_ms=80)
    assert actions(app.wait_for(1)) == ["reject"]


def test_undo_and_redo_reach_back_over_a_restart(
    screen: Screen, start_app: StartApp, tmp_path: Path
) -> None:
    poems = write_candidates(tmp_path / "poems.jsonl", 5)
    app = start_app(poems)
    screen.keys("a", "r")
    app.wait_for(2)
    app.kill()
    again = start_app(poems)
    screen.keys("ctrl+z", "u", "ctrl+shift+z")
    undone = [e.undone for e in again.wait_for(5) if isinstance(e, Undo)]
    assert undone == [2, 1, 4]
    screen.keys("s")
    assert shown_by(again, 6) == "第1首"


def test_the_windows_own_button_closes_it(
    screen: Screen, start_app: StartApp, tmp_path: Path
) -> None:
    app = start_app(write_candidates(tmp_path / "poems.jsonl", 3))
    screen.keys("a")
    app.wait_for(1)
    screen.keys("alt+F4")
    assert app.end() == (0, "")
    assert actions(app.entries()) == ["accept"]


def test_a_second_window_on_the_same_journal_is_refused(
    screen: Screen, start_app: StartApp, tmp_path: Path
) -> None:
    poems = write_candidates(tmp_path / "poems.jsonl", 3)
    app = start_app(poems)
    code, said = run_to_its_end(screen.environment, poems)
    assert code == 2
    assert said == f"{app.journal} is open in another window; close that first.\n"
    assert app.process.poll() is None


def test_without_a_screen_it_says_so_in_one_sentence(tmp_path: Path) -> None:
    poems = write_candidates(tmp_path / "poems.jsonl", 3)
    code, said = run_to_its_end({**os.environ, "DISPLAY": ""}, poems)
    assert code == 2
    assert said.startswith("verse curate needs a screen to open its window on")
    assert said.count("\n") == 1


def test_own_keys_from_a_file_replace_the_usual_ones(
    screen: Screen, start_app: StartApp, tmp_path: Path
) -> None:
    keymap = tmp_path / "keys.toml"
    keymap.write_text('accept = "j"\nreject = ["k", "Delete"]\n', "utf-8")
    app = start_app(write_candidates(tmp_path / "poems.jsonl", 5), "--keymap", str(keymap))
    screen.keys("a", "j", "k", "Delete")
    assert actions(app.wait_for(3)) == ["accept", "reject", "reject"]
