"""Uploads of the largest size there is, and of one byte more: real ones, so only with `-m perf`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Serve, Served
from tests.e2e.test_memory import resident_bytes
from verse_server.api.uploads import MAX_FILE_BYTES

pytestmark = pytest.mark.perf

BOUNDARY = "limit"
HEAD = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
).encode()
TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()
PIECE = b"0123456789abcdef" * (1 << 16)
MOST_MEMORY = 64 << 20
"""How much the process may grow by, of half a gigabyte that passes through it."""


def form(num_bytes: int) -> Iterator[bytes]:
    yield HEAD
    for _ in range(num_bytes // len(PIECE)):
        yield PIECE
    yield PIECE[: num_bytes % len(PIECE)]
    yield TAIL


def upload(served: Served, num_bytes: int, *, tells_length: bool) -> Any:
    headers = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    if tells_length:
        headers["content-length"] = str(len(HEAD) + num_bytes + len(TAIL))
    url = f"{served.base_url}/files"
    return httpx.post(url, content=form(num_bytes), headers=headers, timeout=300)


@pytest.fixture
def served(serve: Serve, tmp_path: Path) -> Served:
    (tmp_path / "mine").mkdir()
    return serve("--jobs", adapters=tmp_path / "mine" / "adapters")


@pytest.mark.parametrize("tells_length", [True, False])
@pytest.mark.parametrize("too_many", [1, 1 << 20])
def test_what_is_too_large_is_refused_and_nothing_is_left_of_it(
    served: Served, too_many: int, tells_length: bool
) -> None:
    before = resident_bytes(served)
    answer = upload(served, MAX_FILE_BYTES + too_many, tells_length=tells_length)
    assert answer.status_code == 413
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("file_too_large", "file")
    assert "512 MB" in error["message"]
    assert list((served.adapters.parent / "state" / "files").iterdir()) == []
    assert served.client.files.list().data == []
    assert resident_bytes(served) - before < MOST_MEMORY


def test_the_largest_one_is_taken_and_comes_back_whole(served: Served) -> None:
    before = resident_bytes(served)
    answer = upload(served, MAX_FILE_BYTES, tells_length=True)
    assert answer.status_code == 200, answer.text
    file = answer.json()
    assert file["bytes"] == MAX_FILE_BYTES
    num_bytes = 0
    with httpx.stream("GET", f"{served.base_url}/files/{file['id']}/content") as content:
        for piece in content.iter_bytes(len(PIECE)):
            assert piece == PIECE[: len(piece)]
            num_bytes += len(piece)
    assert num_bytes == MAX_FILE_BYTES
    assert resident_bytes(served) - before < MOST_MEMORY
