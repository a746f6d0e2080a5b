"""What the training process reports to the one that started it: a line of JSON each.

    Estimated    what a run would take whose base is not on this machine; then nothing else
    Loading      the base is coming into memory
    Forecast     what the run will be, with one step measured
    Caching      all rows are run through the frozen layers, once
    Started      once, before the first step
    Stepped      after every batch
    TrainReport  every `steps_per_report` batches and at the end -> metrics.jsonl
    Evaluated    before the first step, and at each checkpoint   -> metrics.jsonl
    Saved        a numbered checkpoint is on the disk
    Sampled      one poem written on the way                     -> samples.jsonl
    Tested       the test set was measured, at the end           -> metrics.jsonl
    Stopped      once, when everything is on the disk            -> metrics.jsonl
    Finished     how it ended; the last message of a run that trained
    Failed       a mistake of the user's, in one sentence; the last message instead
    Checked      the rows and the configuration are right; the last message of a check

Each carries its kind in `event`. Times are in seconds, sizes in bytes, losses in nats per token
(for DPO: per pair, but for the test set).
"""

from typing import Any, Literal

import msgspec

from verse_trainer.config import TrainConfig
from verse_trainer.memory import MemoryEstimate

StopReason = Literal["finished", "early_stop", "interrupted", "nan"]


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """Base of all messages."""


class PreferenceFigures(msgspec.Struct, frozen=True, kw_only=True):
    """How the preferences of some pairs are met; means over them. DPO only."""

    margin: float
    """beta * ((chosen - its reference) - (rejected - its reference)), log-probabilities."""
    accuracy: float
    """Share of pairs with a margin above 0."""
    chosen_logp: float
    """Log-probability of the whole chosen poem."""
    rejected_logp: float


class Started(_Event, frozen=True, kw_only=True, tag="started"):
    """The run is about to take its first step."""

    steps: int
    """Batches of the whole run, those before `start_step` included."""
    epochs: float
    updates: int
    """Optimizer updates of the whole run."""
    start_step: int
    """Batches that were done before; 0 unless the run was resumed."""


class Caching(_Event, frozen=True, kw_only=True, tag="caching"):
    """All rows are run through the frozen layers."""

    share: float
    """Of the layers, 0 to 1."""


class Stepped(_Event, frozen=True, kw_only=True, tag="stepped"):
    """One batch is done."""

    step: int
    loss: float
    tokens: int
    """Of the rows, without padding."""


class TrainReport(_Event, frozen=True, kw_only=True, tag="train"):
    """The training since the last report."""

    step: int
    epoch: float
    train_loss: float
    learning_rate: float
    """Of the last update."""
    tokens_per_second: float
    """Of the rows, without padding."""
    iterations_per_second: float
    trained_tokens: int
    """Of the rows, without padding, since the beginning of the run."""
    peak_memory_bytes: int
    eta_seconds: float
    preference: PreferenceFigures | None = None


class Evaluated(_Event, frozen=True, kw_only=True, tag="valid"):
    """The valid set was measured with the weights of `step`."""

    step: int
    valid_loss: float
    standard_error: float | None
    """Of the loss, over poems; None for a single one."""
    seconds: float
    is_best: bool
    preference: PreferenceFigures | None = None


class Saved(_Event, frozen=True, kw_only=True, tag="saved"):
    """A numbered checkpoint is on the disk."""

    step: int
    path: str


class Sampled(_Event, frozen=True, kw_only=True, tag="sample"):
    """A poem written on the way."""

    step: int
    theme: str
    text: str
    copy_run: str = ""
    """The longest run shared with a training poem, normalised; empty if there is none of note."""
    copy_source: str = ""
    """The poem it is from: its id, or file and line. Of preference pairs the chosen poems count."""


class Tested(_Event, frozen=True, kw_only=True, tag="test"):
    """The test set was measured with the published weights."""

    step: int
    test_loss: float
    standard_error: float | None
    perplexity: float


class Stopped(_Event, frozen=True, kw_only=True, tag="stopped"):
    """The run is over for now, and all of it is on the disk."""

    step: int
    reason: StopReason


