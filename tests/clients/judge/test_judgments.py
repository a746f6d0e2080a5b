"""The cache of a judge: what others do to its file meanwhile costs no answer."""

import asyncio
import threading
import time
from io import FileIO
from pathlib import Path

import pytest

from tests.clients.fake_openai import FakeOpenAI
from tests.clients.judge.conftest import CACHE, NUM_POEMS, num_lines, verse_judge, wait_for
from verse import jsonl
from verse.records import Judgment
from verse_clients.errors import OutputError
from verse_clients.judge.judgments import Judgments, read_judgments


def judgment(key: str) -> Judgment:
    return Judgment(
        key=key, judge="base", server="http://x/v1", prompt="rubric-zh-1", candidates=("one",),
        outcome="unparsed",
    )  # fmt: skip


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_cache_that_is_removed_meanwhile_keeps_every_answer_and_that_is_told(
    fake: FakeOpenAI, capfd: pytest.CaptureFixture[str], is_replaced: bool
) -> None:
    gate = fake.script.gate = threading.Event()
    fake.script.free_calls = NUM_POEMS

    def interfere() -> None:
        wait_for(lambda: num_lines(CACHE) == NUM_POEMS)
        if is_replaced:
            Path("other").write_bytes(b"")
            Path("other").replace(CACHE)
        else:
            CACHE.unlink()
        fake.script.gate = None
        gate.set()

    thread = threading.Thread(target=interfere)
    thread.start()
    code = verse_judge(fake, "--concurrency", "2")
    thread.join()
    assert code == 2
    kept = Path("ranked.judgments.recovered.jsonl") if is_replaced else CACHE
    assert len(read_judgments(kept)) == fake.num_calls > NUM_POEMS
    assert Path("ranked.json").exists()
    told = capfd.readouterr().err
    what = "was replaced by another file" if is_replaced else "was removed"
    assert f"{CACHE} {what} while it was in use" in told
    assert "The ranking is in ranked.json." in told


def test_a_second_run_on_one_cache_is_refused() -> None:
    first = Judgments(CACHE)
    with pytest.raises(OutputError, match="in use by another run; wait, or name another --cache"):
        Judgments(CACHE)
    asyncio.run(first.close())
    asyncio.run(Judgments(CACHE).close())


@pytest.mark.anyio
async def test_an_answer_that_is_being_written_when_the_run_ends_is_kept_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    append_to = jsonl.append_to
    is_writing = threading.Event()

    def slow(stream: FileIO, path: Path, *records: Judgment) -> None:
        is_writing.set()
        time.sleep(0.1)
        append_to(stream, path, *records)

    monkeypatch.setattr(jsonl, "append_to", slow)
    judgments = Judgments(CACHE)
    tasks = [asyncio.create_task(judgments.add(judgment(key))) for key in ("a", "b", "c")]
    await asyncio.to_thread(is_writing.wait)
    for task in tasks:
        task.cancel()
    await judgments.close()
    assert [kept.key for kept in read_judgments(CACHE)] == ["a", "b", "c"]


def test_a_file_of_something_else_is_left_alone() -> None:
    CACHE.write_text("a letter\n", "utf-8")
    with pytest.raises(OutputError, match="It holds no judgments"):
        Judgments(CACHE)
    assert CACHE.read_text("utf-8") == "a letter\n"
