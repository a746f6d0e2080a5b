"""Runs the jobs of a server: new ones are validated as they come, one at a time is trained.

    validating_files   rows and memory are looked at, beside a training      -> queued, failed
    queued             waits for its turn                                    -> running
    running            trains                                                -> succeeded, failed
    paused             by its client; resumed it is queued again

Only the database says how far a job is. A server that is killed finds a running job there when it
starts again, waits until that job's process is gone, and lets it go on from its last checkpoint.
"""

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext, suppress
from pathlib import Path
from typing import Any

import msgspec

from verse.adapter_folder import MLX_WEIGHTS_FILE
from verse.terminal import counted
from verse_server.jobs.adapter_start import AdapterStart
from verse_server.jobs.preflight import free_memory_bytes, memory_problem
from verse_server.jobs.trainer_process import (
    STOP_SECONDS,
    TrainerMessage,
    TrainerProcess,
    wait_for_orphan,
    written_messages,
)
from verse_server.jobs.training_keys import training_request
from verse_server.state.errors import RecordInUseError, StateError
from verse_server.state.files import StoredFile
from verse_server.state.folder import ServerState
from verse_server.state.jobs import (
    UNFINISHED,
    Job,
    JobError,
    JobPlan,
    JobStatus,
    StepLosses,
    new_id,
)

_RETRY_SECONDS = 5.0
_START = "start"
_TRAIN, _VALID = "train.jsonl", "valid.jsonl"
_UNCHECKED = "The files could not be validated; the log of the job in the state folder says why."
_STATE_OF_A_RUN = "run.json"
_RESULTS = "fine-tune-results"
_log = logging.getLogger(__name__)

Work = Callable[[Job], Awaitable[None]]
MakeProcess = Callable[[Mapping[str, Any], Path, Path], TrainerProcess]


class JobBase(msgspec.Struct, frozen=True, kw_only=True):
    """What jobs train on."""

    model: str
    """Its folder or id, as the trainer finds it too."""
    id: str
    bytes: int
    num_parameters: int
    adapters: Path


