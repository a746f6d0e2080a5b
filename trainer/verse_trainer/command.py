"""What `verse train` does: settle the configuration, have it trained, and show how it goes."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import msgspec

from verse.terminal import console, show
from verse_trainer.config_file import read_config_file
from verse_trainer.ending import MISTAKE, Seen, verdict
from verse_trainer.errors import TrainerError
from verse_trainer.messages import Failed, Message, Order
from verse_trainer.presets import find_config
from verse_trainer.progress import ProgressView
from verse_trainer.reporting import service_reporter
from verse_trainer.settling import Settled, settle
from verse_trainer.supervision import supervise

Show = Callable[[Message], None]


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
    settled = read_config(config_name, flags)
    for notice in settled.notices:
        _tell(notice)
    config, seen = settled.config, Seen()
    report = None if dry_run else service_reporter(config)
    with _view(settled, as_json) as show:

        def on_message(message: Message) -> None:
            seen.note(message)
            show(message)
            if report is not None:
                report(message)

        ending = supervise(Order(config=config, dry_run=dry_run), on_message)
    exit_code, sentence = verdict(ending, seen)
    if exit_code == MISTAKE:
        raise TrainerError(sentence)
    if sentence is not None:
        _tell(sentence)
    return exit_code


def read_config(config_name: str | None, flags: Mapping[str, Any]) -> Settled:
    """Settle what the file, if any, and the flags say.

    Raises:
        ConfigError: one of them cannot be understood.
    """
    if config_name is None:
        return settle({}, flags)
    path = find_config(config_name)
    return settle(read_config_file(path), flags, str(path))


def _view(settled: Settled, as_json: bool) -> AbstractContextManager[Show]:
    return nullcontext(_print_json) if as_json else ProgressView(settled.config, console())


def _print_json(message: Message) -> None:
    if not isinstance(message, Failed):  # told on standard error, as every mistake
        show(msgspec.json.encode(message).decode())


def _tell(sentence: str) -> None:
    show(sentence, stderr=True)
