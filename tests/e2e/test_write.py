"""`verse write` with nothing running: the base is loaded for the poem, and gone after it."""

import os
import subprocess
from pathlib import Path

from tests.e2e.conftest import VERSE

POEM = ["write", "河", "--model", "xuzhimo@64", "--seed", "3", "--max-tokens", "12"]


def test_a_poem_is_written_from_an_empty_folder_and_no_server_stays(tmp_path: Path) -> None:
    env = {**os.environ, "OPENAI_BASE_URL": "", "MARK_OF_THIS_TEST": str(tmp_path)}
    ran = subprocess.run(
        [VERSE, *POEM],
        check=False,
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert ran.returncode == 0, ran.stderr
    assert any("\u4e00" <= character <= "\u9fff" for character in ran.stdout)
    assert ran.stderr == "The poem was cut off; --max-tokens allows more.\n"
    assert list(tmp_path.iterdir()) == []
    marked = f"MARK_OF_THIS_TEST={tmp_path}".encode()
    assert [path for path in Path("/proc").glob("[0-9]*/environ") if marked in _read(path)] == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # another user's, or just ended
        return b""
