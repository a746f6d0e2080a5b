"""What `verse train` does: resolve the configuration, have it trained, and show how it goes."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import msgspec

from verse.terminal import console, show
from verse_trainer.config import TrainConfig, find_config
from verse_trainer.config_checks import services
from verse_trainer.config_load import ResolvedConfig, read_config_file, resolve_config
from verse_trainer.errors import TrainerError
from verse_trainer.events import Evaluated, Failed, TrainMessage, TrainReport, TrainRequest
from verse_trainer.progress import ProgressView
from verse_trainer.supervise import MISTAKE, Seen, exit_status, supervise

Show = Callable[[TrainMessage], None]


def run_command(
    config_name: str | None, flags: Mapping[str, Any], *, as_json: bool, dry_run: bool
) -> int:
    """Run it to the end.

    Args:
        config_name: What `-c` was given: a path or a preset's name.
        flags: By their key in TrainConfig; None where one was not given.
        as_json: Print every message as a line of JSON, and nothing else, to standard output.
        dry_run: Stop after the forecast.

    Returns:
        The exit code: 0, 1 for a bug of ours, or 128 plus the signal that stopped it: 130 after
        Ctrl-C, 143 after SIGTERM, 129 when the terminal was closed.

    Raises:
        TrainerError: the user can put it right; exit code 2.
    """
    resolved = read_config(config_name, flags)
    for notice in resolved.notices:
        _print_error(notice)
    config, seen = resolved.config, Seen()
    report = None if dry_run else service_reporter(config)
    with _view(resolved, as_json) as show:

        def on_message(message: TrainMessage) -> None:
            seen.note(message)
            show(message)
            if report is not None:
                report(message)

        ending = supervise(TrainRequest(config=config, dry_run=dry_run), on_message)
    exit_code, sentence = exit_status(ending, seen)
    if exit_code == MISTAKE:
        raise TrainerError(sentence)
    if sentence is not None:
        _print_error(sentence)
    return exit_code


def read_config(config_name: str | None, flags: Mapping[str, Any]) -> ResolvedConfig:
    """Resolve what the file, if any, and the flags say.

    Raises:
        ConfigError: one of them cannot be understood.
    """
    if config_name is None:
        return resolve_config({}, flags)
    path = find_config(config_name)
    return resolve_config(read_config_file(path), flags, str(path))


def _view(resolved: ResolvedConfig, as_json: bool) -> AbstractContextManager[Show]:
    return nullcontext(_print_json) if as_json else ProgressView(resolved.config, console())


def _print_json(message: TrainMessage) -> None:
    if not isinstance(message, Failed):  # printed to standard error, as every mistake
        show(msgspec.json.encode(message).decode())


def _print_error(sentence: str) -> None:
    show(sentence, stderr=True)


def service_reporter(config: TrainConfig) -> Callable[[TrainMessage], None] | None:
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


def _report(callback: Any, message: TrainMessage) -> None:
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
