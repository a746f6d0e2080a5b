"""`/v1/fine_tuning/jobs`: trainings as OpenAI has them."""

import asyncio
import secrets
from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, post, route
from litestar.params import JSONBody, PathParameter

from verse.model_spelling import BASE, name_problem
from verse_server.api.decoding import StrictBody, check_unread_body, decode_json
from verse_server.api.errors import RequestError
from verse_server.api.openapi import READ, RunnerDependency, StateDependency, error_responses
from verse_server.api.paging import AfterQuery, LimitQuery, read_page
from verse_server.jobs.adapter_start import AdapterStart, AdapterStartError, find_start
from verse_server.jobs.runner import JobRunner
from verse_server.jobs.training_keys import AskedFor, adapter_names, training_keys
from verse_server.protocol.fine_tuning import (
    FineTuningJob,
    FineTuningJobCheckpoint,
    FineTuningJobCheckpointList,
    FineTuningJobEvent,
    FineTuningJobEventList,
    FineTuningJobList,
    FineTuningJobRequest,
    Hyperparameters,
    JobFailure,
    TrainSettings,
)
from verse_server.state.errors import RecordNotFoundError
from verse_server.state.files import FileStore, StoredFile
from verse_server.state.jobs import Job, JobPlan

JobId = Annotated[str, PathParameter(schema_extra={"min_length": 1})]
_ERRORS = error_responses(400, 401, 403, 404)
_CHANGE: dict[str, Any] = {
    "status_code": 200,
    "guards": [check_unread_body],
    "responses": error_responses(400, 401, 403, 404, 409, 507),
}
_MAX_LIMIT = 100
_SETTINGS = {field.name: field for field in msgspec.structs.fields(TrainSettings)}
_decoder = msgspec.json.Decoder(FineTuningJobRequest)


class StrictJobBody(StrictBody[FineTuningJobRequest]):
    """A request to train."""

    @staticmethod
    def decode(body: bytes) -> FineTuningJobRequest:
        """Strictly."""
        return decode_json(body, _decoder)


