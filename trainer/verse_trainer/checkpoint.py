"""All that a run writes into its adapter folder, in the one order that leaves nothing half done.

    run.json                              where the weights come from; see run_record.py
    adapter_config.json, prompt.json      before any weights, so nobody misreads those
    training_state.safetensors            all it takes to go on as if nothing had happened
    0000200_adapters.safetensors          every checkpoint, written once and kept
    adapters.safetensors                  the best so far
    metrics.jsonl, samples.jsonl          the events of the run that are kept
    loss.png                              at the end

Each file appears whole or not at all. The state of a step is written first: whatever a kill
prevents after that is made up for from it. Writing again what is there changes nothing.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import mlx.core as mx
import msgspec

from verse import jsonl
from verse.adapter_folder import CONFIG_FILE, MLX_WEIGHTS_FILE, PROMPT_FILE, checkpoint_file
from verse.atomic_file import replace_file, replacing
from verse_trainer import run_record
from verse_trainer.errors import TrainingError
from verse_trainer.events import (
    Evaluated,
    Event,
    Metric,
    Sampled,
    Saved,
    Stopped,
    StopReason,
    Tested,
    TrainReport,
)
from verse_trainer.run_record import RECORD_FILE
from verse_trainer.train_state import TrainState

if TYPE_CHECKING:
    from verse_trainer.run import PreparedRun

STATE_FILE = "training_state.safetensors"
METRICS_FILE = "metrics.jsonl"
SAMPLES_FILE = "samples.jsonl"
PLOT_FILE = "loss.png"
_OF_A_RUN = (CONFIG_FILE, PROMPT_FILE, RECORD_FILE, METRICS_FILE, STATE_FILE, "*.safetensors")

_METRIC = msgspec.json.Decoder(Metric)
_SAMPLE = msgspec.json.Decoder(Sampled)
_WEIGHTS = "weights."
_STEPPER = "stepper."
_FLUSHED = "flushed."
_KEY = "verse_training_state"
_TRAIN_COLOUR, _VALID_COLOUR = "#888888", "#c04020"

Arrays = dict[str, mx.array]
T = TypeVar("T", bound=msgspec.Struct)


class SavedState(msgspec.Struct, frozen=True, kw_only=True):
    """A run between two steps: what `training_state.safetensors` holds.

    The last step of a run applies the gradients that are left, and its checkpoint has the weights
    after that. The state is the one before, from which a longer run follows; the weights after it
    lie beside.
    """

    state: TrainState
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

    @property
    def lacks_update(self) -> bool:
        """Whether there are gradients that the end of a run would apply here."""
        return self.summed_weight > 0 and not self.flushed


class _Recorded(msgspec.Struct, frozen=True, kw_only=True):
    state: TrainState = msgspec.field(name="standing")
    summed_weight: float


class CheckpointWriter:
    """Writes the folder of one run and passes its events on.

    All methods raise OSError when the disk is full or read-only.
    """

    def __init__(self, prepared: "PreparedRun", on_event: Callable[[Event], None]) -> None:
        self._run = prepared
        self._folder = prepared.folder
        self._record = prepared.record
        self._on_event = on_event
        self._saved_step = None if prepared.saved is None else prepared.saved.state.step

    @property
    def saved_step(self) -> int | None:
        """From which the run could be resumed; None if there was no step to save."""
        return self._saved_step

    def open(self) -> None:
        """Make the folder ready; what was reported of steps to be taken again is dropped."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._run.is_resumed:
            resumed = (*self._record.resumed, self._run.start_step)
            self._record = msgspec.structs.replace(self._record, resumed=resumed)
            rewind(self._folder, self._saved_step, is_measured_again=self._run.lacks_end)
        run_record.write_record(self._folder, self._record)
        _write_json(self._folder / PROMPT_FILE, self._run.material.prompt_format)
        if self._run.saved is None:
            self.describe(TrainState())
        else:
            self._publish(self._run.saved)

    def report(self, event: Event) -> None:
        """Write an event down, if it is of a kind that is kept, and pass it on."""
        if isinstance(event, Metric):
            jsonl.append(self._folder / METRICS_FILE, event)
        elif isinstance(event, Sampled):
            jsonl.append(self._folder / SAMPLES_FILE, event)
        self._on_event(event)

    def has_report(self, step: int) -> bool:
        """Whether the training loss was reported after this step."""
        reports = (m for m in read_metrics(self._folder) if isinstance(m, TrainReport))
        return any(report.step == step for report in reports)

    def save(self, saved: SavedState) -> None:
        """Make sure of the state, then let its checkpoint appear."""
        write_state(self._folder, saved)
        self._saved_step = step = saved.state.step
        self._publish(saved)
        self.report(Saved(step=step, path=str(self._folder / checkpoint_file(step))))

    def published_weights(self) -> Arrays:
        """The weights behind the adapter's name."""
        return _read_weights(self._folder / MLX_WEIGHTS_FILE)

    def describe(self, state: TrainState) -> None:
        """Bring `adapter_config.json` up to date."""
        found = {
            "base_valid_loss": state.base_valid_loss,
            "best_step": state.best_step,
            "history": state.history or None,
        }
        known = {key: value for key, value in found.items() if value is not None}
        _write_json(self._folder / CONFIG_FILE, {**self._run.adapter_config, **known})

    def close(self, state: TrainState, reason: StopReason) -> None:
        """Write down how it ended."""
        if self._saved_step is not None and reason != "nan":
            self.describe(state)
        unit = "pair" if self._run.config.method == "dpo" else "token"
        draw_losses(self._folder, read_metrics(self._folder), unit)
        self._record = msgspec.structs.replace(
            self._record,
            finished=run_record.now(),
            outcome=reason,
            step=state.step,
            best_step=state.best_step,
            best_valid_loss=state.best_valid_loss,
            base_valid_loss=state.base_valid_loss,
        )
        run_record.write_record(self._folder, self._record)
        self.report(Stopped(step=state.step, reason=reason))

    def what_is_kept(self) -> str:
        """For errors."""
        if self._saved_step is None:
            return "no checkpoint had been saved."
        return f"the checkpoint of step {self._saved_step} and those before are whole."

    def _publish(self, saved: SavedState) -> None:
        """The plain name is the best one's; the numbered checkpoint is written once.

        But where a run was stopped and then ends with that step, the update of the end changes it,
        and an earlier one may be the best now.
        """
        state, weights = saved.state, saved.checkpoint
        numbered = self._folder / checkpoint_file(state.step)
        published = self._folder / MLX_WEIGHTS_FILE
        if saved.flushed or not numbered.exists():
            write_weights(numbered, weights)
        best = self._folder / checkpoint_file(state.best_step or state.step)
        if best == numbered or not published.exists() or (saved.flushed and best.exists()):
            is_other = best != numbered and best.exists()
            write_weights(published, _read_weights(best) if is_other else weights)
            self.describe(state)


