"""One training run: `prepare` settles everything, `train` does it.

check(config)                 before the model is loaded: folders, rows, names. Cheap.
prepared = prepare(config, base)
outcome = train(prepared, on_event, stop)
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from verse.adapter_digest import file_digest
from verse.base_model import BaseModel
from verse_trainer import lora, run_record
from verse_trainer.config import TrainConfig, complete_schedule
from verse_trainer.errors import TrainingError
from verse_trainer.evaluation import test
from verse_trainer.events import Event
from verse_trainer.loop import Outcome, TrainingLoop
from verse_trainer.material import Material, check_files, read_material
from verse_trainer.prepared import LongestRow, MeasuredStep, PreparedRun
from verse_trainer.publication import Publication, adapter_config, check_unused
from verse_trainer.run_record import Identity, RunRecord
from verse_trainer.step import make_optimizer
from verse_trainer.steps import BatchPlan, Cadence, make_cadence
from verse_trainer.training_state import TrainingState, read_state

__all__ = [
    "LongestRow",
    "MeasuredStep",
    "Outcome",
    "PreparedRun",
    "check",
    "prepare",
    "test",
    "train",
]


def check(config: TrainConfig) -> None:
    """Find what is wrong without a model.

    Raises:
        TrainerError: one sentence.
    """
    check_files(config)
    make_optimizer(config, num_updates=1)
    start = _start_file(config)
    if start is not None and not start.is_file():
        raise TrainingError(f"resume_adapter_file {start} is not a file.")
    if config.train:
        _check_folder(config)


def prepare(config: TrainConfig, base: BaseModel) -> PreparedRun:
    """Read and encode the rows, adapt the model (in place) and lay out the steps.

    Raises:
        TrainerError: one sentence.
    """
    check(config)
    material = read_material(config, base)
    total_parameters = lora.count_base_parameters(base.model)
    keys = lora.adapt(base.model, config)
    if (start := _start_file(config)) is not None:
        lora.load_start(base.model, start)
    objective = material.objective(base.model, config)
    lengths = [example.length for example in objective.examples("train")]
    batches = BatchPlan(lengths, config.batch_size, config.seed)
    cadence = make_cadence(config, batches.steps_per_epoch)
    folder = _folder(config)
    record = _record(config, base, material, cadence)
    before = run_record.read_record(folder) if config.resume else None
    state = read_state(folder) if config.resume else None
    if before is not None:
        _check_start(before, record, is_new=state is None)
        record = _continued(before, record)
    num_layers = len(lora.trained_blocks(base.model, config.num_layers))
    return PreparedRun(
        config=config,
        base=base,
        material=material,
        objective=objective,
        batches=batches,
        cadence=cadence,
        publication=Publication(folder, adapter_config(config, keys, num_layers)),
        record=record,
        state=state,
        is_resumed=config.resume,
        trainable_parameters=lora.count_parameters(lora.trainable(base.model)),
        total_parameters=total_parameters,
        notes=tuple(_notes(config, material, cadence, state)),
    )


def train(
    prepared: PreparedRun,
    on_event: Callable[[Event], None],
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train until the end, an early stop, or until `stop` says so; everything is saved.

    Raises:
        TrainingError: the loss is no number any more, or the disk is full; the last good state is
            on the disk.
    """
    return TrainingLoop(prepared, on_event).run(stop)


def _check_folder(config: TrainConfig) -> None:
    folder = _folder(config)
    if not config.resume:
        check_unused(folder)
    elif run_record.read_record(folder) is None:
        raise TrainingError(f"{folder} holds no run to resume; start it without --resume.")


def _record(
    config: TrainConfig, base: BaseModel, material: Material, cadence: Cadence
) -> RunRecord:
    start = _start_file(config)
    identity = Identity(
        base=run_record.base_sha256(base.path),
        train_rows=material.hash("train"),
        valid_rows=material.hash("valid"),
        start=None if start is None else file_digest(start).hex(),
        config=_deciding_keys(config, cadence),
    )
    examples = material.pairs or material.rows
    return RunRecord(
        identity=identity,
        base=base.id if not Path(base.id).is_absolute() else base.path.name,
        base_revision=run_record.base_revision(base),
        num_rows=len(examples["train"]),
        num_valid_rows=len(examples.get("valid", ())),
        valid_sources=tuple(row.source for row in material.rows.get("valid", ()) if row.source),
        config=run_record.public_config(config),
        versions=run_record.versions(),
        started=run_record.now(),
    )


def _deciding_keys(config: TrainConfig, cadence: Cadence) -> dict[str, Any]:
    """With everything filled in that follows from the length of the run."""
    filled = config
    if config.lr_schedule is not None:
        complete = complete_schedule(
            config.lr_schedule, config.learning_rate, cadence.total_updates
        )
        filled = msgspec.structs.replace(config, lr_schedule=complete)
    filled = msgspec.structs.replace(
        filled, save_every=cadence.save_every, steps_per_eval=cadence.steps_per_eval
    )
    return run_record.identity_config(filled)


def _check_start(before: RunRecord, now: RunRecord, *, is_new: bool) -> None:
    """A run that had no time to save its first weights needs them once more."""
    if is_new and before.identity.start is not None and now.identity.start is None:
        raise TrainingError(
            "The run was stopped before it saved anything; give its resume_adapter_file again."
        )


def _continued(before: RunRecord, now: RunRecord) -> RunRecord:
    """The record of a run that goes on; the weights it started from need not be given again."""
    identity = now.identity
    if identity.start is None:
        identity = msgspec.structs.replace(identity, start=before.identity.start)
    run_record.check_same_run(before.identity, identity)
    return msgspec.structs.replace(
        now,
        identity=identity,
        started=before.started,
        resumed=before.resumed,
    )


def _notes(
    config: TrainConfig, material: Material, cadence: Cadence, state: TrainingState | None
) -> list[str]:
    notes: list[str] = []
    if state is not None and _has_flushed(state, cadence):
        notes.append(
            f"An earlier version of Verse ended this run at step {state.standing.step} with an "
            "update of fewer batches than grad_accumulation_steps and kept no state from before "
            "it, so the longer run includes that update."
        )
    if "valid" not in material.rows:
        notes.append(
            f"{config.data} has nothing to validate with: no checkpoint is the best, nothing stops "
            "the run early, and the last weights are published."
        )
    if config.fine_tune_type == "full":
        notes.append(
            "A full fine-tune is no adapter: `verse serve` cannot load it beside others; fuse it "
            "and serve the result with --model."
        )
    if config.method == "dpo" and config.resume_adapter_file is None and not config.resume:
        notes.append(
            "No resume_adapter_file is given, so the preferences are learned on the bare base."
        )
    return notes


def _has_flushed(state: TrainingState, cadence: Cadence) -> bool:
    """Whether the run goes on beyond an update that a run of its length does not make."""
    step, has_gradients = state.standing.step, state.summed_weight > 0
    return not (has_gradients or step >= cadence.total_steps or cadence.endless.is_update(step))


def _folder(config: TrainConfig) -> Path:
    return Path(config.adapter_path).expanduser()


def _start_file(config: TrainConfig) -> Path | None:
    file = config.resume_adapter_file
    return None if file is None else Path(file).expanduser()
