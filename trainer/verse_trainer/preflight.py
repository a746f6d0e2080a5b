"""What a run will be, in plain words, before its first step. Pure text from numbers."""

from typing import Any

from verse_trainer.config import TrainConfig, complete_schedule, num_decay_updates
from verse_trainer.events import Forecast

# Rate x scale of runs whose poems are known: 2e-5 hardly changed the base, 8e-5 to 2e-4 wrote in
# the poet's voice without copying, 4.8e-4 gave whole poems back word for word.
_WEAK, _USUAL, _COPYING = 5e-5, 3e-4, 4.5e-4
_USUAL_FOR_PREFERENCES = 3e-5
_TIGHT = 0.75
"""Of the machine's memory; the rest is for the system and everything else that runs."""
_ADAM_BETAS = (0.9, 0.999)


def describe(forecast: Forecast, config: TrainConfig) -> list[tuple[str, str]]:
    """Rows of (what, in words) for a table."""
    return [
        ("rows", _rows(forecast)),
        ("never seen", _never_seen(forecast)),
        ("tokens", _tokens(forecast)),
        ("steps", _steps(forecast, config)),
        ("trained", _trained(forecast, config)),
        ("rate x scale", _strength(config)),
        ("schedule", _schedule(forecast, config)),
        ("optimizer", _optimizer(config)),
        ("memory", _memory(forecast)),
        ("time", _time(forecast)),
    ]


def gigabytes(num_bytes: float) -> str:
    """`4.3 GB`; below 0.1 GB in MB."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.0f} MB"


def duration(seconds: float) -> str:
    """Two units at most: `1 h 05 min`, `3 min`, `40 s`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def first_rate(config: TrainConfig) -> float:
    """The highest rate of the run: where its schedule begins, or the rate itself."""
    planned = config.lr_schedule
    return planned.arguments[0] if planned and planned.arguments else config.learning_rate


def _rows(forecast: Forecast) -> str:
    return f"{forecast.num_rows} to learn from, {forecast.num_valid_rows} to validate with"


def _never_seen(forecast: Forecast) -> str:
    theirs = forecast.never_seen_by_mlx_lm
    if theirs == forecast.num_rows:
        return f"{forecast.never_seen}; mlx_lm.lora refuses fewer rows than batch_size"
    return f"{forecast.never_seen}; mlx_lm.lora would never train on {theirs}"


def _tokens(forecast: Forecast) -> str:
    return (
        f"{forecast.num_tokens:,}, of which {forecast.num_target_tokens:,} are learned; "
        f"the longest row has {forecast.longest_row_tokens} ({forecast.longest_row})"
    )


def _steps(forecast: Forecast, config: TrainConfig) -> str:
    epochs = forecast.total_steps / max(1, forecast.steps_per_epoch)
    words = f"{forecast.total_steps} of up to {config.batch_size} rows = {epochs:.1f} epochs"
    if forecast.total_updates != forecast.total_steps:
        words += f", {forecast.total_updates} updates"
    if forecast.start_step:
        words += f"; {forecast.start_step} of them are done"
    return words


def _trained(forecast: Forecast, config: TrainConfig) -> str:
    share = forecast.trainable_parameters / max(1, forecast.total_parameters)
    kind = (
        config.fine_tune_type
        if config.fine_tune_type == "full"
        else f"{config.fine_tune_type}, rank {config.lora_parameters.rank}"
    )
    return f"{forecast.trainable_parameters:,} parameters, {share:.2%} of the base ({kind})"


def _strength(config: TrainConfig) -> str:
    """Adam moves each factor by the rate, so the weights move by rate x scale a step."""
    rate = first_rate(config)
    if config.fine_tune_type == "full":
        return f"{rate:g}; no scale in a full fine-tune, where 1e-05 is usual"
    scale = config.lora_parameters.scale
    product = rate * scale
    words = f"{rate:g} x {scale:g} = {product:.2g}: "
    if config.optimizer not in ("adam", "adamw"):
        return f"{words}cannot be compared, known runs used Adam"
    if config.method == "dpo":
        return words + _preference_strength(product)
    if product < _WEAK:
        return f"{words}weak; at 2e-05 the base hardly changed (usual: 8e-05 to 2e-04)"
    if product <= _USUAL:
        return f"{words}usual; 8e-05 to 2e-04 took on a voice without copying poems"
    if product < _COPYING:
        return f"{words}strong (usual: 8e-05 to 2e-04); watch the copy score"
    return f"{words}very strong; at 4.8e-04 whole training poems came back word for word"


def _preference_strength(product: float) -> str:
    if product <= _USUAL_FOR_PREFERENCES:
        return "usual for preferences"
    return "strong for preferences; 5e-06 to 1e-05 is usual, try --learning-rate 5e-06"


def _schedule(forecast: Forecast, config: TrainConfig) -> str:
    if config.lr_schedule is None:
        return "the same rate throughout"
    planned = complete_schedule(config.lr_schedule, config.learning_rate, forecast.total_updates)
    words = planned.name.replace("_", " ")
    if planned.warmup:
        words += f" after a warm-up of {planned.warmup}"
    end = num_decay_updates(planned)
    if end is not None and abs(end - forecast.total_updates) > 0.1 * forecast.total_updates:
        words += f"; it ends at update {end}, the run has {forecast.total_updates}"
    return words


def _optimizer(config: TrainConfig) -> str:
    name = config.optimizer
    if name not in ("adam", "adamw"):
        return name
    options: dict[str, Any] = config.optimizer_config.get(name, {})
    if options.get("bias_correction", True):
        return f"{name} with bias correction: the first steps are as long as the rate says"
    first, tenth = (_uncorrected(step, options.get("betas", _ADAM_BETAS)) for step in (1, 10))
    return (
        f"{name} without bias correction: the first step is {first:.1f} times as long as the rate "
        f"says, the tenth {tenth:.1f} times"
    )


def _uncorrected(step: int, betas: tuple[float, float]) -> float:
    """How much longer a step of Adam is without its correction (Kingma and Ba 2015, section 3)."""
    return (1 - betas[0] ** step) / (1 - betas[1] ** step) ** 0.5


def _memory(forecast: Forecast) -> str:
    words = (
        f"{gigabytes(forecast.peak_memory_bytes)} at the peak, measured on one step with the "
        f"longest rows; this machine has {gigabytes(forecast.machine_memory_bytes)}"
    )
    if forecast.memory_estimate is not None:
        words += f" ({_parts(forecast)})"
    if forecast.peak_memory_bytes > _TIGHT * forecast.machine_memory_bytes:
        smaller = [f"{flag}: {gigabytes(size)}" for flag, size in forecast.alternatives.items()]
        words += "; that is tight" + (f", try {', '.join(smaller)}" if smaller else "")
    return words


def _parts(forecast: Forecast) -> str:
    parts = forecast.memory_estimate
    assert parts is not None
    moving = max(0, forecast.peak_memory_bytes - parts.fixed_bytes)
    return (
        f"weights {gigabytes(parts.weights_bytes)}, adapter and optimizer "
        f"{gigabytes(parts.adapter_bytes)}, the batch {gigabytes(moving)}"
    )


def _time(forecast: Forecast) -> str:
    speed = forecast.step_tokens / max(1e-9, forecast.step_seconds)
    return (
        f"about {duration(forecast.estimated_seconds)} at {speed:,.0f} tokens/s, one step measured"
    )
