"""What one training run is asked to do: mlx_lm.lora's keys by mlx_lm.lora's names, and a few more.

Source of the names and their meaning: mlx_lm/lora.py of mlx-lm 0.32.2.
"""

from typing import Any, Literal

import msgspec

from verse.prompt import FormatName

Method = Literal["sft", "dpo"]
FineTuneType = Literal["lora", "dora", "full"]
OptimizerName = Literal["adam", "adamw", "muon", "sgd", "adafactor"]


class LoraConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`lora_parameters`. The update is `scale * lora_a @ lora_b`, not divided by the rank."""

    rank: int = 8
    scale: float = 2.0
    dropout: float = 0.05
    keys: tuple[str, ...] | None = None
    """Modules by their path inside a block, as in `self_attn.q_proj`; None for all linear ones."""


class ScheduleConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`lr_schedule`, a schedule of mlx.optimizers by its name."""

    name: str
    arguments: tuple[float, ...]
    warmup: int = 0
    """Updates over which the rate rises to the schedule's first value."""
    warmup_init: float = 0.0


class TrainConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run. Everything is settled here: `epochs` and `alpha` are resolved by who reads them."""

    model: str = "models/verse-tiny"
    data: str = "data"
    """A folder with train.jsonl, valid.jsonl and, for `test`, test.jsonl."""
    adapter_path: str = "adapters/mine"
    train: bool = True
    test: bool = False
    method: Method = "sft"
    fine_tune_type: FineTuneType = "lora"
    num_layers: int = -1
    """Blocks to adapt, counted from the end; -1 and 0 mean all, as in mlx-lm."""
    lora_parameters: LoraConfig = LoraConfig()
    mask_prompt: bool = True
    prompt_format: FormatName = "chat"
    max_seq_length: int = 2048
    batch_size: int = 2
    grad_accumulation_steps: int = 1
    epochs: float | None = None
    """Passes over the training rows; stands in for `iters` when that is not given."""
    iters: int | None = None
    """Batches to train on. mlx-lm's word; an update follows every grad_accumulation_steps."""
    optimizer: OptimizerName = "adamw"
    optimizer_config: dict[str, dict[str, Any]] = {}
    """Arguments of the optimizer, by its name; bias_correction is on unless switched off here."""
    learning_rate: float = 1e-4
    lr_schedule: ScheduleConfig | None = None
    seed: int = 0
    steps_per_report: int = 10
    steps_per_eval: int | None = None
    """None: as `save_every`."""
    save_every: int | None = None
    """None: once an epoch."""
    val_batches: int = -1
    """Of the valid set to measure with; -1 for all of it."""
    test_batches: int = -1
    patience: int | None = 3
    """Evaluations without a better validation loss before the run stops; None: never."""
    resume: bool = False
    """Go on where the run in `adapter_path` stopped."""
    resume_adapter_file: str | None = None
    """Weights to start from, with a fresh optimizer."""
    grad_checkpoint: bool = False
    clear_cache_threshold: int = 0
    """Bytes of mlx's cache above which it is emptied after a step."""
    sample_every: int | None = None
    """Steps between poems for `sample_themes`; None: none are written."""
    sample_themes: tuple[str, ...] = ("河", "母亲", "灯")
    beta: float = 0.1
    """DPO: how hard the preferences pull away from the starting adapter."""
    sft_weight: float = 0.1
    """DPO: weight of the negative log-likelihood of the chosen poem, per token."""
    report_to: str | None = None
    project_name: str | None = None
    trust_remote_code: bool = False
