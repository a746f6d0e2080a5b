"""How much is kept of responses: the oldest go first."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from verse_server.state.errors import RecordNotFoundError
from verse_server.state.responses import ResponseStore, StoredResponse


def response(number: int, num_bytes: int = 10) -> StoredResponse:
    items = ((f"msg_{number}", b"{}"),)
    return StoredResponse(id=f"resp_{number}", body=b"x" * num_bytes, input=b"[]", items=items)


def with_store(
    folder: Path, work: Callable[[ResponseStore], Coroutine[Any, Any, None]], **bounds: int
) -> None:
    store = ResponseStore(folder, **bounds)
    try:
        asyncio.run(work(store))
    finally:
        store.close()


async def kept(store: ResponseStore, num_saved: int) -> list[int]:
    found: list[int] = []
    for number in range(num_saved):
        try:
            await store.get(f"resp_{number}")
        except RecordNotFoundError:
            continue
        found.append(number)
    return found


def test_only_so_many_are_kept_and_their_items_go_with_them(tmp_path: Path) -> None:
    async def work(store: ResponseStore) -> None:
        for number in range(5):
            await store.save(response(number))
        assert await kept(store, 5) == [3, 4]
        assert await store.item("msg_4") == b"{}"
        with pytest.raises(RecordNotFoundError):
            await store.item("msg_0")

    with_store(tmp_path, work, max_responses=2)


def test_only_so_many_bytes_are_kept_but_always_the_newest(tmp_path: Path) -> None:
    async def work(store: ResponseStore) -> None:
        for number in range(4):
            await store.save(response(number, 400))
        assert await kept(store, 4) == [2, 3]
        await store.save(response(4, 5000))
        assert await kept(store, 5) == [4]

    with_store(tmp_path, work, max_bytes=1000)


def test_two_servers_share_a_folder(tmp_path: Path) -> None:
    async def work(store: ResponseStore) -> None:
        other = ResponseStore(tmp_path)
        await asyncio.gather(*(s.save(response(n)) for n, s in enumerate([store, other] * 20)))
        assert len(await kept(store, 40)) == len(await kept(other, 40)) == 40
        other.close()

    with_store(tmp_path, work)


def test_asking_makes_no_folder(tmp_path: Path) -> None:
    async def work(store: ResponseStore) -> None:
        with pytest.raises(RecordNotFoundError):
            await store.get("resp_\ud800")
        with pytest.raises(RecordNotFoundError):
            await store.delete("resp_0")

    with_store(tmp_path / "state", work)
    assert not (tmp_path / "state").exists()