class FineTuningController(Controller):
    """Trainings: one at a time, in the order they came."""

    path = "/fine_tuning/jobs"
    tags = ("fine_tuning",)

    @post(
        status_code=200,
        dto=StrictJobBody,
        return_dto=None,
        responses=error_responses(400, 401, 403, 413, 507),
    )
    async def create(
        self,
        data: JSONBody[FineTuningJobRequest],
        store: StateDependency,
        runner: RunnerDependency,
    ) -> FineTuningJob:
        """Train an adapter of the base, or one that is there further, on an uploaded file."""
        asked, settings = _asked(data), _settings(data)
        start = await _start(runner, data.model)
        if start is not None:
            settings = _beside(start, settings, data)
        if data.suffix is not None and (problem := name_problem(data.suffix)):
            raise RequestError(f"'suffix' becomes the adapter's name: {problem}", param="suffix")
        training = await _file(store.files, data.training_file, "training_file")
        validation = None
        if data.validation_file is not None:
            validation = await _file(store.files, data.validation_file, "validation_file")
        plan = JobPlan(
            model=runner.base.id if start is None else start.model,
            goes_on=start is not None,
            training_file=training.id,
            training_name=training.filename,
            validation_file=validation and validation.id,
            validation_name=validation and validation.filename,
            method="dpo" if asked.method == "dpo" else "supervised",
            hyperparameters=_shown(_hyperparameters(data), asked.method),
            seed=asked.seed,
            metadata=data.metadata,
            keys=training_keys(
                msgspec.structs.replace(asked, settings=settings), runner.base.num_parameters
            ),
        )
        return await _created(runner, plan, data.suffix, training, validation, start=start)

    @route(http_method=READ, responses=error_responses(400, 401, 403, 404))
    async def list(
        self,
        request: Request[Any, Any, Any],
        store: StateDependency,
        after: AfterQuery = None,
        limit: LimitQuery = None,
    ) -> FineTuningJobList:
        """All jobs, the newest first; `metadata[k]=v` asks for those with it."""
        page = read_page(after, limit, default_limit=20, max_limit=_MAX_LIMIT)
        found = await store.jobs.list(
            after=page.after, limit=page.limit, metadata=_metadata_query(request)
        )
        return FineTuningJobList(data=[*map(wire_job, found.items)], has_more=found.has_more)

    @route("/{fine_tuning_job_id:str}", http_method=READ, responses=_ERRORS)
    async def retrieve(self, store: StateDependency, fine_tuning_job_id: JobId) -> FineTuningJob:
        """One job, as far as it is."""
        return wire_job(await store.jobs.get(fine_tuning_job_id))

    @post("/{fine_tuning_job_id:str}/cancel", **_CHANGE)
    async def cancel(self, runner: RunnerDependency, fine_tuning_job_id: JobId) -> FineTuningJob:
        """End a job for good. Its checkpoints stay."""
        return wire_job(await runner.cancel(fine_tuning_job_id))

    @post("/{fine_tuning_job_id:str}/pause", **_CHANGE)
    async def pause(self, runner: RunnerDependency, fine_tuning_job_id: JobId) -> FineTuningJob:
        """Hold a job that waits or runs; what it has trained is saved."""
        return wire_job(await runner.pause(fine_tuning_job_id))

    @post("/{fine_tuning_job_id:str}/resume", **_CHANGE)
    async def resume(self, runner: RunnerDependency, fine_tuning_job_id: JobId) -> FineTuningJob:
        """Let a paused job go on, exactly from where it was, when its turn comes."""
        return wire_job(await runner.resume(fine_tuning_job_id))

    @route("/{fine_tuning_job_id:str}/events", http_method=READ, responses=_ERRORS)
    async def events(
        self,
        store: StateDependency,
        fine_tuning_job_id: JobId,
        after: AfterQuery = None,
        limit: LimitQuery = None,
    ) -> FineTuningJobEventList:
        """What happened in a job, the newest first."""
        page = read_page(after, limit, default_limit=20, max_limit=_MAX_LIMIT)
        found = await store.jobs.events(fine_tuning_job_id, after=page.after, limit=page.limit)
        data = [
            FineTuningJobEvent(
                id=event.id,
                created_at=event.created_at,
                level=event.level,
                message=event.message,
                type="metrics" if event.data and _is_metric(event.data) else "message",
                data=event.data or {},
            )
            for event in found.items
        ]
        return FineTuningJobEventList(data=data, has_more=found.has_more)

    @route("/{fine_tuning_job_id:str}/checkpoints", http_method=READ, responses=_ERRORS)
    async def checkpoints(
        self,
        store: StateDependency,
        fine_tuning_job_id: JobId,
        after: AfterQuery = None,
        limit: LimitQuery = None,
    ) -> FineTuningJobCheckpointList:
        """What a job has written so far, the newest first; each can be asked for by its name."""
        page = read_page(after, limit, default_limit=10, max_limit=_MAX_LIMIT)
        job = await store.jobs.get(fine_tuning_job_id)
        found = await store.jobs.checkpoints(job.id, after=page.after, limit=page.limit)
        data = [
            FineTuningJobCheckpoint(
                id=checkpoint.id,
                created_at=checkpoint.created_at,
                fine_tuned_model_checkpoint=f"{job.adapter}@{checkpoint.step}",
                fine_tuning_job_id=job.id,
                step_number=checkpoint.step,
                metrics=checkpoint.metrics,
            )
            for checkpoint in found.items
        ]
        return FineTuningJobCheckpointList(
            data=data,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
            has_more=found.has_more,
        )


def wire_job(job: Job) -> FineTuningJob:
    """As the wire has it."""
    plan, error = job.plan, job.error
    return FineTuningJob(
        id=job.id,
        created_at=job.created_at,
        finished_at=job.finished_at,
        estimated_finish=job.estimated_finish,
        model=plan.model,
        fine_tuned_model=job.adapter if job.status == "succeeded" else None,
        status=job.status,
        error=error and JobFailure(code=error.code, message=error.message, param=error.param),
        training_file=plan.training_file,
        validation_file=plan.validation_file,
        hyperparameters=plan.hyperparameters,
        method={"type": plan.method, plan.method: {"hyperparameters": plan.hyperparameters}},
        seed=plan.seed,
        trained_tokens=job.trained_tokens,
        result_files=[] if job.result_file is None else [job.result_file],
        metadata=plan.metadata,
    )


async def _created(
    runner: JobRunner,
    plan: JobPlan,
    suffix: str | None,
    *files: StoredFile | None,
    start: AdapterStart | None,
) -> FineTuningJob:
    name = runner.base.id if start is None else start.adapter
    try:
        job = await runner.create(
            plan, lambda id_: adapter_names(name, suffix, id_), *files, start=start
        )
    except FileNotFoundError as error:
        raise RequestError(
            "A file of this job was deleted just now; upload it again.", code="file_not_found"
        ) from error
    return wire_job(job)


