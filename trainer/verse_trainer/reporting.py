"""`report_to`: send a run's figures to wandb or swanlab, through mlx-lm's own callbacks."""

from collections.abc import Callable
from typing import Any

import msgspec

from verse_trainer.config import TrainConfig
from verse_trainer.config_checks import services
from verse_trainer.events import Evaluated, TrainReport
from verse_trainer.messages import Message


def service_reporter(config: TrainConfig) -> Callable[[Message], None] | None:
    """A listener that reports, or None if nothing is to be reported.

    The names of the figures are mlx_lm.lora's, so that runs of both can be compared.
    """
    if not services(config):
        return None
    from mlx_lm.tuner.callbacks import get_reporting_callbacks

    callback: Any = get_reporting_callbacks(
        config.report_to,
        project_name=config.project_name,
        log_dir=config.adapter_path,
        config=msgspec.to_builtins(config),
    )
    return lambda message: _report(callback, message)


def _report(callback: Any, message: Message) -> None:
    if isinstance(message, TrainReport):
        callback.on_train_loss_report(
            {
                "iteration": message.step,
                "train_loss": message.train_loss,
                "learning_rate": message.learning_rate,
                "iterations_per_second": message.iterations_per_second,
                "tokens_per_second": message.tokens_per_second,
                "trained_tokens": message.trained_tokens,
                "peak_memory": message.peak_memory_bytes / 1e9,
            }
        )
    elif isinstance(message, Evaluated):
        callback.on_val_loss_report(
            {
                "iteration": message.step,
                "val_loss": message.valid_loss,
                "val_time": message.seconds,
            }
        )
