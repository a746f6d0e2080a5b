"""One training run: `prepare` settles everything before the first step, `train` does it.

check(config)                 before the model is loaded: folders, rows, names. Cheap.
prepared = prepare(config, base)
outcome = train(prepared, on_event, stop)
"""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import msgspec

from verse.adapter_digest import base_digest
from verse.base_model import BaseModel
from verse_trainer import lora, run_record
from verse_trainer.checkpoint import (
    STATE_FILE,
    SavedState,
    check_unused,
    decode_state,
    read_state,
)
from verse_trainer.config import TrainConfig
from verse_trainer.data_parallel import DataParallel
from verse_trainer.encoding import EncodedRow
from verse_trainer.errors import TrainingError
from verse_trainer.events import Event
from verse_trainer.frozen_layers import ModelLayers, is_small, num_frozen, resident_bytes
from verse_trainer.layer_cache import LayerCache, weights_digest
from verse_trainer.loop import Outcome, TrainingLoop
from verse_trainer.material import Material, check_files, read_material
from verse_trainer.objective import Example, Objective, PackedLoss, RowLoss
from verse_trainer.plan import BatchPlan, Cadence, make_cadence
from verse_trainer.run_record import RunRecord
from verse_trainer.step import Stepper, make_optimizer

CACHE_FOLDER = "layer_cache"


@dataclass(frozen=True, kw_only=True)
class MeasuredStep:
    """What one real step took."""

    seconds: float
    tokens: int
    """Of the rows of the timed batch, without padding."""
    peak_bytes: int
    """The most memory in use, over the longest batch; the base included."""


