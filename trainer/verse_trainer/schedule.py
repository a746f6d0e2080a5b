"""Learning-rate schedules of mlx.optimizers, as far as they can be judged without mlx.

mlx-lm wants every argument written down, so that a decay fits one data set only. Here what the run
knows itself may be left out: the rate it starts from, and over how many updates it falls.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from types import MappingProxyType

import msgspec

from verse_trainer.config import ScheduleConfig
from verse_trainer.errors import ConfigError

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


def check(schedule: ScheduleConfig) -> None:
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


def complete(schedule: ScheduleConfig, learning_rate: float, num_updates: int) -> ScheduleConfig:
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
