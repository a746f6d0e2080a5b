"""What a run will take, from what was counted and one step that was measured. No model needed."""

from typing import TYPE_CHECKING

import msgspec

from verse_trainer.config import TrainConfig
from verse_trainer.estimate import (
    Architecture,
    MemoryEstimate,
    calibrated,
    estimate,
    read_architecture,
)
from verse_trainer.events import Forecast

if TYPE_CHECKING:
    from verse_trainer.run import MeasuredStep, PreparedRun

_FORWARD_SHARE = 1 / 3
"""Of a training step: the backward pass takes about twice as long as the forward pass."""


def forecast(prepared: "PreparedRun", measured: "MeasuredStep", machine_bytes: int) -> Forecast:
    """Put together what was counted and what was measured.

    Args:
        prepared: The run before its first step.
        measured: One step of it.
        machine_bytes: Memory there is.
    """
    config, base = prepared.config, prepared.base
    architecture, row_tokens = read_architecture(base.config), prepared.longest.num_tokens
    return Forecast(
        num_rows=prepared.num_rows,
        num_valid_rows=prepared.num_valid_rows,
        num_tokens=prepared.num_tokens,
        num_target_tokens=prepared.num_target_tokens,
        longest_row_tokens=row_tokens,
        longest_row=prepared.longest.place,
        steps_per_epoch=prepared.steps_per_epoch,
        total_steps=prepared.total_steps,
        total_updates=prepared.total_updates,
        start_step=prepared.start_step,
        never_seen=prepared.never_seen,
        never_seen_by_mlx_lm=never_seen_by_mlx_lm(
            prepared.num_rows, config.batch_size, prepared.total_steps
        ),
        trainable_parameters=prepared.trainable_parameters,
        total_parameters=prepared.total_parameters,
        step_seconds=measured.seconds,
        step_tokens=measured.tokens,
        peak_memory_bytes=measured.peak_bytes,
        machine_memory_bytes=machine_bytes,
        estimated_seconds=_estimated_seconds(prepared, measured),
        memory_estimate=memory_of(architecture, config, row_tokens, base.bytes),
        alternatives=alternatives(
            architecture, config, row_tokens, base.bytes, measured.peak_bytes
        ),
        notes=prepared.notes,
    )


def _estimated_seconds(prepared: "PreparedRun", measured: "MeasuredStep") -> float:
    tokens_per_row = prepared.num_tokens / max(1, prepared.num_rows)
    is_new = prepared.start_step == 0  # then the base is measured too
    return seconds_left(
        steps_left=prepared.total_steps - prepared.start_step,
        num_evaluations=prepared.cadence.num_checkpoints_after(prepared.start_step) + is_new,
        tokens_per_step=prepared.num_tokens / max(1, prepared.steps_per_epoch),
        valid_tokens=prepared.num_valid_rows * tokens_per_row,
        step_seconds=measured.seconds,
        step_tokens=measured.tokens,
    )


def never_seen_by_mlx_lm(num_rows: int, batch_size: int, num_steps: int) -> int:
    """Rows that mlx_lm.lora would never train on.

    Its batches are fixed and whole, so the last rows of the file are never drawn; with fewer rows
    than a batch it refuses to run. Source: `iterate_batches` in mlx_lm/tuner/trainer.py.
    """
    return num_rows - min(num_steps, num_rows // batch_size) * batch_size


def seconds_left(
    *,
    steps_left: int,
    num_evaluations: int,
    tokens_per_step: float,
    valid_tokens: float,
    step_seconds: float,
    step_tokens: int,
) -> float:
    """How long the run will take if no early stop ends it, validations included."""
    seconds_per_token = step_seconds / max(1, step_tokens)
    evaluating = num_evaluations * valid_tokens * seconds_per_token * _FORWARD_SHARE
    return steps_left * tokens_per_step * seconds_per_token + evaluating


def memory_of(
    architecture: Architecture | None, config: TrainConfig, row_tokens: int, base_bytes: int
) -> MemoryEstimate | None:
    """The estimate for a base that is in memory; None where it cannot be told."""
    if architecture is None or config.fine_tune_type == "full":
        return None
    per_weight = base_bytes / architecture.num_weights()
    is_float32 = per_weight > 3  # only a CPU's weights take more than 2 bytes
    estimated = estimate(
        architecture, config, row_tokens, bytes_per_weight=4 if is_float32 else None
    )
    return msgspec.structs.replace(estimated, weights_bytes=base_bytes)


def alternatives(
    architecture: Architecture | None,
    config: TrainConfig,
    row_tokens: int,
    base_bytes: int,
    peak_bytes: int,
) -> dict[str, int]:
    """The peak with one flag changed, corrected by the peak that was measured."""
    now = memory_of(architecture, config, row_tokens, base_bytes)
    changes: dict[str, TrainConfig] = {}
    if config.batch_size > 1:
        half = config.batch_size // 2
        changes[f"--batch-size {half}"] = msgspec.structs.replace(config, batch_size=half)
    if not config.grad_checkpoint:
        changes["--grad-checkpoint"] = msgspec.structs.replace(config, grad_checkpoint=True)
    peaks: dict[str, int] = {}
    for flag, changed in changes.items():
        other = memory_of(architecture, changed, row_tokens, base_bytes)
        if now is not None and other is not None:
            peaks[flag] = calibrated(other, now, peak_bytes)
    return peaks