@dataclass(frozen=True, kw_only=True)
class PreparedRun:
    """A run that could begin now. The model of `base` is adapted already."""

    config: TrainConfig
    base: BaseModel
    material: Material
    row_loss: RowLoss
    objective: Objective
    num_frozen: int
    """Layers that are run once over all rows."""
    batches: BatchPlan
    cadence: Cadence
    adapter_config: Mapping[str, Any]
    """The fixed part of `adapter_config.json`: what mlx-lm needs to load the weights."""
    record: RunRecord
    """As it will be written at the start."""
    saved: SavedState | None
    """Of the run that goes on; None at its beginning."""
    is_resumed: bool
    trainable_parameters: int
    total_parameters: int
    """Of the model without the adapter."""
    why_no_cache: str = ""
    """Why there is no layer cache, in a sentence."""
    parallel: DataParallel = field(default_factory=DataParallel)
    """The ranks that train together."""
    notes: tuple[str, ...] = ()
    """What the poet should know before it starts, a sentence each, such as a missing valid set."""

    @property
    def folder(self) -> Path:
        """Of the adapter."""
        return Path(self.config.adapter_path).expanduser()

    @property
    def layer_cache(self) -> LayerCache | None:
        """Of the frozen layers' output; None where there are none or nothing is kept."""
        return self.row_loss.cache if isinstance(self.row_loss, PackedLoss) else None

    @property
    def resident_bytes(self) -> int:
        """Of the base's weights while it trains."""
        if self.layer_cache is None:
            return self.base.bytes
        return resident_bytes(self.base.model, self.num_frozen)

    @property
    def cache_folder(self) -> Path | None:
        """Where the layer cache is, if it is a file."""
        cache = self.layer_cache
        if self.config.layer_cache_folder is not None:
            return Path(self.config.layer_cache_folder).expanduser()
        return None if cache is None or is_small(cache.num_bytes) else self._own_cache_folder

    @property
    def _own_cache_folder(self) -> Path:
        return self.folder / CACHE_FOLDER

    def fill_cache(self, on_progress: Callable[[float], None]) -> None:
        """Run all rows through the frozen layers, and let those go.

        Raises:
            TrainingError: the disk is full, or a file of the cache's name holds something else.
        """
        cache, folder = self.layer_cache, self.cache_folder
        if cache is None or cache.is_filled:
            return
        # Poems on the way are written by the whole model.
        layers = ModelLayers(self.base, self.num_frozen, keep=self.config.sample_every is not None)
        layers.on_progress = on_progress
        cache.fill(layers, folder, "" if folder is None else weights_digest(self.base.path))
        layers.release()

    def discard_cache(self) -> None:
        """The run is over: what lay beside the adapter for it alone goes."""
        shutil.rmtree(self._own_cache_folder, ignore_errors=True)
        if not self.parallel.is_first:  # there was nothing else in it
            with suppress(OSError):
                self.folder.rmdir()

    @property
    def num_rows(self) -> int:
        """Training rows, or pairs."""
        return len(self._examples)

    @property
    def num_valid_rows(self) -> int:
        """Rows, or pairs, to measure with."""
        return len(self.objective.examples("valid"))

    @property
    def never_seen(self) -> int:
        """Training rows that none of the run's batches holds; 0 if it is an epoch or longer."""
        steps = range(1, min(self.total_steps, self.steps_per_epoch) + 1)
        return self.num_rows - len({row for step in steps for row in self.batches.batch(step)})

    @property
    def num_tokens(self) -> int:
        """Of the training rows, without padding."""
        return sum(example.num_tokens for example in self._examples)

    @property
    def num_target_tokens(self) -> int:
        """Those of them that are learned."""
        return sum(row.weight for row in self.material.rows["train"])

    @property
    def steps_per_epoch(self) -> int:
        """Batches until every row was seen."""
        return self.batches.steps_per_epoch

    @property
    def total_steps(self) -> int:
        """Batches of the whole run, if nothing ends it early."""
        return self.cadence.total_steps

    @property
    def total_updates(self) -> int:
        """Optimizer updates of the whole run."""
        return self.cadence.total_updates

    @property
    def start_step(self) -> int:
        """Steps done before; 0 unless the run is resumed."""
        return 0 if self.saved is None else self.saved.state.step

    @property
    def lacks_end(self) -> bool:
        """Whether the run was stopped at what is its last step now; its checkpoint is to come."""
        return (
            self.saved is not None
            and self.saved.state.step >= self.total_steps
            and (self.saved.lacks_update or not self.saved.state.has_checkpoint)
        )

    @property
    def longest(self) -> EncodedRow:
        """The training row with the most tokens."""
        return max(self.material.rows["train"], key=lambda row: row.num_tokens)

    def one_step(self, clock: Callable[[], float] = time.perf_counter) -> MeasuredStep:
        """Take one real step and put everything back.

        The memory is that of the longest batch, the time that of a middling one.
        """
        model = self.base.model
        weights = lora.trainable(model)
        optimizer = make_optimizer(self.config, self.total_updates)
        stepper = Stepper(
            model, self.objective, optimizer, self.config.seed, parallel=self.parallel
        )
        mx.reset_peak_memory()
        self._take(stepper, self.batches.longest_batch())
        peak_bytes = mx.get_peak_memory() + self.row_loss.host_bytes
        middling = self._middling_batch()
        self._take(stepper, middling)  # brings in what is compiled once for each shape
        start = clock()
        self._take(stepper, middling)
        seconds = clock() - start
        model.load_weights(list(weights.items()), strict=False)
        mx.clear_cache()
        tokens = self.tokens_of(middling)
        return MeasuredStep(seconds=seconds, tokens=tokens, peak_bytes=peak_bytes)

    @property
    def batch_weight(self) -> float:
        """What the gradients of a batch are divided by: the weight of an average one.

        So every token counts the same in an epoch, whatever batch it is in.
        """
        return sum(example.weight for example in self._examples) / self.steps_per_epoch

    def weight_of(self, indices: tuple[int, ...]) -> int:
        """Of some training examples together."""
        return sum(self._examples[index].weight for index in indices)

    def share_of(self, indices: tuple[int, ...]) -> tuple[int, ...]:
        """Of the training examples of a batch, those of this rank."""
        return self.parallel.share(indices, [self._examples[i].num_tokens for i in indices])

    def tokens_of(self, indices: tuple[int, ...]) -> int:
        """Of some training examples together, without padding."""
        return sum(self._examples[index].num_tokens for index in indices)

    @property
    def _examples(self) -> Sequence[Example]:
        return self.objective.examples("train")

    def _take(self, stepper: Stepper, indices: tuple[int, ...]) -> None:
        share = self.share_of(indices)
        batch = self.objective.batch("train", share) if share else None
        stepper.step(1, batch, self.batch_weight, is_update=True)

    def _middling_batch(self) -> tuple[int, ...]:
        batches = [self.batches.batch(step) for step in range(1, self.steps_per_epoch + 1)]
        return sorted(batches, key=self.tokens_of)[len(batches) // 2]


def check(config: TrainConfig, *, is_first: bool = True) -> None:
    """Find what is wrong without a model.

    Args:
        config: Of the run.
        is_first: Whether this rank has the adapter folder and the weights to start from.

    Raises:
        TrainerError: one sentence.
    """
    check_files(config)
    make_optimizer(config, num_updates=1)
    if not is_first:
        return
    start = run_record.start_file(config)
    if start is not None and not start.is_file():
        raise TrainingError(f"resume_adapter_file {start} is not a file.")
    if config.train:
        _check_folder(config)


def prepare(
    config: TrainConfig, base: BaseModel, parallel: DataParallel | None = None
) -> PreparedRun:
    """Read and encode the rows, adapt the model (in place) and lay out the steps.

    Args:
        config: Of the run.
        base: Loaded for it.
        parallel: The ranks that train together; all call this.

    Raises:
        TrainerError: one sentence.
        MachinesError: the ranks have other bases or other rows.
    """
    parallel = parallel or DataParallel()
    check(config, is_first=parallel.is_first)
    material = read_material(config, base)
    total_parameters = lora.count_base_parameters(base.model)
    _agree(parallel, base, material)
    is_packed = not began_unpacked(config, parallel)
    frozen, why_none = num_frozen(base.model, config) if is_packed else (0, _BEGAN_UNPACKED)
    keys = lora.adapt(base.model, config)
    if parallel.is_first and (start := run_record.start_file(config)) is not None:
        lora.load_start(base.model, start)
    lora.take_from_first(base.model, parallel)
    row_loss = material.row_loss(base, config, frozen, is_packed=is_packed)
    objective = material.objective(row_loss, config)
    lengths = [example.length for example in objective.examples("train")]
    batches = BatchPlan(lengths, config.batch_size, config.seed)
    cadence = make_cadence(config, batches.steps_per_epoch)
    folder = _folder(config)
    is_packed = isinstance(row_loss, PackedLoss)
    record = run_record.record_of(config, base, material, cadence, is_packed, parallel.is_first)
    before = run_record.read_record(folder) if config.resume and parallel.is_first else None
    saved = _saved(folder, parallel) if config.resume else None
    if saved is not None:  # a run cannot be made shorter than it is
        total_steps = max(cadence.total_steps, saved.state.step)
        cadence = msgspec.structs.replace(cadence, total_steps=total_steps)
    if before is not None:
        record = run_record.continued(before, record, base.path, is_new=saved is None)
    num_layers = len(lora.trained_blocks(base.model, config.num_layers))
    return PreparedRun(
        config=config,
        base=base,
        material=material,
        row_loss=row_loss,
        objective=objective,
        num_frozen=frozen,
        batches=batches,
        cadence=cadence,
        adapter_config=_adapter_config(config, keys, num_layers),
        record=record,
        saved=saved,
        is_resumed=config.resume,
        trainable_parameters=lora.count_parameters(lora.trainable(base.model)),
        total_parameters=total_parameters,
        why_no_cache=why_none,
        parallel=parallel,
        notes=tuple(_notes(config, material, cadence, saved)),
    )


_BEGAN_UNPACKED = (
    "An earlier version of Verse began this run, and it goes on as it began: without a layer cache."
)


def began_unpacked(config: TrainConfig, parallel: DataParallel) -> bool:
    """Whether this goes on with a run of a version that did not pack its rows."""

    def ask() -> bytes:
        record = run_record.read_record(_folder(config)) if config.resume else None
        return b"yes" if record is not None and not record.packs_rows else b"no"

    return parallel.from_first(ask) == b"yes"


def _agree(parallel: DataParallel, base: BaseModel, material: Material) -> None:
    """All ranks train the same base on the same rows."""
    if parallel.is_alone:
        return
    parallel.agree(
        base_digest(base.path),
        "{rank} has another base model than rank 0: copy its folder from there.",
    )
    rows = [material.hash(part) for part in ("train", "valid", "test")]
    parallel.agree(
        " ".join(rows), "{rank} has other rows than rank 0: copy the data folder from there."
    )


def _saved(folder: Path, parallel: DataParallel) -> SavedState | None:
    """The state to go on from: rank 0's, which sends it to the others."""
    if parallel.is_alone:
        return read_state(folder)
    saved = read_state(folder) if parallel.is_first else None
    file = folder / STATE_FILE
    data = parallel.from_first(lambda: b"" if saved is None else file.read_bytes())
    return decode_state(data, file) if data else None


def train(
    prepared: PreparedRun,
    on_event: Callable[[Event], None],
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train until the end, an early stop, or until `stop` says so; everything is saved.

    Raises:
        TrainingError: the loss is NaN, or the disk is full; the last good state is on the disk.
    """
    return TrainingLoop(prepared, on_event).run(stop)


def _check_folder(config: TrainConfig) -> None:
    folder = _folder(config)
    if not config.resume:
        check_unused(folder)
    elif run_record.read_record(folder) is None:
        raise TrainingError(f"{folder} holds no run to resume; start without --resume.")


def _notes(
    config: TrainConfig, material: Material, cadence: Cadence, saved: SavedState | None
) -> list[str]:
    notes = list(material.doubts)
    if saved is not None and _has_flushed(saved, cadence):
        notes.append(
            f"An earlier version of Verse ended this run at step {saved.state.step} with an "
            "update of fewer batches than grad_accumulation_steps and kept no state from before "
            "it, so the longer run includes that update."
        )
    if "valid" not in material.rows:
        notes.append(
            f"{config.data} has no validation rows: no checkpoint can be the best, nothing stops "
            "the run early, and the last weights are published."
        )
    if config.fine_tune_type == "full":
        notes.append(
            "A full fine-tune is not an adapter: `verse serve` cannot load it beside others; fuse "
            "it and serve the result with --model."
        )
    if config.method == "dpo" and config.resume_adapter_file is None and not config.resume:
        notes.append(
            "No resume_adapter_file is given, so the preferences are trained on the base model "
            "itself."
        )
    return notes


def _has_flushed(saved: SavedState, cadence: Cadence) -> bool:
    """Whether the run goes on beyond an update that a run of its length does not make."""
    step, has_gradients = saved.state.step, saved.summed_weight > 0
    return not (has_gradients or step >= cadence.total_steps or cadence.endless.is_update(step))


def _adapter_config(config: TrainConfig, keys: tuple[str, ...], num_layers: int) -> dict[str, Any]:
    parameters = {**lora.lora_parameters(config), "keys": keys}
    return {
        "fine_tune_type": config.fine_tune_type,
        "num_layers": num_layers,
        "lora_parameters": None if config.fine_tune_type == "full" else parameters,
        "model": run_record.public_config(config)["model"],
    }


def _folder(config: TrainConfig) -> Path:
    return Path(config.adapter_path).expanduser()
