import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from verse.atomic_file import replace_file


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_is_created_and_replaced(tmp_path: Path) -> None:
    file = tmp_path / "poems.jsonl"
    replace_file(file, [b"one\n"])
    replace_file(file, [b"two\n", b"three\n"])
    assert file.read_bytes() == b"two\nthree\n"
    assert names_in(tmp_path) == ["poems.jsonl"]


def test_a_failure_while_the_content_is_made_leaves_the_old_file(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"new"
        raise RuntimeError("in between")

    file = tmp_path / "poems.jsonl"
    file.write_bytes(b"old")
    with pytest.raises(RuntimeError):
        replace_file(file, chunks())
    assert file.read_bytes() == b"old"
    assert names_in(tmp_path) == ["poems.jsonl"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_disk_leaves_the_old_file(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(28, "No space left on device")

    file = tmp_path / "poems.jsonl"
    file.write_bytes(b"old")
    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), refuse)
    with pytest.raises(OSError, match="No space"):
        replace_file(file, [b"new"])
    assert file.read_bytes() == b"old"
    assert names_in(tmp_path) == ["poems.jsonl"]


def test_content_and_name_are_synced_in_that_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bool] = []
    real_fsync = os.fsync

    def record(handle: int) -> None:
        synced.append(stat.S_ISDIR(os.fstat(handle).st_mode))
        real_fsync(handle)

    monkeypatch.setattr(os, "fsync", record)
    replace_file(tmp_path / "poems.jsonl", [b"x"])
    assert synced == [False, True]


def test_a_new_file_is_readable_as_any_other_and_an_old_one_keeps_its_mode(tmp_path: Path) -> None:
    ordinary, private = tmp_path / "ordinary", tmp_path / "private"
    ordinary.write_bytes(b"")
    replace_file(tmp_path / "new", [b""])
    assert (tmp_path / "new").stat().st_mode == ordinary.stat().st_mode

    private.write_bytes(b"")
    private.chmod(0o600)
    replace_file(private, [b"x"])
    assert stat.S_IMODE(private.stat().st_mode) == 0o600


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    replace_file(tmp_path / "link", [b"new"])
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "nowhere" / "file", [b""])


FULL_DISK = """
import resource, sys
from pathlib import Path
from verse.atomic_file import replacing

resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
path = Path(sys.argv[1])
try:
    with replacing(path) as stream:
        stream.write(b"x" * 100)
        raise ValueError("the cause")
except ValueError:
    sys.exit([entry.name for entry in path.parent.iterdir()] != ["file"])
"""


def test_a_full_disk_does_not_hide_why_writing_was_given_up(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    code = [sys.executable, "-c", FULL_DISK, str(tmp_path / "file")]
    assert subprocess.run(code, check=False, timeout=30).returncode == 0
    assert (tmp_path / "file").read_bytes() == b"old"