async def _start(runner: JobRunner, model: str) -> AdapterStart | None:
    """The adapter that a job goes on from; None for one of the base itself."""
    if model in (runner.base.id, BASE):
        return None
    try:
        start = await asyncio.to_thread(find_start, runner.base.adapters, model)
    except AdapterStartError as error:
        raise RequestError(str(error), param="model", code="model_not_available") from error
    if start is None:
        raise RequestError(
            f"Only the base model {runner.base.id!r} and its adapters can be trained here, not "
            f"{model[:100]!r}.",
            param="model",
            code="model_not_available",
        )
    return start


def _beside(
    start: AdapterStart, settings: dict[str, Any], data: FineTuningJobRequest
) -> dict[str, Any]:
    """Settings with those that an adapter brings, which nobody can choose any more."""
    for name in start.keys.keys() & settings.keys():
        is_of_verse = data.verse is not None and name in _given(data.verse)
        raise RequestError(
            f"{name!r} is that of the adapter {start.adapter!r}, which this job goes on from; "
            "leave it out.",
            param=f"verse.{name}" if is_of_verse else "metadata",
        )
    return {**settings, **start.keys}


async def _file(files: FileStore, id_: str, param: str) -> StoredFile:
    try:
        file = await files.get(id_, param)
    except RecordNotFoundError as error:
        raise RequestError(str(error), param=param, code="file_not_found") from error
    if file.purpose != "fine-tune":
        raise RequestError(
            f"The file {id_} was uploaded with the purpose {file.purpose!r}; {param!r} needs one "
            "with the purpose 'fine-tune'.",
            param=param,
        )
    return file


def _asked(data: FineTuningJobRequest) -> AskedFor:
    method = data.method
    kind = method.type if method else "supervised"
    if method is not None and (method.dpo if kind == "supervised" else method.supervised):
        other = "dpo" if kind == "supervised" else "supervised"
        raise RequestError(
            f"'method.{other}' does not go with the method {kind!r}; leave it out.",
            param=f"method.{other}",
        )
    numbers = _hyperparameters(data)
    if kind == "supervised" and numbers.beta not in (None, "auto"):
        raise RequestError("'beta' is for the method 'dpo' only.", param="beta")
    return AskedFor(
        method=kind,
        num_epochs=_number(numbers.n_epochs),
        batch_size=_number(numbers.batch_size),
        learning_rate_multiplier=_number(numbers.learning_rate_multiplier),
        beta=_number(numbers.beta),
        seed=secrets.randbelow(1 << 31) if data.seed is None else data.seed,
        settings={},
    )


def _hyperparameters(data: FineTuningJobRequest) -> Hyperparameters:
    method = data.method
    params = method and (method.dpo if method.type == "dpo" else method.supervised)
    return (params and params.hyperparameters) or data.hyperparameters or Hyperparameters()


def _number(value: Any) -> Any:
    return None if value == "auto" else value


def _shown(numbers: Hyperparameters, method: str) -> dict[str, Any]:
    """`auto` stays `auto`, as it was asked."""
    shown = {name: value or "auto" for name, value in msgspec.structs.asdict(numbers).items()}
    if method != "dpo":
        del shown["beta"]
    return shown


def _settings(data: FineTuningJobRequest) -> dict[str, Any]:
    """Those of `verse` and, by the same names, of `metadata`, whose values are texts."""
    texts = {k: v for k, v in (data.metadata or {}).items() if k in _SETTINGS}
    try:
        values = {name: _value(text) for name, text in texts.items()}
        from_metadata = msgspec.convert(values, TrainSettings, strict=False)
    except msgspec.ValidationError as error:
        raise RequestError(
            f"'metadata' has a setting that is wrong: {error}.", param="metadata"
        ) from error
    return {**_given(from_metadata), **(_given(data.verse) if data.verse else {})}


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _given(settings: TrainSettings) -> dict[str, Any]:
    return msgspec.to_builtins(settings)


def _is_metric(data: dict[str, Any]) -> bool:
    return "train_loss" in data or "valid_loss" in data


def _metadata_query(request: Request[Any, Any, Any]) -> dict[str, str]:
    """`?metadata[k]=v`, as the SDK writes a mapping."""
    found: dict[str, str] = {}
    for name, value in request.query_params.items():
        if name.startswith("metadata[") and name.endswith("]"):
            found[name[len("metadata[") : -1]] = str(value)
    return found