class FollowingWriter(CheckpointWriter):
    """Of a rank that is not the first: it writes nothing, and counts what rank 0 has saved."""

    def open(self) -> None:
        """Nothing: the folder is rank 0's."""

    def report(self, event: Event) -> None:
        """Pass an event on."""
        self._on_event(event)

    def has_report(self, step: int) -> bool:  # noqa: ARG002
        """Yes: none is missing here."""
        return True

    def save(self, saved: SavedState) -> None:
        """Rank 0 does."""
        self._saved_step = saved.state.step

    def describe(self, state: TrainState) -> None:
        """Rank 0 does."""

    def close(self, state: TrainState, reason: StopReason) -> None:
        """Rank 0 does."""


def check_unused(folder: Path) -> None:
    """Refuse a folder that holds an adapter, so that nothing is written over.

    Raises:
        TrainingError: with the ways out.
    """
    if folder.exists() and not folder.is_dir():
        raise TrainingError(f"adapter_path {folder} is a file; give a folder.")
    if any(file for pattern in _OF_A_RUN for file in folder.glob(pattern)):
        raise TrainingError(
            f"{folder} already holds an adapter; continue with --resume, or choose another "
            "adapter_path."
        )


def write_state(folder: Path, saved: SavedState) -> None:
    """Replace the state of the run in this folder.

    Raises:
        OSError: the disk is full or read-only; the state before stands.
    """
    recorded = _Recorded(state=saved.state, summed_weight=saved.summed_weight)
    parts = {_WEIGHTS: saved.weights, _STEPPER: saved.stepper, _FLUSHED: saved.flushed}
    arrays = {part + name: a for part, named in parts.items() for name, a in named.items()}
    with replacing(folder / STATE_FILE) as stream:
        metadata = {_KEY: msgspec.json.encode(recorded).decode()}
        cast(Any, mx).save_safetensors(stream, arrays, metadata)


def read_state(folder: Path) -> SavedState | None:
    """Read the state of the run in this folder; None if it was killed before there was one.

    Raises:
        TrainingError: the file is damaged.
    """
    file = folder / STATE_FILE
    return decode_state(file.read_bytes(), file) if file.exists() else None


