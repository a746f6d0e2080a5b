"""What a run will be, before its first step: from counts and one measured step, and in words.

No model is needed.
"""

from typing import TYPE_CHECKING, Any

from verse.terminal import are, counted
from verse_trainer.config import TrainConfig, complete_schedule, num_decay_updates
from verse_trainer.errors import TrainingError
from verse_trainer.events import Estimated, Forecast, LayerCacheForecast
from verse_trainer.memory import (
    WITHOUT_CACHE,
    Architecture,
    alternatives,
    caches_layers,
    estimate,
    memory_of,
    num_adapter_parameters,
    read_architecture,
    states_bytes,
)

if TYPE_CHECKING:
    from verse_trainer.run import MeasuredStep, PreparedRun

ASSUMED_ROW_TOKENS = 256
"""Of the longest row, where it cannot be counted: a poem of two hundred characters."""
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
    resident = prepared.resident_bytes
    others = alternatives(
        architecture, config, row_tokens, base.bytes, resident, measured.peak_bytes
    )
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
        memory_estimate=memory_of(architecture, config, row_tokens, base.bytes, resident),
        alternatives=others,
        layer_cache=_layer_cache(prepared, measured.peak_bytes, others.get(WITHOUT_CACHE)),
        notes=prepared.notes,
    )


def _layer_cache(
    prepared: "PreparedRun", peak_bytes: int, without_bytes: int | None
) -> LayerCacheForecast:
    cache = prepared.layer_cache
    if cache is None:
        return LayerCacheForecast(num_layers=0, why_none=prepared.why_no_cache)
    return LayerCacheForecast(
        num_layers=cache.num_layers,
        states_bytes=cache.num_bytes,
        is_file=prepared.cache_folder is not None,
        peak_bytes=peak_bytes,
        peak_without_bytes=without_bytes,
    )


def estimate_by_shape(
    architecture: Architecture, config: TrainConfig, num_rows: int, machine_bytes: int
) -> Estimated:
    """What a run would take whose base is not here.

    Args:
        architecture: The base's.
        config: Of the run.
        num_rows: Rows of the data folder, or 0 where it has none yet.
        machine_bytes: Memory there is.
    """
    has_cache = caches_layers(architecture, config)
    whole = estimate(architecture, config, ASSUMED_ROW_TOKENS)
    found = estimate(architecture, config, ASSUMED_ROW_TOKENS, has_cache=has_cache)
    lora = config.lora_parameters
    tokens = num_rows * ASSUMED_ROW_TOKENS
    frozen = architecture.num_hidden_layers - config.num_layers if has_cache else 0
    return Estimated(
        model=config.model,
        num_rows=num_rows,
        row_tokens=ASSUMED_ROW_TOKENS,
        memory_estimate=found,
        layer_cache=LayerCacheForecast(
            num_layers=frozen,
            why_none="" if has_cache else "All layers are trained, or the cache is switched off.",
            states_bytes=states_bytes(architecture, tokens),
            peak_bytes=found.total_bytes if has_cache else None,
            peak_without_bytes=whole.total_bytes,
        ),
        machine_memory_bytes=machine_bytes,
        total_parameters=architecture.num_weights(),
        trainable_parameters=num_adapter_parameters(
            architecture, lora.rank, config.num_layers, lora.keys
        ),
    )


def check_memory(
    architecture: Architecture | None, config: TrainConfig, machine_bytes: int
) -> None:
    """Refuse what this machine cannot hold, with a layer cache or without, before it is loaded.

    Raises:
        TrainingError: the weights and the adapter alone are larger than its memory.
    """
    if architecture is None or config.fine_tune_type == "full":
        return
    without = estimate(architecture, config, 1)
    has_cache = caches_layers(architecture, config)
    least = estimate(architecture, config, 1, has_cache=has_cache).fixed_bytes
    if least <= machine_bytes:
        return
    figures = gigabytes(without.fixed_bytes)
    if has_cache:
        figures = f"{gigabytes(least)} with a layer cache and {figures} without"
    raise TrainingError(
        f"{config.model} does not fit: its weights and the adapter take {figures}, and this "
        f"machine has {gigabytes(machine_bytes)}; use fewer --num-layers, or a base that is "
        "smaller or of 4 bits."
    )


def describe_estimate(estimated: Estimated) -> list[tuple[str, str]]:
    """Rows of (what, in words) for a table."""
    parts, machine = estimated.memory_estimate, estimated.machine_memory_bytes
    share = estimated.trainable_parameters / estimated.total_parameters
    memory = (
        f"{gigabytes(parts.total_bytes)} at the peak (weights {gigabytes(parts.weights_bytes)}, "
        f"adapter and optimizer {gigabytes(parts.adapter_bytes)}, the batch "
        f"{gigabytes(parts.activations_bytes + parts.logits_bytes)}), for rows of up to "
        f"{counted(estimated.row_tokens, 'token')}; this machine has {gigabytes(machine)}"
    )
    if parts.total_bytes > machine:
        memory += "; it does not fit"
    return [
        ("base", f"{estimated.model}: not on this machine, so nothing was measured"),
        ("trained", f"parameters: {estimated.trainable_parameters:,}, {share:.2%} of the base"),
        ("memory", f"{memory}; computed from the shapes of the model"),
        ("layer cache", _cache_in_words(estimated.layer_cache, "computed")),
    ]


