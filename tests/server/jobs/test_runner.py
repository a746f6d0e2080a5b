"""The queue of trainings, with a process that trains nothing but is one."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from verse_server.jobs.preflight import memory_problem
from verse_server.jobs.runner import JobBase, JobRunner
from verse_server.jobs.trainer_process import MemoryFigures, TrainerProcess
from verse_server.jobs.training_keys import AskedFor, adapter_names, training_keys
from verse_server.state.errors import RecordInUseError
from verse_server.state.files import StoredFile
from verse_server.state.folder import ServerState
from verse_server.state.jobs import Job, JobPlan

COMMAND = (sys.executable, str(Path(__file__).with_name("fake_trainer.py")))
ROW = b'{"theme": "a"}\n'


def plenty(_taken: int) -> int:
    return 10**12


def little(_taken: int) -> int:
    return 10**8


@asynccontextmanager
async def running(folder: Path, **options: Any) -> AsyncGenerator[JobRunner]:
    """A runner over a state folder, as a server has it from start to end."""
    state = ServerState(folder / "state")
    base = JobBase(
        model="some/base",
        id="base-1",
        bytes=40_000_000,
        num_parameters=10_000_000,
        adapters=folder / "adapters",
    )
    options = {"free_memory": plenty} | options
    runner = JobRunner(
        state, base, make_process=partial(TrainerProcess, command=COMMAND), **options
    )
    await runner.start()
    try:
        yield runner
    finally:
        await runner.stop()
        state.close()


async def submit(runner: JobRunner, data: bytes = ROW, suffix: str | None = "mine") -> Job:
    file = await asyncio.to_thread(added, runner, data)
    plan = JobPlan(
        model="base-1",
        training_file=file.id,
        training_name="poems.jsonl",
        hyperparameters={},
        seed=7,
        keys={"method": "sft", "epochs": 1},
    )
    return await runner.create(plan, lambda id_: adapter_names("base-1", suffix, id_), file)


def added(runner: JobRunner, data: bytes) -> StoredFile:
    writer = runner.files.writer()
    writer.write(data)
    return runner.files.add(writer, filename="poems.jsonl", purpose="fine-tune")


async def until(runner: JobRunner, id_: str, *statuses: str) -> Job:
    async with asyncio.timeout(60):
        while (job := await runner.jobs.get(id_)).status not in statuses:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return job


async def has_checkpoint(runner: JobRunner, id_: str) -> None:
    while not await steps(runner, id_):  # noqa: ASYNC110  (another process has no event for it)
        await asyncio.sleep(0.01)


async def messages(runner: JobRunner, id_: str) -> list[str]:
    page = await runner.jobs.events(id_, after=None, limit=100)
    return [event.message for event in reversed(page.items)]


async def steps(runner: JobRunner, id_: str) -> list[int]:
    page = await runner.jobs.checkpoints(id_, after=None, limit=100)
    return [checkpoint.step for checkpoint in reversed(page.items)]


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(120):
            await test()

    asyncio.run(bounded())


def test_a_job_goes_from_its_file_to_an_adapter(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path) as runner:
            job = await submit(runner)
            job = await until(runner, job.id, "succeeded", "failed")
            assert (job.status, job.adapter, job.trained_tokens) == ("succeeded", "mine", 600)
            assert await steps(runner, job.id) == [2, 4, 6]
            told = await messages(runner, job.id)
            assert told[:3] == [
                "The job was created.",
                "The files are valid; the job is queued.",
                "The job started.",
            ]
            assert "Step 2: validation loss=4.8000" in told
            assert told[-1].startswith("The job succeeded after 6 steps; step 6 is the best")
            last = (await runner.jobs.checkpoints(job.id, after=None, limit=1)).items[0]
            assert last.metrics == {"step": 6, "train_loss": 3.0, "valid_loss": 4.4}

    run(test)


def test_a_job_that_succeeded_leaves_its_losses_as_a_table(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path) as runner:
            job = await submit(runner)
            # As if a server had been killed between the file and the end of its job.
            name = f"{job.id}_step_metrics.csv"
            writer = runner.files.writer()
            runner.files.add(writer, filename=name, purpose="fine-tune-results")
            job = await until(runner, job.id, "succeeded")
            assert job.result_file is not None
            file = await runner.files.get(job.result_file)
            assert (file.filename, file.purpose) == (name, "fine-tune-results")
            assert runner.files.path(file.id).read_text().splitlines() == [
                *("step,train_loss,valid_loss", "1,8.0,", "2,7.0,4.8", "3,6.0,", "4,5.0,4.6"),
                *("5,4.0,", "6,3.0,4.4"),
            ]
            listed = await runner.files.list(
                purpose="fine-tune-results", after=None, limit=9, order="desc"
            )
            assert [one.id for one in listed.items] == [file.id]
            [shown] = (await runner.jobs.list(after=None, limit=9, metadata={})).items
            assert shown == job

    run(test)


def test_jobs_run_one_at_a_time_in_the_order_they_came(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path) as runner:
            jobs = [await submit(runner) for _ in range(3)]
            assert [job.adapter for job in jobs] == ["mine", "mine-2", "mine-3"]
            for index, job in enumerate(jobs):
                await until(runner, job.id, "succeeded")
                later = [(await runner.jobs.get(j.id)).status for j in jobs[index + 2 :]]
                assert set(later) <= {"validating_files", "queued"}

    run(test)


def test_a_bad_row_fails_with_its_line_and_without_a_path(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path) as runner:
            job = await submit(runner, ROW + b'{"fail": "this is not a training row"}\n')
            job = await until(runner, job.id, "failed")
            assert job.error is not None
            assert (job.error.code, job.error.param) == ("invalid_training_file", "training_file")
            assert job.error.message == "poems.jsonl:2: this is not a training row."
            assert not (tmp_path / "adapters" / "mine").exists()

    run(test)


def test_a_process_that_is_killed_fails_its_job_and_the_next_one_runs(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path) as runner:
            dead, alive = await submit(runner, b'{"die": true}\n'), await submit(runner)
            dead = await until(runner, dead.id, "failed")
            assert dead.error is not None
            assert "signal 9, most likely because memory ran out" in dead.error.message
            await until(runner, alive.id, "succeeded")

    run(test)


def test_a_file_may_be_deleted_while_its_job_waits(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path) as runner:
            job = await submit(runner)
            await runner.files.delete(job.plan.training_file)
            await until(runner, job.id, "succeeded")

    run(test)


def test_a_paused_job_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_STEPS", "40")

    async def test() -> None:
        async with running(tmp_path) as runner:
            job = await submit(runner)
            await has_checkpoint(runner, job.id)
            assert (await runner.pause(job.id)).status == "paused"
            other = await submit(runner, suffix="other")
            await until(runner, other.id, "succeeded")  # the paused one is in nobody's way
            assert (await runner.jobs.get(job.id)).status == "paused"
            await runner.resume(job.id)
            await until(runner, job.id, "succeeded")
            found = await steps(runner, job.id)
            assert found == sorted(set(found))
            assert found[-1] == 40
            assert any(
                text.startswith("Going on from step") for text in await messages(runner, job.id)
            )

    run(test)


def test_a_cancelled_job_ends_and_keeps_its_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_STEPS", "2000")

    async def test() -> None:
        async with running(tmp_path) as runner:
            job, waiting = await submit(runner), await submit(runner)
            await has_checkpoint(runner, job.id)
            assert (await runner.cancel(waiting.id)).status == "cancelled"
            assert (await runner.cancel(job.id)).finished_at is not None
            for change in (runner.cancel, runner.pause, runner.resume):
                with pytest.raises(RecordInUseError, match="is cancelled; this is possible only"):
                    await change(job.id)
            assert await steps(runner, job.id)

    run(test)


def test_a_server_that_stops_goes_on_with_its_jobs_when_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_STEPS", "40")

    async def test() -> None:
        async with running(tmp_path) as runner:
            first, second = await submit(runner), await submit(runner)
            await has_checkpoint(runner, first.id)
        async with running(tmp_path) as runner:
            await until(runner, second.id, "succeeded")
            assert (await runner.jobs.get(first.id)).status == "succeeded"
            found = await steps(runner, first.id)
            assert found == sorted(set(found))
            trained = [text for text in await messages(runner, first.id) if "training loss" in text]
            assert len(trained) == len(set(trained)) == 40

    run(test)


def test_a_job_that_does_not_fit_fails_with_the_figures(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path, free_memory=little) as runner:
            job = await until(runner, (await submit(runner)).id, "failed")
            assert job.error is not None
            assert job.error.code == "validation"
            assert "0.10 GB are free" in job.error.message

    run(test)


def test_the_base_is_released_while_a_job_trains_and_only_then(tmp_path: Path) -> None:
    story: list[str] = []

    @asynccontextmanager
    async def release() -> AsyncGenerator[None]:
        story.append("released")
        yield
        story.append("back")

    async def test() -> None:
        async with running(tmp_path, release_base=release) as runner:
            await until(runner, (await submit(runner, b'{"fail": "x"}\n')).id, "failed")
            assert story == []
            await until(runner, (await submit(runner)).id, "succeeded")
            while len(story) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert story == ["released", "back"]

    run(test)


GIGABYTE = 10**9


def test_memory_is_counted_beside_the_base_or_without_it() -> None:
    needed = MemoryFigures(weights_bytes=2 * GIGABYTE, logits_bytes=GIGABYTE)
    assert memory_problem(None, 0, 0, releases_base=False) is None
    assert memory_problem(needed, 4 * GIGABYTE, 0, releases_base=False) is None
    beside = memory_problem(needed, 2 * GIGABYTE, 2 * GIGABYTE, releases_base=False)
    assert beside is not None
    assert "3.27 GB (weights 2.00 GB" in beside
    assert "2.00 GB are free; start the server with --release-base-while-training" in beside
    assert memory_problem(needed, 2 * GIGABYTE, 2 * GIGABYTE, releases_base=True) is None
    alone = memory_problem(needed, 0, 2 * GIGABYTE, releases_base=True)
    assert alone is not None
    assert "2.00 GB are free once the base is released" in alone


def asked(**fields: Any) -> AskedFor:
    names = ("num_epochs", "batch_size", "learning_rate_multiplier", "beta")
    values: dict[str, Any] = dict.fromkeys(names)
    values |= {"method": "supervised", "seed": 1, "settings": {}}
    return AskedFor(**values | fields)


def test_auto_is_what_suits_the_base() -> None:
    small, large = training_keys(asked(), 10_000_000), training_keys(asked(), 7_000_000_000)
    assert (small["learning_rate"], small["batch_size"], small["epochs"]) == (1e-3, 4, 15)
    assert (large["learning_rate"], large["batch_size"]) == (1e-4, 2)
    twice = training_keys(asked(learning_rate_multiplier=2.0, num_epochs=3), 10_000_000)
    assert (twice["learning_rate"], twice["epochs"]) == (2e-3, 3)
    dpo = training_keys(asked(method="dpo", beta=0.2), 10_000_000)
    assert (dpo["method"], dpo["beta"]) == ("dpo", 0.2)
    assert "lr_schedule" not in dpo


def test_settings_win_over_the_rest() -> None:
    keys = training_keys(asked(settings={"iters": 5, "learning_rate": 0.5}), 1)
    assert (keys["iters"], keys["learning_rate"]) == (5, 0.5)
    assert "epochs" not in keys


def test_a_signal_from_outside_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_STEPS", "2000")

    async def test() -> None:
        async with running(tmp_path) as runner:
            job = await submit(runner)
            await has_checkpoint(runner, job.id)
            lock = tmp_path / "state" / "jobs" / "trainer.lock"
            os.kill(int(lock.read_text()), signal.SIGTERM)
            job = await until(runner, job.id, "failed")
            assert job.error is not None
            assert "stopped from outside" in job.error.message

    run(test)