def decode_state(data: bytes, file: Path) -> SavedState:
    """The state from the bytes of its file, which may lie on another machine.

    Raises:
        TrainingError: they are damaged.
    """
    try:
        stream: Any = io.BytesIO(data)
        loaded = mx.load(stream, format="safetensors", return_metadata=True)
        arrays, metadata = cast(tuple[Arrays, dict[str, str]], loaded)
        recorded = msgspec.json.decode(metadata[_KEY], type=_Recorded)
    except (KeyError, OSError, RuntimeError, ValueError) as error:
        raise TrainingError(
            f"{file} cannot be read ({error}); start a new run with another adapter_path, "
            "and a checkpoint of this one as resume_adapter_file."
        ) from error
    return SavedState(
        state=recorded.state,
        weights=_part(_WEIGHTS, arrays),
        stepper=_part(_STEPPER, arrays),
        summed_weight=recorded.summed_weight,
        flushed=_part(_FLUSHED, arrays),
    )


def read_metrics(folder: Path) -> list[Metric]:
    """All that is whole in `metrics.jsonl`; a line that was cut off is left out."""
    return _read(folder / METRICS_FILE, _METRIC)


def rewind(folder: Path, step: int | None, *, is_measured_again: bool = False) -> None:
    """Drop what will be reported again, so that a reader finds each of it once.

    Args:
        folder: Of the run.
        step: The last one that is not taken again; None if all are.
        is_measured_again: The losses and poems of this step, too, will come again.
    """
    last = -1 if step is None else step
    last_measured = last - is_measured_again
    metrics = [m for m in read_metrics(folder) if not isinstance(m, Stopped | Tested)]
    samples = _read(folder / SAMPLES_FILE, _SAMPLE)
    for name, events in ((METRICS_FILE, metrics), (SAMPLES_FILE, samples)):
        if (folder / name).exists():
            kept = [
                event
                for event in events
                if event.step <= (last_measured if isinstance(event, Evaluated | Sampled) else last)
            ]
            jsonl.rewrite(folder / name, kept)


def _read(file: Path, decoder: msgspec.json.Decoder[T]) -> list[T]:
    if not file.exists():
        return []
    return [e for _, e in jsonl.scan(file, decoder) if not isinstance(e, jsonl.JsonlError)]


def _part(prefix: str, arrays: Arrays) -> Arrays:
    return {n.removeprefix(prefix): array for n, array in arrays.items() if n.startswith(prefix)}


def _write_json(file: Path, content: Any) -> None:
    data = msgspec.json.format(msgspec.json.encode(content), indent=1)
    replace_file(file, [data, b"\n"])


def _read_weights(file: Path) -> Arrays:
    return cast(Arrays, mx.load(str(file)))


def write_weights(file: Path, weights: Mapping[str, mx.array]) -> None:
    """Replace a safetensors file: the same weights give the same bytes, whatever their order."""
    weights = dict(sorted(weights.items()))
    with replacing(file) as stream:
        cast(Any, mx).save_safetensors(stream, weights)


def draw_losses(folder: Path, metrics: Sequence[Metric], unit: str) -> None:
    """Draw the curves of a run; without matplotlib, which comes with the clients, nothing is drawn.

    Args:
        folder: Where `loss.png` goes.
        metrics: The run's, from its first step.
        unit: Of the losses, for the axis.

    Raises:
        OSError: the disk is full or read-only.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return
    # No pyplot: that keeps figures in a global list and may look for a display.
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes: Any = figure.add_subplot()  # its methods are typed in part only
    reports = [m for m in metrics if isinstance(m, TrainReport)]
    evaluations = [m for m in metrics if isinstance(m, Evaluated)]
    axes.plot(
        [r.step for r in reports],
        [r.train_loss for r in reports],
        color=_TRAIN_COLOUR,
        label="training",
    )
    if evaluations:
        steps, losses = [e.step for e in evaluations], [e.valid_loss for e in evaluations]
        errors = [e.standard_error or 0.0 for e in evaluations]
        axes.plot(steps, losses, color=_VALID_COLOUR, marker="o", markersize=3, label="validation")
        lower = [loss - error for loss, error in zip(losses, errors, strict=True)]
        upper = [loss + error for loss, error in zip(losses, errors, strict=True)]
        axes.fill_between(steps, lower, upper, color=_VALID_COLOUR, alpha=0.12, linewidth=0)
    if best := [e for e in evaluations if e.is_best]:
        last = best[-1]
        label = f"best: step {last.step}, {last.valid_loss:.3f}"
        axes.plot(
            [last.step], [last.valid_loss], "*", color=_VALID_COLOUR, markersize=13, label=label
        )
    axes.set_xlabel("step")
    axes.set_ylabel(f"loss, nats per {unit}")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    image = io.BytesIO()
    canvas: Any = FigureCanvasAgg(figure)
    canvas.print_png(image)
    replace_file(folder / PLOT_FILE, [image.getvalue()])
