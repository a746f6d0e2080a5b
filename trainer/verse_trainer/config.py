"""What one training run is asked to do: mlx_lm.lora's keys by mlx_lm.lora's names, and a few more.

Source of the names and their meaning: mlx_lm/lora.py of mlx-lm 0.32.2. The presets, and what can be
said of a learning-rate schedule without mlx, are here too; `verse --help` loads this module.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from verse.folders import EMBEDDED_BASE
from verse.prompt import FormatName
from verse_trainer.errors import ConfigError

Method = Literal["sft", "dpo"]
FineTuneType = Literal["lora", "dora", "full"]
LongRows = Literal["cut", "skip", "stop"]
OptimizerName = Literal["adam", "adamw", "muon", "sgd", "adafactor"]

# The ranges are checked where a configuration is read (`config_load.py`), not when one is built.
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

    What only the run knows may be left out, which mlx-lm does not allow; see `complete_schedule`.
    """

    name: str
    arguments: tuple[float, ...] = ()
    """As mlx.optimizers wants them; what is missing at the end is filled in from the run."""
    warmup: Annotated[int, Meta(ge=0)] | Annotated[float, Meta(ge=0, lt=1)] = 0
    """Updates over which the rate rises to the schedule's first value; below 1, their share."""
    warmup_init: NotNegative = 0.0


class TrainConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run. `alpha` is resolved before this, `epochs` once the rows are counted."""

    model: str = EMBEDDED_BASE
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
    long_rows: LongRows = "cut"
    """What becomes of a row with more tokens: cut at a line's end, left out, or an error."""
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
    layer_cache: bool = True
    """Compute what the layers below `num_layers` make of each row once, not in every step."""
    layer_cache_folder: str | None = None
    """Where to keep that for other runs on the same rows; None: in memory, or beside the adapter
    while the run lasts if it is large."""
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


_PACKAGE = Path(__file__).parent


def presets_folder() -> Path:
    """Inside the package where it was installed from a wheel, beside it in the source tree."""
    installed = _PACKAGE / "presets"
    return installed if installed.is_dir() else _PACKAGE.parent / "presets"


def preset_names() -> list[str]:
    """All of them, sorted."""
    return sorted(path.stem for path in presets_folder().glob("*.yaml"))


def find_config(path_or_name: str) -> Path:
    """The file that `-c` means: a path, or a preset's name.

    Raises:
        ConfigError: there is neither.
    """
    path = Path(path_or_name)
    if path.is_file():
        return path
    names = preset_names()
    name = path_or_name.removesuffix(".yaml")
    if name in names:
        return presets_folder() / f"{name}.yaml"
    near = get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"the presets are {', '.join(names)}."
    raise ConfigError(f"There is no file and no preset {path_or_name!r}; {hint}")


# Least and most arguments. Source: mlx/optimizers/schedulers.py. `join_schedules` takes functions,
# which no file can hold; `warmup` does what it is for.
_ARGUMENTS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "cosine_decay": (0, 3),
        "linear_schedule": (0, 3),
        "exponential_decay": (2, 2),
        "step_decay": (3, 3),
    }
)


def check_schedule(schedule: ScheduleConfig) -> None:
    """Refuse what mlx.optimizers does not have.

    Raises:
        ConfigError: the name is unknown, or there are too few or too many arguments.
    """
    if schedule.name not in _ARGUMENTS:
        near = get_close_matches(schedule.name, _ARGUMENTS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(_ARGUMENTS)}."
        raise ConfigError(f"lr_schedule.name {schedule.name!r} is unknown; {hint}")
    least, most = _ARGUMENTS[schedule.name]
    if not least <= len(schedule.arguments) <= most:
        wanted = str(most) if least == most else f"{least} to {most}"
        raise ConfigError(
            f"lr_schedule.arguments: {schedule.name} takes {wanted}, not {len(schedule.arguments)}."
        )


def complete_schedule(
    schedule: ScheduleConfig, learning_rate: float, num_updates: int
) -> ScheduleConfig:
    """Fill in what was left to the run: every argument stands there, and warmup is a count.

    Args:
        schedule: As it was configured.
        learning_rate: Where it starts if its arguments do not say.
        num_updates: Updates of the whole run; the decay ends with it if its arguments do not say.
    """
    warmup = schedule.warmup
    if isinstance(warmup, float):
        warmup = round(warmup * num_updates)
    num_decay = max(1, num_updates - warmup)
    if schedule.name == "cosine_decay":
        filled = (learning_rate, num_decay)
    elif schedule.name == "linear_schedule":
        filled = (learning_rate, 0.0, num_decay)
    else:
        filled = ()
    arguments = schedule.arguments + filled[len(schedule.arguments) :]
    return msgspec.structs.replace(schedule, arguments=arguments, warmup=warmup)


def num_decay_updates(schedule: ScheduleConfig) -> int | None:
    """Updates until a complete schedule has reached its end, warmup included; None: it has none."""
    place = {"cosine_decay": 1, "linear_schedule": 2}.get(schedule.name)
    return None if place is None else int(schedule.arguments[place] + schedule.warmup)
