"""Fine-tuning jobs on the wire, named like OpenAI's types."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Auto = Literal["auto"]
_BatchSize = Auto | Annotated[int, Meta(ge=1, le=256)]
_NumEpochs = Auto | Annotated[int, Meta(ge=1, le=50)]
_Multiplier = Auto | Annotated[float, Meta(gt=0, le=1000)]
_Beta = Auto | Annotated[float, Meta(gt=0, le=2)]
_MetadataText = Annotated[str, Meta(max_length=512)]
_MetadataKey = Annotated[str, Meta(max_length=64)]
Metadata = Annotated[dict[_MetadataKey, _MetadataText], Meta(max_length=16)]
_Count = Annotated[int, Meta(ge=1)]
_CountOrAll = Annotated[int, Meta(ge=-1)]


class Hyperparameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of either method; `beta` is of preferences only."""

    n_epochs: _NumEpochs | None = "auto"
    batch_size: _BatchSize | None = "auto"
    learning_rate_multiplier: _Multiplier | None = "auto"
    beta: _Beta | None = "auto"


class MethodParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a method is told."""

    hyperparameters: Hyperparameters | None = None


class FineTuningMethod(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to train: on poems, or on pairs of a better and a worse one."""

    type: Literal["supervised", "dpo"]
    supervised: MethodParams | None = None
    dpo: MethodParams | None = None


class LoraSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`lora_parameters`, as `verse train` has them."""

    rank: Annotated[int, Meta(ge=1)] | msgspec.UnsetType = msgspec.UNSET
    scale: Annotated[float, Meta(gt=0)] | msgspec.UnsetType = msgspec.UNSET
    dropout: Annotated[float, Meta(ge=0, lt=1)] | msgspec.UnsetType = msgspec.UNSET
    keys: list[str] | msgspec.UnsetType = msgspec.UNSET


class TrainSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """More settings, by `verse train`'s names; those that name places on the disk are missing."""

    fine_tune_type: Literal["lora", "dora"] | msgspec.UnsetType = msgspec.UNSET
    num_layers: _CountOrAll | msgspec.UnsetType = msgspec.UNSET
    lora_parameters: LoraSettings | msgspec.UnsetType = msgspec.UNSET
    mask_prompt: bool | msgspec.UnsetType = msgspec.UNSET
    prompt_format: Literal["chat", "seed-chatml", "seed-generate"] | msgspec.UnsetType = (
        msgspec.UNSET
    )
    max_seq_length: _Count | msgspec.UnsetType = msgspec.UNSET
    long_rows: Literal["cut", "skip", "stop"] | msgspec.UnsetType = msgspec.UNSET
    grad_accumulation_steps: _Count | msgspec.UnsetType = msgspec.UNSET
    iters: _Count | msgspec.UnsetType = msgspec.UNSET
    optimizer: Literal["adam", "adamw", "muon", "sgd", "adafactor"] | msgspec.UnsetType = (
        msgspec.UNSET
    )
    learning_rate: Annotated[float, Meta(gt=0)] | msgspec.UnsetType = msgspec.UNSET
    steps_per_report: _Count | msgspec.UnsetType = msgspec.UNSET
    steps_per_eval: _Count | msgspec.UnsetType = msgspec.UNSET
    save_every: _Count | msgspec.UnsetType = msgspec.UNSET
    val_batches: _CountOrAll | msgspec.UnsetType = msgspec.UNSET
    patience: Annotated[int, Meta(ge=0)] | msgspec.UnsetType = msgspec.UNSET
    grad_checkpoint: bool | msgspec.UnsetType = msgspec.UNSET
    sample_every: _Count | msgspec.UnsetType = msgspec.UNSET
    sample_themes: list[str] | msgspec.UnsetType = msgspec.UNSET
    sft_weight: Annotated[float, Meta(ge=0)] | msgspec.UnsetType = msgspec.UNSET


class FineTuningJobRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A training to be done."""

    model: str
    training_file: str
    validation_file: str | None = None
    suffix: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    seed: Annotated[int, Meta(ge=0, le=2147483647)] | None = None
    method: FineTuningMethod | None = None
    hyperparameters: Hyperparameters | None = None
    """OpenAI's older place for them."""
    integrations: Annotated[list[dict[str, Any]], Meta(max_length=0)] | None = None
    metadata: Metadata | None = None
    verse: TrainSettings | None = None


class JobFailure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job failed."""

    code: str
    message: str
    param: str | None


class FineTuningJob(msgspec.Struct, frozen=True, kw_only=True):
    """A training, as far as it is."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    estimated_finish: int | None
    model: str
    fine_tuned_model: str | None
    status: Literal[
        "validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"
    ]
    error: JobFailure | None
    training_file: str
    validation_file: str | None
    hyperparameters: dict[str, Any]
    method: dict[str, Any]
    seed: int
    trained_tokens: int | None
    organization_id: str = "verse"
    result_files: list[str] = []
    integrations: list[dict[str, Any]] = []
    metadata: dict[str, str] | None = None


class FineTuningJobList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of jobs."""

    object: Literal["list"] = "list"
    data: list[FineTuningJob]
    has_more: bool


class FineTuningJobEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened in a job."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any]


class FineTuningJobEventList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of events."""

    object: Literal["list"] = "list"
    data: list[FineTuningJobEvent]
    has_more: bool


class FineTuningJobCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Weights that a job has written; its name serves them at once."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: dict[str, float]


class FineTuningJobCheckpointList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of checkpoints."""

    object: Literal["list"] = "list"
    data: list[FineTuningJobCheckpoint]
    first_id: str | None
    last_id: str | None
    has_more: bool
