"""Files that are only added to: locked, written at once, and never lost to what others do."""

import asyncio
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from verse import UserError, jsonl
from verse.journal import AsyncJournal, Journal, read_entries
from verse.records import Poem

DECODER = msgspec.json.Decoder(Poem)
IN_USE = UserError("It is in use.")


def poem(number: int) -> Poem:
    return Poem(theme="雨", text=f"第{number}场")


def opened(path: Path) -> Journal[Poem]:
    return Journal(path, DECODER, IN_USE)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "poems.jsonl"


def lock_of(file: Path) -> Path:
    return file.with_name("poems.jsonl.lock")


def test_an_entry_is_in_the_file_when_write_returns(file: Path) -> None:
    journal = opened(file)
    for number in range(3):
        assert journal.write(poem(number))
        assert read_entries(file, DECODER) == journal.entries
    assert journal.close()
    assert opened(file).entries == [poem(0), poem(1), poem(2)]


def test_one_that_nobody_holds_any_more_locks_nothing(file: Path) -> None:
    journal = opened(file)
    del journal
    opened(file).close()


def test_a_second_writer_is_refused_until_the_first_lets_go(file: Path) -> None:
    first = opened(file)
    with pytest.raises(UserError, match="in use"):
        opened(file)
    assert lock_of(file).exists()
    first.close()
    assert not lock_of(file).exists()
    opened(file).close()


def test_a_link_is_the_same_file(file: Path) -> None:
    link = file.with_name("link.jsonl")
    link.symlink_to(file)
    first = opened(file)
    with pytest.raises(UserError, match="in use"):
        opened(link)
    first.close()
    second = opened(link)
    assert second.write(poem(0))
    second.close()
    assert link.is_symlink()
    assert jsonl.read(file, DECODER) == [poem(0)]


def run_python(code: str, *arguments: Path) -> None:
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, timeout=30)


OPEN = """
import os, sys, msgspec
from pathlib import Path
from verse import UserError
from verse.journal import Journal
from verse.records import Poem
journal = Journal(Path(sys.argv[1]), msgspec.json.Decoder(Poem), UserError("in use"))
"""


def test_one_that_died_leaves_no_lock(file: Path) -> None:
    run_python(OPEN + "os._exit(0)", file)
    assert lock_of(file).exists()
    opened(file).close()
    assert not lock_of(file).exists()


def test_another_process_is_kept_out(file: Path) -> None:
    journal = opened(file)
    code = "try:\n" + "\n".join(f"    {line}" for line in OPEN.splitlines() if "import" not in line)
    code += "\nexcept UserError:\n    sys.exit(0)\nsys.exit(1)"
    imports = "\n".join(line for line in OPEN.splitlines() if "import" in line)
    run_python(f"{imports}\n{code}", file)
    journal.close()


def test_a_file_of_something_else_is_left_alone(file: Path) -> None:
    file.write_bytes(b"a letter\n\nwithout an end")
    with pytest.raises(jsonl.JsonlError, match=r"poems\.jsonl:1"):
        opened(file)
    assert [entry.name for entry in file.parent.iterdir()] == ["poems.jsonl"]
    assert file.read_bytes() == b"a letter\n\nwithout an end"


def test_a_torn_last_line_is_put_aside(file: Path) -> None:
    jsonl.append(file, poem(0))
    file.write_bytes(file.read_bytes() + b'{"theme": "\xe9')
    assert read_entries(file, DECODER) == [poem(0)]
    journal = opened(file)
    assert journal.torn == file.with_name("poems.jsonl.torn")
    assert journal.write(poem(1))
    journal.close()
    assert jsonl.read(file, DECODER) == [poem(0), poem(1)]


def test_what_the_disk_refuses_waits_and_is_written_later_in_order(tmp_path: Path) -> None:
    folder, away = tmp_path / "work", tmp_path / "away"
    folder.mkdir()
    journal = opened(folder / "poems.jsonl")
    assert journal.write(poem(0))
    folder.rename(away)
    assert not journal.write(poem(1))
    assert not journal.write(poem(2))
    assert (journal.num_waiting, journal.problem) == (2, "No such file or directory")
    away.rename(folder)
    assert journal.retry()
    assert (journal.num_waiting, journal.problem, journal.recovered) == (0, None, None)
    journal.close()
    assert jsonl.read(folder / "poems.jsonl", DECODER) == [poem(0), poem(1), poem(2)]


def test_a_file_that_cannot_be_begun_waits_too(tmp_path: Path) -> None:
    folder = tmp_path / "missing"
    journal = opened(folder / "poems.jsonl")
    assert journal.problem == "No such file or directory"
    assert not journal.write(poem(0))
    folder.mkdir()
    assert journal.close()
    assert jsonl.read(folder / "poems.jsonl", DECODER) == [poem(0)]


