"""What the training process reports to the one that started it: a line of JSON each.

Loading    the base is coming into memory
Forecast   what the run will be, with one step measured
...        every event of events.py
Finished   how it ended; the last message of a run that trained
Failed     a mistake of the user's, in one sentence; the last message instead
"""

import msgspec

from verse_trainer.config import TrainConfig
from verse_trainer.estimate import MemoryEstimate
from verse_trainer.events import (
    Evaluated,
    Sampled,
    Saved,
    Started,
    Stepped,
    Stopped,
    StopReason,
    Tested,
    TrainReport,
)


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """The only thing the training process is told: the first line of its input."""

    config: TrainConfig
    dry_run: bool = False
    """Stop after the forecast."""


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """Base of the messages that are no events."""


class Loading(_Message, frozen=True, kw_only=True, tag="loading"):
    """The base is coming into memory."""

    share: float
    """Of its bytes, 0 to 1."""


class Forecast(_Message, frozen=True, kw_only=True, tag="forecast"):
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
    notes: tuple[str, ...] = ()
    """What the poet should know before it starts."""


class Finished(_Message, frozen=True, kw_only=True, tag="finished"):
    """How the run ended."""

    step: int
    reason: StopReason
    best_step: int | None
    best_valid_loss: float | None
    base_valid_loss: float | None
    adapter_path: str


class Failed(_Message, frozen=True, kw_only=True, tag="failed"):
    """A mistake of the user's."""

    sentence: str


Message = (
    Loading
    | Forecast
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
)

decode_message = msgspec.json.Decoder(Message).decode