class JobRunner:
    """All jobs of one server; everything here belongs to its event loop."""

    def __init__(
        self,
        state: ServerState,
        base: JobBase,
        *,
        release_base: Callable[[], AbstractAsyncContextManager[None]] | None = None,
        make_process: MakeProcess = TrainerProcess,
        free_memory: Callable[[int], int] = free_memory_bytes,
    ) -> None:
        """Take what is there; `start` begins.

        Args:
            state: Where the jobs are.
            base: What they train.
            release_base: Lets go of the resident base while a block runs; None keeps it.
            make_process: Makes the process that trains, from its request, log and lock.
            free_memory: Bytes that a training may take, given those that the base takes.
        """
        self.base = base
        self.jobs = state.jobs
        self.files = state.files
        self._folder = state.folder / "jobs"
        self._lock = self._folder / "trainer.lock"
        self._release_base = release_base
        self._make_process = make_process
        self._free_memory = free_memory
        self._changed = asyncio.Event()
        self._running: tuple[str, TrainerProcess] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._is_stopping = False

    async def start(self) -> None:
        """Put in order what an earlier server left, and begin."""
        self._folder.mkdir(parents=True, exist_ok=True)
        known = await self.jobs.ids()
        for folder in self._folder.iterdir():
            if folder.is_dir() and folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)  # killed before its job was kept
        self._tasks = [
            asyncio.create_task(self._for_ever(("validating_files",), self._validate)),
            asyncio.create_task(self._train_all()),
        ]

    async def stop(self) -> None:
        """Let the running job save what it has; it goes on when a server starts again."""
        self.interrupt()
        if self._running is not None:  # what it reports while it saves counts
            await asyncio.wait(self._tasks[-1:], timeout=STOP_SECONDS)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def interrupt(self) -> None:
        """Ask the running job to save and end, and begin no other one."""
        self._is_stopping = True
        self._changed.set()
        if self._running is not None:
            self._running[1].stop()

    async def create(
        self,
        plan: JobPlan,
        names: Callable[[str], list[str]],
        *files: StoredFile | None,
        start: AdapterStart | None = None,
    ) -> Job:
        """Keep a new job with a copy of its rows, so that its files may be deleted.

        Args:
            plan: What it shall do.
            names: Of its adapter, given the job's id; the first one that is free is taken.
            files: The training file, and one to validate with or None.
            start: The adapter that a plan which goes on from one names.
        """
        id_ = new_id("ftjob")
        await asyncio.to_thread(self._copy, id_, files, start)
        free = [name for name in names(id_) if not (self.base.adapters / name).exists()]
        job = await self.jobs.create(id_, plan, free)
        self._changed.set()
        return job

    async def cancel(self, id_: str) -> Job:
        """End a job for good; its checkpoints stay.

        Raises:
            StateError: there is no such job, or it has ended already.
        """
        allowed: tuple[JobStatus, ...] = ("validating_files", "queued", "running", "paused")
        job = await self.jobs.move(id_, allowed, "cancelled", "The job was cancelled.")
        self._interrupt(id_)
        return job

    async def pause(self, id_: str) -> Job:
        """Hold a job; what it has trained is saved. Raises as `cancel`."""
        job = await self.jobs.move(id_, ("queued", "running"), "paused", "The job was paused.")
        self._interrupt(id_)
        return job

    async def resume(self, id_: str) -> Job:
        """Let a paused job go on when its turn comes. Raises as `cancel`."""
        job = await self.jobs.move(id_, ("paused",), "queued", "The job was resumed.")
        self._changed.set()
        return job

    def _interrupt(self, id_: str) -> None:
        if self._running is not None and self._running[0] == id_:
            self._running[1].stop()

    def _copy(
        self, id_: str, files: tuple[StoredFile | None, ...], start: AdapterStart | None
    ) -> None:
        data = self._folder / id_ / "data"
        data.mkdir(parents=True)
        for file, name in zip(files, (_TRAIN, _VALID), strict=False):
            if file is not None:
                source = self.files.path(file.id)
                try:
                    (data / name).hardlink_to(source)
                except OSError:  # a file system that has no links
                    shutil.copyfile(source, data / name)
        if start is not None:
            start.copy(self._folder / id_ / _START)

    async def _train_all(self) -> None:
        await wait_for_orphan(self._lock)
        await self._for_ever(("running", "queued"), self._train)

    async def _for_ever(self, statuses: tuple[JobStatus, ...], work: Work) -> None:
        """Do the oldest job in one of these states, then the next, or wait for one."""
        while not self._is_stopping:
            self._changed.clear()
            try:
                job = await self.jobs.first(*statuses)
                if job is not None:
                    await self._guarded(work, job)
                    continue
            except StateError as error:  # a full disk: it may have room later
                _log.error("jobs: %s", error)
            with suppress(TimeoutError):
                async with asyncio.timeout(_RETRY_SECONDS):
                    await self._changed.wait()

    async def _guarded(self, work: Work, job: Job) -> None:
        """Whatever is wrong with one job, the next one gets its turn.

        Raises:
            StateError: nothing can be written down, so nothing can go on.
        """
        try:
            await work(job)
        except StateError:
            raise
        except Exception as error:  # noqa: BLE001  (a bug in one job must not end all)
            _log.exception("job %s failed", job.id)
            reason = error.strerror if isinstance(error, OSError) else None
            text = f"The server could not run the job ({reason or 'a fault of its own'})."
            failure = JobError(code="training_failed", message=text)
            with suppress(RecordInUseError):
                await self.jobs.move(job.id, UNFINISHED, "failed", text, error=failure)

    async def _validate(self, job: Job) -> None:
        process = self._process(job, self._folder / "check.lock", check=True)
        failure: JobError | None = JobError(code="validation", message=_UNCHECKED)
        async with aclosing(process.messages()) as messages:
            async for message in messages:
                if message.event == "failed":
                    failure = self._failure(job, message)
                elif message.event == "checked":
                    failure = await self._preflight(job, message)
        if failure is None:
            await self._move(
                job, "validating_files", "queued", "The files are valid; the job is queued."
            )
        else:
            await self._move(job, "validating_files", "failed", failure.message, failure)
        self._changed.set()

    async def _preflight(self, job: Job, checked: TrainerMessage) -> JobError | None:
        for note in checked.notes:
            await self.jobs.note(job.id, self._shown(job, note), level="warn", key=note)
        problem = memory_problem(
            checked.memory_estimate,
            self._free_memory(self.base.bytes),
            self.base.bytes,
            releases_base=self._release_base is not None,
        )
        return None if problem is None else JobError(code="validation", message=problem)

    async def _train(self, job: Job) -> None:
        is_new = job.status == "queued"
        if is_new and not await self._move(job, "queued", "running", "The job started."):
            return
        if not is_new:
            await self.jobs.note(job.id, "The server was restarted; the job goes on.")
        released = nullcontext() if self._release_base is None else self._release_base()
        async with released:
            process = self._process(job, self._lock, check=False)
            self._running = (job.id, process)
            try:
                await self._recover(job)
                # Cancelled or paused before anybody could interrupt it?
                if (await self.jobs.get(job.id)).status == "running":
                    await self._follow(job, process)
            finally:
                self._running = None

    async def _follow(self, job: Job, process: TrainerProcess) -> None:
        last: TrainerMessage | None = None
        async with aclosing(process.messages()) as messages:
            async for message in messages:
                await self._report(job, message)
                if message.event in ("finished", "failed"):
                    last = message
        if self._is_stopping or (last is not None and last.reason == "interrupted"):
            if not self._is_stopping and (await self.jobs.get(job.id)).status == "running":
                await self._fail(job, "The training process was stopped from outside.")
        elif last is None:
            await self._fail(job, _died(process.exit_code))
        elif last.event == "failed":
            failure = self._failure(job, last)
            await self._move(job, "running", "failed", failure.message, failure)
        elif last.reason == "nan":
            await self._fail(job, "The loss is no number any more; use a smaller learning rate.")
        else:
            best = f"; step {last.best_step} is the best" if last.best_step else ""
            done = f"The job succeeded after {counted(last.step, 'step')}{best}"
            text = f"{done}: ask for {job.adapter!r}."
            result = await self._write_losses(job)
            if not await self._move(job, "running", "succeeded", text, result_file=result):
                await self.files.delete(result)

    async def _write_losses(self, job: Job) -> str:
        """The losses as a table, for `result_files`; the id of the file."""
        name = f"{job.id}_step_metrics.csv"
        await self.files.forget_named(name, _RESULTS)  # of a server that was killed just here
        rows = [",".join(StepLosses.__struct_fields__)]
        for losses in await self.jobs.losses(job.id):
            values = msgspec.structs.astuple(losses)
            rows.append(",".join("" if value is None else str(value) for value in values))
        file = await self.files.write_lines(
            (f"{row}\n".encode() for row in rows),
            filename=name,
            purpose=_RESULTS,
            expires_seconds=None,
        )
        return file.id

    async def _recover(self, job: Job) -> None:
        """Catch up with what a trainer wrote while nobody listened, because its server was dead."""
        folder = self.base.adapters / job.adapter
        for message in await asyncio.to_thread(written_messages, folder):
            await self._report(job, message)

    async def _report(self, job: Job, message: TrainerMessage) -> None:
        step = message.step
        match message.event:
            case "started":
                text = f"Training: {counted(message.steps, 'step')}."
                if message.start_step:
                    text = f"Going on from step {message.start_step} of {message.steps}."
                data = {"steps": message.steps, "start_step": message.start_step}
                await self.jobs.note(job.id, text, key=f"started:{message.start_step}", data=data)
            case "train":
                data = {"step": step, "train_loss": message.train_loss}
                text = f"Step {step}: training loss={message.train_loss:.4f}"
                await self.jobs.note(job.id, text, key=f"train:{step}", data=data)
                await self.jobs.progress(
                    job.id, trained_tokens=message.trained_tokens, eta_seconds=message.eta_seconds
                )
            case "valid":
                data = {"step": step, "valid_loss": message.valid_loss}
                text = f"Step {step}: validation loss={message.valid_loss:.4f}"
                await self.jobs.note(job.id, text, key=f"valid:{step}", data=data)
            case "saved":
                name = f"{job.adapter}@{step}"
                await self.jobs.add_checkpoint(job.id, step, f"Checkpoint {name} can be used.")
            case "sample":
                data = {"step": step, "theme": message.theme, "text": message.text}
                key = f"sample:{step}:{message.theme}"
                text = f"Step {step}: a poem about {message.theme}."
                await self.jobs.note(job.id, text, key=key, data=data)
            case _:
                pass

    def _process(self, job: Job, lock: Path, *, check: bool) -> TrainerProcess:
        folder, adapter = self._folder / job.id, self.base.adapters / job.adapter
        request = training_request(
            job.plan,
            model=self.base.model,
            data=str(folder / "data"),
            adapter_path=str(adapter.absolute()),
            start=str(folder / _START / MLX_WEIGHTS_FILE) if job.plan.goes_on else None,
            resume=not check and (adapter / _STATE_OF_A_RUN).exists(),
            check=check,
        )
        return self._make_process(request, folder / "log", lock)

    def _failure(self, job: Job, message: TrainerMessage) -> JobError:
        text = self._shown(job, message.sentence)
        if message.about != "data":
            return JobError(code="validation", message=text)
        is_validation = str(self._folder / job.id / "data" / _VALID) in message.sentence
        return JobError(
            code="invalid_validation_file" if is_validation else "invalid_training_file",
            message=text,
            param="validation_file" if is_validation else "training_file",
        )

    def _shown(self, job: Job, sentence: str) -> str:
        """The trainer's words without a path of this machine: files as their client called them."""
        data = self._folder / job.id / "data"
        names = {
            str(data / _TRAIN): job.plan.training_name,
            str(data / _VALID): job.plan.validation_name or _VALID,
            str(data): "The data",
            str(self._folder / job.id / _START / MLX_WEIGHTS_FILE): job.plan.model,
            str(self.base.adapters.absolute() / job.adapter): job.adapter,
        }
        for path, name in names.items():
            sentence = sentence.replace(path, name)
        return sentence

    async def _fail(self, job: Job, text: str) -> None:
        error = JobError(code="training_failed", message=text)
        await self._move(job, "running", "failed", text, error)

    async def _move(
        self,
        job: Job,
        before: JobStatus,
        status: JobStatus,
        message: str,
        error: JobError | None = None,
        *,
        result_file: str | None = None,
    ) -> bool:
        """As the runner sees it; False if a client was faster."""
        try:
            await self.jobs.move(
                job.id, (before,), status, message, error=error, result_file=result_file
            )
        except RecordInUseError:
            return False
        return True


def _died(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return (
            f"The training process was killed by signal {-exit_code}, most likely because memory "
            "ran out; use a smaller batch_size or grad_checkpoint."
        )
    return "The training process ended with a fault of its own; its log is in the state folder."