def test_one_that_somebody_else_began_meanwhile_is_not_mixed_with(tmp_path: Path) -> None:
    folder = tmp_path / "missing"
    journal = opened(folder / "poems.jsonl")
    assert not journal.write(poem(0))
    folder.mkdir()
    jsonl.append(folder / "poems.jsonl", poem(9))
    assert journal.write(poem(1))
    journal.close()
    assert jsonl.read(folder / "poems.jsonl", DECODER) == [poem(9)]
    assert jsonl.read(folder / "poems.recovered.jsonl", DECODER) == [poem(0), poem(1)]


def test_what_half_a_write_left_behind_is_put_aside_before_the_next(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_write = os.write

    def half(handle: int, data: bytes) -> int:
        if len(data) < 30:
            raise OSError(28, "No space left on device")
        return real_write(handle, data[:20])

    def refuse(*_: object) -> None:
        raise OSError(22, "Invalid argument")

    journal = opened(file)
    assert journal.write(poem(0))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        patch.setattr(os, "ftruncate", refuse)
        assert not journal.write(poem(1))
    assert journal.problem == "No space left on device"
    assert journal.write(poem(2))
    journal.close()
    assert jsonl.read(file, DECODER) == [poem(0), poem(1), poem(2)]
    assert journal.torn == file.with_name("poems.jsonl.torn")


LIMITED = f"""{OPEN}
import resource
NO_LIMIT = resource.RLIM_INFINITY
path = Path(sys.argv[1])
assert journal.write(Poem(theme="a", text="b"))
size = path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, NO_LIMIT))
assert not journal.write(Poem(theme="c", text="d"))
assert journal.num_waiting == 1 and journal.problem == "File too large"
assert path.stat().st_size == size
resource.setrlimit(resource.RLIMIT_FSIZE, (NO_LIMIT, NO_LIMIT))
assert journal.write(Poem(theme="e", text="f"))
assert len(journal.entries) == 3 and journal.recovered is None
"""


def test_a_full_disk_leaves_no_half_line_and_loses_nothing(file: Path) -> None:
    assert resource.RLIM_INFINITY == -1
    run_python(LIMITED, file)
    assert len(jsonl.read(file, DECODER)) == 3


def remove(file: Path) -> None:
    file.unlink()


def remove_all(file: Path) -> None:
    file.unlink()
    lock_of(file).unlink()


def replace(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(msgspec.json.encode(poem(99)) + b"\n")
    other.replace(file)


def cut_short(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize(
    ("change", "recovered", "sentence"),
    [
        (remove, "poems.jsonl", "was removed while it was in use; it was written again, with"),
        (remove_all, "poems.jsonl", "was removed while it was in use; it was written again, with"),
        (replace, "poems.recovered.jsonl", "was replaced by another file while it was in use; "),
        (cut_short, "poems.recovered.jsonl", "was cut short by another program while it was in "),
    ],
)
@pytest.mark.parametrize("num_after", [0, 1, 3])
def test_what_others_do_to_the_file_is_noticed_and_nothing_is_lost(
    file: Path, change: Callable[[Path], None], recovered: str, sentence: str, num_after: int
) -> None:
    journal = opened(file)
    journal.write(poem(0), poem(1))
    change(file)
    untouched = file.read_bytes() if file.exists() else None
    for number in range(num_after):
        assert journal.write(poem(2 + number))
    assert journal.close()
    assert journal.recovered is not None
    assert f"{file} {sentence}" in journal.recovered
    assert journal.path == file.with_name(recovered)
    assert jsonl.read(journal.path, DECODER) == [poem(n) for n in range(2 + num_after)]
    if journal.path != file:
        assert file.read_bytes() == untouched
        assert str(journal.path) in journal.recovered
    assert not list(file.parent.glob("*.lock"))


def test_a_folder_that_is_removed_is_made_again_in_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    journal = opened(folder / "poems.jsonl")
    journal.write(poem(0))
    for path in (folder / "poems.jsonl", folder / "poems.jsonl.lock"):
        path.unlink()
    folder.rmdir()
    assert not journal.write(poem(1))
    assert journal.close()
    assert jsonl.read(folder / "poems.jsonl", DECODER) == [poem(0), poem(1)]
    assert journal.recovered is not None


def test_a_removed_file_is_kept_from_others_where_it_was_written_again(file: Path) -> None:
    journal = opened(file)
    remove_all(file)
    journal.write(poem(0))
    with pytest.raises(UserError, match="in use"):
        opened(file)
    journal.close()


def test_a_lock_that_is_removed_lets_no_two_write_the_same_file(file: Path) -> None:
    first = opened(file)
    first.write(poem(0))
    lock_of(file).unlink()
    second = opened(file)
    second.write(poem(1))
    assert first.write(poem(2))
    second.write(poem(3))
    first.close()
    second.close()
    assert jsonl.read(file, DECODER) == [poem(0), poem(1), poem(3)]
    assert jsonl.read(first.path, DECODER) == [poem(0), poem(2)]
    assert first.recovered is not None
    assert second.recovered is None


def test_a_recovery_that_the_disk_refuses_is_tried_again(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    journal = opened(file)
    journal.write(poem(0))
    file.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(jsonl, "append_to", refuse)
        assert not journal.write(poem(1))
    assert journal.problem == "No space left on device"
    assert not file.exists()
    assert journal.retry()
    journal.close()
    assert jsonl.read(file, DECODER) == [poem(0), poem(1)]


class SlowDisk:
    """Lets a journal write only when it is told to, and notes what is written together."""

    def __init__(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.journal = AsyncJournal(file, DECODER, IN_USE)
        self.written: list[tuple[Poem, ...]] = []
        self._begun = threading.Semaphore(0)
        self._free = threading.Semaphore(0)
        write = self.journal.write

        def slow(*entries: Poem) -> bool:
            self.written.append(entries)
            self._begun.release()
            assert self._free.acquire(timeout=30)
            return write(*entries)

        monkeypatch.setattr(self.journal, "write", slow)

    async def begun(self) -> None:
        """Wait until it was given something."""
        assert await asyncio.to_thread(self._begun.acquire, timeout=30)

    def free(self) -> None:
        """Let it finish one write."""
        self._free.release()


def test_a_task_waits_for_its_own_entry_and_not_for_what_comes_later(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def add_three() -> None:
        disk = SlowDisk(file, monkeypatch)
        first = asyncio.create_task(disk.journal.add(poem(0)))
        await disk.begun()
        later = [asyncio.create_task(disk.journal.add(poem(number))) for number in (1, 2)]
        await asyncio.sleep(0)
        disk.free()
        assert await asyncio.wait_for(first, 30)
        await disk.begun()
        assert not any(task.done() for task in later)
        disk.free()
        assert await asyncio.gather(*later) == [True, True]
        assert disk.written == [(poem(0),), (poem(1), poem(2))]
        assert await disk.journal.finish()

    asyncio.run(add_three())
    assert jsonl.read(file, DECODER) == [poem(0), poem(1), poem(2)]


def test_a_task_that_is_cancelled_leaves_its_entry_behind_once(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def add_and_give_up() -> None:
        disk = SlowDisk(file, monkeypatch)
        tasks = [asyncio.create_task(disk.journal.add(poem(0)))]
        await disk.begun()
        tasks.append(asyncio.create_task(disk.journal.add(poem(1))))
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        end = asyncio.create_task(disk.journal.finish())
        await asyncio.wait(tasks)
        assert not end.done()
        disk.free()
        disk.free()
        assert await end

    asyncio.run(add_and_give_up())
    assert jsonl.read(file, DECODER) == [poem(0), poem(1)]
    assert not lock_of(file).exists()


def test_names_that_are_taken_are_passed_over(file: Path) -> None:
    file.with_name("poems.recovered.jsonl").write_text("mine", "utf-8")
    journal = opened(file)
    journal.write(poem(0))
    replace(file)
    journal.close()
    assert journal.path == file.with_name("poems.recovered-2.jsonl")
    assert file.with_name("poems.recovered.jsonl").read_text("utf-8") == "mine"


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.lists(st.sampled_from(["write", "remove", "replace", "cut", "unlock", "reopen"]), max_size=8)
)
def test_whatever_others_do_all_that_was_written_is_in_the_journals_file(
    tmp_path_factory: pytest.TempPathFactory, actions: list[str]
) -> None:
    file = tmp_path_factory.mktemp("journal") / "poems.jsonl"
    journal, written = opened(file), list[Poem]()
    for number, action in enumerate(actions):
        if action == "write":
            assert journal.write(poem(number))
            written.append(poem(number))
        elif action == "remove":
            journal.path.unlink(missing_ok=True)
        elif action == "replace":
            replace(file)
        elif action == "cut" and journal.path.exists():
            journal.path.write_bytes(b"")
        elif action == "unlock":
            journal.path.with_name(journal.path.name + ".lock").unlink(missing_ok=True)
        elif action == "reopen":
            assert journal.close()
            journal = opened(journal.path)
    assert journal.close()
    assert journal.entries == written
    assert read_entries(journal.path, DECODER) == written
