"""The file of poems: on the disk when `write` returns, one writer, one plan."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.generate.conftest import poems_in
from verse import jsonl
from verse.records import Candidate, Sampling
from verse_clients.errors import InputError, OutputError
from verse_clients.generate.output import Output, check_plan
from verse_clients.generate.plan import Source, make_plan

PATH = Path("poems.jsonl")


def open_output(path: Path = PATH, tell: Callable[[str], object] = print) -> Output:
    return Output(path, tell)


def poem(number: int) -> Candidate:
    return Candidate(theme="风", text=f"第{number}首", sample=number)


@pytest.mark.anyio
async def test_a_poem_is_on_the_disk_when_write_returns() -> None:
    output = open_output()
    for number in range(3):
        await output.write(poem(number))
        assert poems_in(PATH)[-1] == poem(number)
    await output.close()


@pytest.mark.anyio
async def test_many_poems_at_once_are_all_written_whole() -> None:
    output = open_output()
    await asyncio.gather(*(output.write(poem(number)) for number in range(50)))
    await output.close()
    assert sorted(poems_in(PATH), key=lambda p: p.sample) == [poem(n) for n in range(50)]


@pytest.mark.anyio
async def test_a_writer_that_is_cancelled_loses_nothing() -> None:
    output = open_output()
    task = asyncio.create_task(output.write(poem(0)))
    await asyncio.sleep(0)
    task.cancel()
    await output.close()
    assert poems_in(PATH) == [poem(0)]


@pytest.mark.anyio
async def test_a_second_run_on_the_same_file_is_refused() -> None:
    output = open_output()
    with pytest.raises(OutputError, match="being written by another run"):
        open_output()
    await output.close()
    await open_output().close()


@pytest.mark.anyio
async def test_a_disk_that_refused_once_gets_the_poem_when_the_file_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    output = open_output()
    with monkeypatch.context() as patch:
        patch.setattr(jsonl, "append_to", refuse)
        with pytest.raises(OutputError):
            await output.write(poem(0))
    await output.close()
    assert poems_in(PATH) == [poem(0)]


@pytest.mark.anyio
async def test_a_file_that_is_removed_is_written_again_and_that_is_told_once() -> None:
    told: list[str] = []
    output = open_output(tell=told.append)
    await output.write(poem(0))
    PATH.unlink()  # noqa: ASYNC240
    await output.write(poem(1))
    await output.write(poem(2))
    await output.close()
    assert poems_in(PATH) == [poem(0), poem(1), poem(2)]
    sentence = "poems.jsonl was removed while it was in use; it was written again, with 2 lines."
    assert told == [output.recovered] == [sentence]


async def write_and_close(output: Output, poem: Candidate) -> None:
    await output.write(poem)
    await output.close()


def test_a_torn_last_line_is_set_aside_and_kept() -> None:
    jsonl.append(PATH, poem(0))
    PATH.write_bytes(PATH.read_bytes() + b'{"theme": "\xe9')
    output = open_output()
    asyncio.run(write_and_close(output, poem(1)))
    assert output.torn is not None
    assert output.torn.name == "poems.jsonl.torn"
    assert output.torn.read_bytes() == b'{"theme": "\xe9\n'
    assert poems_in(PATH) == [poem(0), poem(1)]


@pytest.mark.anyio
async def test_a_disk_that_refuses_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    output = open_output()
    with monkeypatch.context() as patch:
        patch.setattr(jsonl, "append_to", refuse)
        with pytest.raises(OutputError, match="No space left on device; run the same command"):
            await output.write(poem(0))
        with pytest.raises(OutputError):
            await output.close()
    await open_output().close()


def test_a_place_that_cannot_be_written_is_told() -> None:
    with pytest.raises(OutputError, match="cannot be written: No such file"):
        open_output(Path("nowhere/poems.jsonl"))


def test_a_file_of_something_else_is_left_alone() -> None:
    PATH.write_text("a letter\n", "utf-8")
    with pytest.raises(InputError, match="It holds no poems"):
        open_output()
    assert PATH.read_text("utf-8") == "a letter\n"


def test_poems_of_another_plan_are_named() -> None:
    plan = make_plan(["雨"], [Source("x", "x")], [None], num_samples=1, sampling=Sampling(), seed=0)
    check_plan(PATH, plan, [])
    with pytest.raises(OutputError, match="1 poem of another plan"):
        check_plan(PATH, plan, [poem(0)])