def _cache_in_words(cache: LayerCacheForecast | None, how: str) -> str:
    if cache is None:
        return "unknown"
    if not cache.num_layers:
        return cache.why_none
    words = f"{counted(cache.num_layers, 'frozen layer')} run once"
    if cache.states_bytes:
        place = "in a file" if cache.is_file else "in memory"
        words += f" and keep {gigabytes(cache.states_bytes)} {place}"
    if cache.peak_bytes is not None and cache.peak_without_bytes is not None:
        words += (
            f"; the peak is {gigabytes(cache.peak_bytes)} with it ({how}) and "
            f"{gigabytes(cache.peak_without_bytes)} without (computed)"
        )
    return words


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
    ) + caching_seconds(prepared, measured)


def caching_seconds(prepared: "PreparedRun", measured: "MeasuredStep") -> float:
    """The one pass through the frozen layers, by how many weights work for each token."""
    cache, architecture = prepared.layer_cache, read_architecture(prepared.base.config)
    if cache is None or architecture is None:
        return 0.0
    block = architecture.num_block_weights()
    trained = block * prepared.config.num_layers + architecture.num_head_weights()
    share = block * cache.num_layers / trained * _FORWARD_SHARE
    return cache.num_tokens * share * measured.seconds / max(1, measured.tokens)


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


# Rate x scale of runs whose poems are known: 2e-5 hardly changed the base, 8e-5 to 2e-4 wrote in
# the poet's voice without copying, 4.8e-4 gave whole poems back word for word.
_WEAK, _USUAL, _COPYING = 5e-5, 3e-4, 4.5e-4
# They are of bases of billions. One of ten million learns nothing at such rates: the adapters that
# come with the embedded base were trained at 2e-3.
_SMALL_BASE = 100_000_000
_USUAL_FOR_SMALL = 3e-3
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
        ("rate x scale", _strength(config, forecast.total_parameters)),
        ("schedule", _schedule(forecast, config)),
        ("optimizer", _optimizer(config)),
        ("memory", _memory(forecast)),
        ("layer cache", _cache_in_words(forecast.layer_cache, "measured")),
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
    return f"{forecast.num_rows} for training, {forecast.num_valid_rows} for validation"


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
    words = (
        f"{forecast.total_steps} of up to {counted(config.batch_size, 'row')} = {epochs:.1f} epochs"
    )
    if forecast.total_updates != forecast.total_steps:
        words += f", {counted(forecast.total_updates, 'update')}"
    if forecast.start_step:
        words += f"; {counted(forecast.start_step, 'step')} {are(forecast.start_step)} done already"
    return words


def _trained(forecast: Forecast, config: TrainConfig) -> str:
    share = forecast.trainable_parameters / max(1, forecast.total_parameters)
    kind = (
        config.fine_tune_type
        if config.fine_tune_type == "full"
        else f"{config.fine_tune_type}, rank {config.lora_parameters.rank}"
    )
    return f"{forecast.trainable_parameters:,} parameters, {share:.2%} of the base ({kind})"


def _strength(config: TrainConfig, base_parameters: int) -> str:
    """Adam moves each factor by the rate, so the weights move by rate x scale a step."""
    rate = first_rate(config)
    if config.fine_tune_type == "full":
        return f"{rate:g}; no scale in a full fine-tune, where 1e-05 is usual"
    scale = config.lora_parameters.scale
    product = rate * scale
    words = f"{rate:g} x {scale:g} = {product:.2g}: "
    if config.optimizer not in ("adam", "adamw"):
        return f"{words}not comparable, the known runs used Adam"
    if config.method == "dpo":
        return words + _preference_strength(product)
    if base_parameters < _SMALL_BASE and product > _WEAK:
        return words + _strength_for_small(product)
    if product < _WEAK:
        return f"{words}weak; at 2e-05 the base hardly changed (usual: 8e-05 to 2e-04)"
    if product <= _USUAL:
        return f"{words}usual; 8e-05 to 2e-04 took on a voice without copying poems"
    if product < _COPYING:
        return f"{words}strong (usual: 8e-05 to 2e-04); watch the copy score"
    return f"{words}very strong; at 4.8e-04 whole training poems came back word for word"


def _strength_for_small(product: float) -> str:
    if product <= _USUAL_FOR_SMALL:
        return "usual for a base this small; the adapters of verse-tiny were trained at 2e-03"
    return "strong for a base this small (usual: 2e-03); watch the copy score"


def _preference_strength(product: float) -> str:
    if product <= _USUAL_FOR_PREFERENCES:
        return "usual for preferences"
    return "strong for preferences; 5e-06 to 1e-05 is usual, try --learning-rate 5e-06"


def _schedule(forecast: Forecast, config: TrainConfig) -> str:
    if config.lr_schedule is None:
        return "constant rate"
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
        smaller = [
            f"{flag}: {gigabytes(size)}"
            for flag, size in forecast.alternatives.items()
            if flag != WITHOUT_CACHE
        ]
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
