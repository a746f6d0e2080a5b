"""What a killed command leaves half-written goes away with the next one, and nothing else does."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from verse_trainer.adapters.staging import staged
from verse_trainer.errors import ConversionError

WRITE = """
import sys
from pathlib import Path
from verse_trainer.adapters.staging import staged
with staged(Path(sys.argv[1])) as stage:
    (stage / "half").write_bytes(bytes(1000))
    print(stage.name, flush=True)
    sys.stdin.read()
"""


def partial(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(".partial"))


@contextmanager
def writing(target: Path) -> Generator[tuple["subprocess.Popen[str]", str]]:
    """Another process in the middle of writing a folder, and the name of its half-copy."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE, str(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    yield process, process.stdout.readline().strip()
    process.communicate()


def write(target: Path) -> None:
    with staged(target) as stage:
        (stage / "file").write_text("whole")


def test_a_half_copy_of_a_killed_process_is_removed_by_the_next_one_and_a_living_one_stays(
    tmp_path: Path,
) -> None:
    with writing(tmp_path / "living") as (_, living):
        with writing(tmp_path / "killed") as (process, killed):
            assert partial(tmp_path) == sorted([living, killed])
            write(tmp_path / "early")
            assert partial(tmp_path) == sorted([living, killed])
            os.kill(process.pid, signal.SIGKILL)
        write(tmp_path / "late")
        assert partial(tmp_path) == [living]
    assert partial(tmp_path) == []
    assert {path.name for path in tmp_path.iterdir()} == {"living", "early", "late"}
    assert (tmp_path / "living" / "half").stat().st_size == 1000


def test_nothing_of_another_name_is_removed(tmp_path: Path) -> None:
    kept = [".mine.partial", ".mine.123", "mine.0f3a9c51.partial", ".mine.0f3a9c5g.partial"]
    for name in kept:
        (tmp_path / name).mkdir()
    (tmp_path / ".file.0f3a9c51.partial").write_text("a file")
    (tmp_path / ".link.0f3a9c51.partial").symlink_to(tmp_path / kept[0])
    (tmp_path / ".left.0f3a9c51.partial").mkdir()
    write(tmp_path / "new")
    found = {path.name for path in tmp_path.iterdir()}
    assert found == {*kept, ".file.0f3a9c51.partial", ".link.0f3a9c51.partial", "new"}


def test_a_failure_leaves_nothing_and_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="no space"), staged(tmp_path / "new"):
        raise OSError("no space")
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "new")
    with pytest.raises(ConversionError, match="already exists"):
        write(tmp_path / "new")
    assert (tmp_path / "new" / "file").read_text() == "whole"


def test_a_folder_has_the_rights_of_any_new_one(tmp_path: Path) -> None:
    write(tmp_path / "new")
    (tmp_path / "other").mkdir()
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "other").stat().st_mode
