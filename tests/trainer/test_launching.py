"""`verse train --hosts`: what is wrong is said, and the launcher leaves nothing behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from verse.cli import main
from verse.machines import MachinesError
from verse_trainer import launching
from verse_trainer.events import Failed, Stopped, TrainMessage, TrainRequest
from verse_trainer.supervise import Ending

LISTED = '[{"ssh": "127.0.0.1", "ips": ["127.0.0.1"]}, {"ssh": "%s", "ips": ["127.0.0.1"]}]'


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    file = tmp_path / "hosts.json"
    file.write_text(LISTED % "127.0.0.1", "utf-8")
    return file


def test_a_hostfile_that_is_missing_is_a_mistake_of_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--hosts", "none.json"]) == 2
    assert capsys.readouterr().err.startswith("There is no file none.json; list the machines")
    (tmp_path / "bad.json").write_text("[1]", "utf-8")
    assert main(["train", "--hosts", "bad.json"]) == 2
    assert "bad.json is no list of machines" in capsys.readouterr().err


def launch(
    monkeypatch: pytest.MonkeyPatch, hosts: Path, launcher: str
) -> tuple[Ending, list[TrainMessage]]:
    """With a program in the launcher's stead, which gets its arguments."""
    messages: list[TrainMessage] = []

    def command(*_: object, **__: object) -> list[str]:
        return [sys.executable, "-c", launcher]

    monkeypatch.setattr(launching, "launch_command", command)
    ending = launching.supervise_launcher(TrainRequest(), messages.append, hosts, 5000)
    return ending, messages


def test_messages_are_heard_among_what_others_print(
    monkeypatch: pytest.MonkeyPatch, hosts: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    printed = "a banner of ssh\n" + '{"event": "stopped", "step": 3, "reason": "finished"}\r\n'
    ending, messages = launch(monkeypatch, hosts, f"print({printed!r})")
    assert ending.exit_code == 0
    assert messages == [Stopped(step=3, reason="finished")]
    assert "a banner of ssh" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("code", "reason"),
    [(255, "cannot be reached: see that `ssh 127.0.0.1` works"), (1, "ended before its time")],
)
def test_what_became_of_a_rank_that_never_spoke_is_told(
    monkeypatch: pytest.MonkeyPatch, hosts: Path, code: int, reason: str
) -> None:
    line = f"[WARN] Node with rank 1 exited with code {code}"
    with pytest.raises(MachinesError, match=reason):
        launch(monkeypatch, hosts, f"import sys; print({line!r}, file=sys.stderr)")


def test_a_complaint_is_heard_though_the_launcher_has_long_ended(
    monkeypatch: pytest.MonkeyPatch, hosts: Path
) -> None:
    def show_slowly(*_: object, **__: object) -> None:
        time.sleep(0.05)

    monkeypatch.setattr(launching, "show", show_slowly)
    program = (
        "import sys; print('a line\\n' * 10 + '[WARN] Node with rank 1 exited with code 1',"
        "file=sys.stderr)"
    )
    with pytest.raises(MachinesError, match="ended before its time"):
        launch(monkeypatch, hosts, program)


def test_what_a_rank_has_told_is_enough(monkeypatch: pytest.MonkeyPatch, hosts: Path) -> None:
    program = (
        "import sys; print('[WARN] Node with rank 1 exited with code 2', file=sys.stderr);"
        """print('{"event": "failed", "sentence": "No."}')"""
    )
    _, messages = launch(monkeypatch, hosts, program)
    assert messages == [Failed(sentence="No.")]


def test_nothing_is_left_of_a_launcher_that_ends(
    monkeypatch: pytest.MonkeyPatch, hosts: Path, tmp_path: Path
) -> None:
    file = tmp_path / "pid"
    program = (
        "import subprocess, pathlib; child = subprocess.Popen(['sleep', '600'],"
        "stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL);"
        f"pathlib.Path({str(file)!r}).write_text(str(child.pid))"
    )
    launch(monkeypatch, hosts, program)
    left = subprocess.run(
        ["ps", "-o", "stat=", "-p", file.read_text()], capture_output=True, text=True, check=False
    )
    assert left.stdout.strip()[:1] in ("", "Z")


def test_machines_are_reached_by_ssh_only_if_there_is_one(
    monkeypatch: pytest.MonkeyPatch, hosts: Path
) -> None:
    hosts.write_text(LISTED % "other.local", "utf-8")
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(MachinesError, match="ssh is not installed here"):
        launch(monkeypatch, hosts, "")
