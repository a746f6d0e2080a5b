"""mlx's optimizers and schedules, as the configuration names them."""

from types import MappingProxyType
from typing import Any, cast

import mlx.optimizers as optim
import msgspec
from mlx_lm.tuner import utils as mlx_lm_tuner

from verse_trainer import schedule
from verse_trainer.config import TrainConfig
from verse_trainer.errors import ConfigError

_CLASSES: MappingProxyType[str, Any] = MappingProxyType(
    {
        "adam": optim.Adam,
        "adamw": optim.AdamW,
        "muon": optim.Muon,
        "sgd": optim.SGD,
        "adafactor": optim.Adafactor,
    }
)
# mlx leaves it out by default; the first update is then 3.2 times as long as elsewhere.
_DEFAULTS: MappingProxyType[str, dict[str, Any]] = MappingProxyType(
    {"adam": {"bias_correction": True}, "adamw": {"bias_correction": True}}
)


def make_optimizer(config: TrainConfig, num_updates: int) -> optim.Optimizer:
    """The optimizer of a run that makes `num_updates` updates; schedules count updates.

    Raises:
        ConfigError: an argument of the optimizer or the schedule means nothing to it.
    """
    name = config.optimizer
    arguments = {**_DEFAULTS.get(name, {}), **config.optimizer_config.get(name, {})}
    try:
        return _CLASSES[name](learning_rate=_learning_rate(config, num_updates), **arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer_config.{name} cannot be used: {error}.") from error


def _learning_rate(config: TrainConfig, num_updates: int) -> Any:
    if config.lr_schedule is None:
        return config.learning_rate
    complete = schedule.complete(config.lr_schedule, config.learning_rate, num_updates)
    try:
        return cast(Any, mlx_lm_tuner).build_schedule(msgspec.to_builtins(complete))
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise ConfigError(f"lr_schedule cannot be used: {error}.") from error