Metric = TrainReport | Evaluated | Tested | Stopped
"""What `metrics.jsonl` holds."""
Event = Caching | Started | Stepped | TrainReport | Evaluated | Saved | Sampled | Tested | Stopped


class TrainRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The only thing the training process is asked: the first line of its input."""

    config: TrainConfig = TrainConfig()
    keys: dict[str, Any] | None = None
    """What a configuration file would hold; resolved in the process, instead of `config`."""
    dry_run: bool = False
    """Stop after the forecast."""
    check: bool = False
    """Read all rows, load no weights, and stop: `Checked`, or `Failed`."""
    is_rank: bool = False
    """Train with the other ranks that a launcher has started; else what it set is not looked at."""


class Loading(_Event, frozen=True, kw_only=True, tag="loading"):
    """The base is coming into memory."""

    share: float
    """Of its bytes, 0 to 1."""


class LayerCacheForecast(msgspec.Struct, frozen=True, kw_only=True):
    """What computing frozen layers once brings and takes."""

    num_layers: int
    """Computed once; 0 for none."""
    why_none: str = ""
    """A sentence."""
    states_bytes: int = 0
    """Of what is kept of the rows."""
    is_file: bool = False
    """Kept in a file, not in memory."""
    peak_bytes: int | None = None
    """With it; None where no shapes are known."""
    peak_without_bytes: int | None = None


class Forecast(_Event, frozen=True, kw_only=True, tag="forecast"):
    """What the run will be. Times in seconds, sizes in bytes."""

    num_rows: int
    num_valid_rows: int
    num_tokens: int
    num_target_tokens: int
    """Those that are learned."""
    longest_row_tokens: int
    longest_row: str
    """File and line."""
    steps_per_epoch: int
    total_steps: int
    total_updates: int
    start_step: int
    never_seen: int
    """Training rows that none of the run's batches holds."""
    never_seen_by_mlx_lm: int
    """Training rows that none of mlx_lm.lora's batches would hold in as many steps."""
    trainable_parameters: int
    total_parameters: int
    step_seconds: float
    step_tokens: int
    peak_memory_bytes: int
    """Measured on one step with the longest rows."""
    machine_memory_bytes: int
    estimated_seconds: float
    memory_estimate: MemoryEstimate | None
    """The peak by its parts; None for models whose parts are not known."""
    alternatives: dict[str, int]
    """What the peak would be with one flag changed."""
    layer_cache: LayerCacheForecast | None = None
    notes: tuple[str, ...] = ()
    """What the poet should know before it starts."""


class Estimated(_Event, frozen=True, kw_only=True, tag="estimated"):
    """What a run would take, from shapes alone: the weights are not on this machine."""

    model: str
    num_rows: int
    row_tokens: int
    """Of a row, assumed."""
    memory_estimate: MemoryEstimate
    layer_cache: LayerCacheForecast
    machine_memory_bytes: int
    total_parameters: int
    trainable_parameters: int


class Finished(_Event, frozen=True, kw_only=True, tag="finished"):
    """How the run ended."""

    step: int
    reason: StopReason
    best_step: int | None
    best_valid_loss: float | None
    base_valid_loss: float | None
    adapter_path: str


class Failed(_Event, frozen=True, kw_only=True, tag="failed"):
    """A mistake of the user's."""

    sentence: str
    about: Literal["data", "config", "run"] = "run"
    """What is at fault: the rows, the keys, or what else a run needs."""


class Checked(_Event, frozen=True, kw_only=True, tag="checked"):
    """All rows can be learned. Sizes in bytes."""

    num_rows: int
    num_valid_rows: int
    longest_row_tokens: int
    memory_estimate: MemoryEstimate | None
    """Of the run; None for models whose parts are not known."""
    notes: tuple[str, ...] = ()


TrainMessage = (
    Loading
    | Estimated
    | Forecast
    | Caching
    | Started
    | Stepped
    | TrainReport
    | Evaluated
    | Saved
    | Sampled
    | Tested
    | Stopped
    | Finished
    | Failed
    | Checked
)

decode_message = msgspec.json.Decoder(TrainMessage).decode
