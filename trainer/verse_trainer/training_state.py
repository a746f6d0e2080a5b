"""`training_state.safetensors`: all it takes to go on as if nothing had happened.

One file, replaced at once, holds weights, optimizer, gradients not yet applied and the standing. It
is written before the checkpoint of the same step, so whatever else a kill prevented is made up for
from it.

The last step of a run applies the gradients that are left, and its checkpoint has the weights after
that. The state is the one before, from which a longer run follows; the weights after it lie beside.
"""

from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import msgspec

from verse.atomic_file import replacing
from verse_trainer.errors import TrainingError
from verse_trainer.train_state import TrainState

STATE_FILE = "training_state.safetensors"
_WEIGHTS = "weights."
_STEPPER = "stepper."
_FLUSHED = "flushed."
_KEY = "verse_training_state"

Arrays = dict[str, mx.array]


class _Recorded(msgspec.Struct, frozen=True, kw_only=True):
    standing: TrainState
    summed_weight: float


class TrainingState(msgspec.Struct, frozen=True, kw_only=True):
    """A run between two steps."""

    standing: TrainState
    weights: Arrays
    """Those that are trained."""
    stepper: Arrays
    """As `Stepper.save` gives them."""
    summed_weight: float
    """What the gradients not yet applied are divided by so far."""
    flushed: Arrays = {}
    """The weights once these gradients are applied, if the run ended here; else empty."""

    @property
    def checkpoint(self) -> Arrays:
        """The weights to save and to serve."""
        return self.flushed or self.weights


def write_state(folder: Path, state: TrainingState) -> None:
    """Replace the state of the run in this folder.

    Raises:
        OSError: the disk is full or read-only; the state before stands.
    """
    recorded = _Recorded(standing=state.standing, summed_weight=state.summed_weight)
    arrays = {_WEIGHTS + name: array for name, array in state.weights.items()}
    arrays |= {_STEPPER + name: array for name, array in state.stepper.items()}
    arrays |= {_FLUSHED + name: array for name, array in state.flushed.items()}
    with replacing(folder / STATE_FILE) as stream:
        metadata = {_KEY: msgspec.json.encode(recorded).decode()}
        cast(Any, mx).save_safetensors(stream, arrays, metadata)


def read_state(folder: Path) -> TrainingState | None:
    """Read the state of the run in this folder; None if it was killed before there was one.

    Raises:
        TrainingError: the file is damaged.
    """
    file = folder / STATE_FILE
    if not file.exists():
        return None
    try:
        loaded = mx.load(str(file), return_metadata=True)
        arrays, metadata = cast(tuple[Arrays, dict[str, str]], loaded)
        recorded = msgspec.json.decode(metadata[_KEY], type=_Recorded)
    except (KeyError, OSError, RuntimeError, ValueError) as error:
        raise TrainingError(
            f"{file} cannot be read ({error}); start anew with another adapter_path, "
            "and a checkpoint of this one as resume_adapter_file."
        ) from error
    return TrainingState(
        standing=recorded.standing,
        weights=_part(_WEIGHTS, arrays),
        stepper=_part(_STEPPER, arrays),
        summed_weight=recorded.summed_weight,
        flushed=_part(_FLUSHED, arrays),
    )


def _part(prefix: str, arrays: Arrays) -> Arrays:
    return {n.removeprefix(prefix): array for n, array in arrays.items() if n.startswith(prefix)}
