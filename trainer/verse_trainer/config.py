"""What one training run is asked to do: mlx_lm.lora's keys by mlx_lm.lora's names, and a few more.

Source of the names and their meaning: mlx_lm/lora.py of mlx-lm 0.32.2.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from verse.prompt import FormatName

Method = Literal["sft", "dpo"]
FineTuneType = Literal["lora", "dora", "full"]
OptimizerName = Literal["adam", "adamw", "muon", "sgd", "adafactor"]

# The ranges are checked where a configuration is read (`settling.py`), not when one is built.
Count = Annotated[int, Meta(ge=1)]
CountOrAll = Annotated[int, Meta(ge=-1)]
NotNegative = Annotated[float, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]


class LoraConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`lora_parameters`. The update is `scale * lora_a @ lora_b`, not divided by the rank."""

    rank: Count = 8
    scale: Positive = 2.0
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.05
    keys: tuple[str, ...] | None = None
    """Modules by their path inside a block, as in `self_attn.q_proj`; None for all linear ones."""


class ScheduleConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`lr_schedule`, a schedule of mlx.optimizers by its name.

    What only the run knows may be left out, which mlx-lm does not allow; see `schedule.complete`.
    """

    name: str
    arguments: tuple[float, ...] = ()
    """As mlx.optimizers wants them; what is missing at the end is filled in from the run."""
    warmup: Annotated[int, Meta(ge=0)] | Annotated[float, Meta(ge=0, lt=1)] = 0
    """Updates over which the rate rises to the schedule's first value; below 1, their share."""
    warmup_init: NotNegative = 0.0


class TrainConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run. `alpha` is resolved before this, `epochs` once the rows are counted."""

    model: str = "models/verse-tiny"
    data: str = "data"
    """A folder with train.jsonl, valid.jsonl and, for `test`, test.jsonl."""
    adapter_path: str = "adapters/mine"
    train: bool = True
    test: bool = False
    method: Method = "sft"
    fine_tune_type: FineTuneType = "lora"
    num_layers: CountOrAll = -1
    """Blocks to adapt, counted from the end; -1 and 0 mean all, as in mlx-lm."""
    lora_parameters: LoraConfig = LoraConfig()
    mask_prompt: bool = True
    prompt_format: FormatName = "chat"
    max_seq_length: Count = 2048
    batch_size: Count = 2
    grad_accumulation_steps: Count = 1
    epochs: Positive | None = None
    """Passes over the training rows; stands in for `iters` when that is not given."""
    iters: Count | None = None
    """Batches to train on. mlx-lm's word; an update follows every grad_accumulation_steps."""
    optimizer: OptimizerName = "adamw"
    optimizer_config: dict[str, dict[str, Any]] = {}
    """Arguments of the optimizer, by its name; bias_correction is on unless switched off here."""
    learning_rate: Positive = 1e-4
    lr_schedule: ScheduleConfig | None = None
    seed: Annotated[int, Meta(ge=0)] = 0
    steps_per_report: Count = 10
    steps_per_eval: Count | None = None
    """None: as `save_every`."""
    save_every: Count | None = None
    """None: once an epoch."""
    val_batches: CountOrAll = -1
    """Of the valid set to measure with; -1 for all of it."""
    test_batches: CountOrAll = -1
    patience: Count | None = 3
    """Evaluations without a better validation loss before the run stops; None: never."""
    resume: bool = False
    """Go on where the run in `adapter_path` stopped."""
    resume_adapter_file: str | None = None
    """Weights to start from, with a fresh optimizer."""
    grad_checkpoint: bool = False
    clear_cache_threshold: Annotated[int, Meta(ge=0)] = 0
    """Bytes of mlx's cache above which it is emptied after a step."""
    sample_every: Count | None = None
    """Steps between poems for `sample_themes`; None: none are written."""
    sample_themes: tuple[str, ...] = ("河", "母亲", "灯")
    beta: Positive = 0.1
    """DPO: how hard the preferences pull away from the starting adapter."""
    sft_weight: NotNegative = 0.1
    """DPO: weight of the negative log-likelihood of the chosen poem, per token."""
    report_to: str | None = None
    project_name: str | None = None
    trust_remote_code: bool = False
