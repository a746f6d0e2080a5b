"""What `verse train` does: resolve the configuration, have it trained, and show how it goes."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import msgspec

from verse.machines.launch import find_launch
from verse.machines.launcher import DEFAULT_PORT
from verse.terminal import console, show
from verse_trainer.config import TrainConfig, find_config
from verse_trainer.config_checks import services
from verse_trainer.config_load import ResolvedConfig, read_config_file, resolve_config
from verse_trainer.errors import TrainerError
from verse_trainer.events import Evaluated, Failed, TrainMessage, TrainReport, TrainRequest
from verse_trainer.launching import supervise_launcher
from verse_trainer.progress import ProgressView
from verse_trainer.supervise import MISTAKE, Seen, exit_status, supervise

Show = Callable[[TrainMessage], None]


class OnMachines(msgspec.Struct, frozen=True):
    """Machines on which to start the ranks of a run."""

    hosts: str
    """The hostfile."""
    starting_port: int = DEFAULT_PORT


def run_command(
    config_name: str | None,
    flags: Mapping[str, Any],
    *,
    as_json: bool,
    dry_run: bool,
    machines: OnMachines | None = None,
) -> int:
    """Run it to the end.

    Args:
        config_name: What `-c` was given: a path or a preset's name.
        flags: By their key in TrainConfig; None where one was not given.
        as_json: Print every message as a line of JSON, and nothing else, to standard output.
        dry_run: Stop after the forecast.
        machines: Where to start its ranks; None to train in this process's own, which may be one
            rank of several that a launcher has started.

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
    launch = find_launch() if machines is None else None
    is_silent = launch is not None and launch.rank > 0
    report = None if dry_run or is_silent else service_reporter(config)
    request = TrainRequest(
        config=config, dry_run=dry_run, is_rank=launch is not None or machines is not None
    )
    with _view(resolved, as_json) if not is_silent else nullcontext(_show_nothing) as show:

        def on_message(message: TrainMessage) -> None:
            seen.note(message)
            show(message)
            if report is not None:
                report(message)

        if machines is None:
            ending = supervise(request, on_message)
        else:
            file, port = Path(machines.hosts), machines.starting_port
            ending = supervise_launcher(request, on_message, file, port)
    if is_silent and seen.failure is None and ending.exit_code == MISTAKE:
        return MISTAKE  # rank 0 has told why
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


def _show_nothing(_message: TrainMessage) -> None: ...


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
