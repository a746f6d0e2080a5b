"""What is kept of batches: one result a line, one file of them, and nothing after their end."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from verse_server.state.batches import AskedBatch, RowResult, StoredBatch
from verse_server.state.errors import RecordInUseError
from verse_server.state.folder import ServerState

ASKED = AskedBatch(endpoint="/v1/chat/completions", input_file_id="file-1")


def result(line: int, body: bytes = b"{}", *, is_failed: bool = False) -> RowResult:
    return RowResult(line=line, is_failed=is_failed, body=body, output_tokens=3)


def with_batch(
    folder: Path, work: Callable[[ServerState, StoredBatch], Coroutine[Any, Any, None]]
) -> None:
    state = ServerState(folder)
    try:
        asyncio.run(begun(state, work))
    finally:
        state.close()


async def begun(
    state: ServerState, work: Callable[[ServerState, StoredBatch], Coroutine[Any, Any, None]]
) -> None:
    writer = state.files.writer()
    writer.write(b"rows")
    file = state.files.add(writer, filename="rows.jsonl", purpose="batch")
    batch = await state.batches.create(ASKED, file)
    await work(state, await state.batches.advance(batch.id, "in_progress", ("validating",)))


def test_a_line_has_one_result_and_is_counted_once(tmp_path: Path) -> None:
    async def work(state: ServerState, batch: StoredBatch) -> None:
        await state.batches.add(batch.number, [result(1, b"first"), result(2, is_failed=True)])
        await state.batches.add(batch.number, [result(1, b"second"), result(2)])
        found = await state.batches.get(batch.id)
        assert (found.completed, found.failed, found.output_tokens) == (1, 1, 6)
        assert await state.batches.done(batch.number) == {1, 2}
        file = await state.batches.publish(found, is_failed=False, filename="out")
        assert file is not None
        assert state.files.path(file.id).read_bytes() == b"first\n"

    with_batch(tmp_path, work)


def test_a_file_that_a_kill_left_behind_is_replaced_and_lines_are_in_order(tmp_path: Path) -> None:
    async def work(state: ServerState, batch: StoredBatch) -> None:
        lines = [*range(1, 451)]
        await state.batches.add(batch.number, [result(n, str(n).encode()) for n in lines[::-1]])
        found = await state.batches.get(batch.id)
        await state.batches.publish(found, is_failed=False, filename="out")
        file = await state.batches.publish(found, is_failed=False, filename="out")
        listed = await state.files.list(purpose="batch_output", after=None, limit=9, order="asc")
        assert listed.items == (file,)
        assert file is not None
        assert [*map(int, state.files.path(file.id).read_bytes().split())] == lines
        assert len([*(tmp_path / "files").iterdir()]) == 2
        assert await state.batches.publish(found, is_failed=True, filename="errors") is None

    with_batch(tmp_path, work)


def test_nothing_is_kept_of_what_has_ended_and_it_ends_once(tmp_path: Path) -> None:
    async def work(state: ServerState, batch: StoredBatch) -> None:
        assert await state.batches.unfinished() == batch
        await state.batches.add(batch.number, [result(1)])
        await state.batches.close(await state.batches.get(batch.id), "cancelled")
        assert await state.batches.done(batch.number) == set()
        assert await state.batches.unfinished() is None
        assert not state.batches.input_path(batch.id).exists()
        with pytest.raises(RecordInUseError, match="cancelled already"):
            await state.batches.close(batch, "completed")

    with_batch(tmp_path, work)


def test_requests_of_no_batch_are_removed_when_the_folder_is_opened(tmp_path: Path) -> None:
    (tmp_path / "batches").mkdir()
    (tmp_path / "batches" / "batch_0.jsonl").write_text("left by a kill")

    async def work(state: ServerState, batch: StoredBatch) -> None:
        assert [*(tmp_path / "batches").iterdir()] == [state.batches.input_path(batch.id)]

    with_batch(tmp_path, work)
