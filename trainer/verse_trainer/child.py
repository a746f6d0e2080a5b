"""The process that trains: `python -m verse_trainer.child`, started by `supervise.py`.

It is a process of its own because a Metal out-of-memory aborts it and gradient checkpointing
patches a class for good. It reads one TrainRequest from its input and writes messages to its
output. The end of its input, which also comes when the other process dies, asks it to save and
stop, as does SIGTERM. Before the first step there is nothing to save, so it stops at once.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from verse import UserError
from verse_trainer.events import (
    Estimated,
    Event,
    Failed,
    Finished,
    Forecast,
    Loading,
    Started,
    TrainMessage,
    TrainRequest,
)
from verse_trainer.model_shapes import is_here, known_shape, shape_of
from verse_trainer.preflight import check_memory, estimate_by_shape, forecast

if TYPE_CHECKING:
    from verse.base_model import BaseModel
    from verse_trainer.run import PreparedRun

Send = Callable[[TrainMessage], None]
_MISTAKE = 2
_LOADING_STEP = 0.05


class StopRequest:
    """Whether someone asked to stop; until training begins, asking ends the process."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._can_save = False

    def __call__(self) -> bool:
        """Whether to stop after this step."""
        return self._asked.is_set()

    def ask(self) -> None:
        """Called from a signal handler, from the thread that reads the input, or by `send`."""
        self._asked.set()
        if not self._can_save:
            os._exit(0)

    def training_begins(self) -> None:
        """From now on a stop is obeyed after the current step."""
        self._can_save = True


def main() -> int:
    """Run one request."""
    channel = _own_output()
    stop = StopRequest()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the other's business
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.ask())
    request = msgspec.json.decode(sys.stdin.buffer.readline(), type=TrainRequest)
    threading.Thread(target=_ask_at_end_of_input, args=(stop,), daemon=True).start()

    def send(message: TrainMessage) -> None:
        try:
            channel.write(msgspec.json.encode(message) + b"\n")
            channel.flush()
        except BrokenPipeError:
            stop.ask()

    try:
        _run(request, send, stop)
    except UserError as error:
        send(Failed(sentence=str(error)))
        return _MISTAKE
    except OSError as error:
        if error.filename is None:
            raise
        send(Failed(sentence=f"{error.filename}: {error.strerror}."))
        return _MISTAKE
    return 0


def _own_output() -> BinaryIO:
    """Keep the output for messages: what libraries print goes to standard error."""
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return channel


def _ask_at_end_of_input(stop: StopRequest) -> None:
    # Not through sys.stdin: a thread that holds its lock at exit is fatal to the interpreter.
    while os.read(0, 1 << 10):
        pass
    stop.ask()


def _run(request: TrainRequest, send: Send, stop: StopRequest) -> None:
    from verse_trainer import evaluation, run

    if request.dry_run and (estimated := _estimate_without_weights(request)) is not None:
        send(estimated)
        return
    run.check(request.config)
    if request.config.train and not request.dry_run:
        check_memory(shape_of(request.config.model), request.config, _machine_memory())
    base = _load(request, send)
    if not request.config.train:
        if not request.dry_run:
            evaluation.measure_test_set(request.config, base, send)
        return
    prepared = run.prepare(request.config, base)
    send(_forecast(prepared))
    if request.dry_run:
        return

    def pass_on(event: Event) -> None:
        if isinstance(event, Started):  # what comes before it begins anew at no loss
            stop.training_begins()
        send(event)

    outcome = run.train(prepared, pass_on, stop)
    send(
        Finished(
            step=outcome.step,
            reason=outcome.reason,
            best_step=outcome.best_step,
            best_valid_loss=outcome.best_valid_loss,
            base_valid_loss=outcome.base_valid_loss,
            adapter_path=str(outcome.adapter_path),
        )
    )


def _estimate_without_weights(request: TrainRequest) -> Estimated | None:
    """What a dry run says of a base whose shapes are known and whose weights are not here."""
    config = request.config
    architecture = known_shape(config.model)
    if architecture is None or is_here(config.model):
        return None
    rows = Path(config.data).expanduser() / "train.jsonl"
    num_rows = len(rows.read_bytes().splitlines()) if rows.is_file() else 0
    return estimate_by_shape(architecture, config, num_rows, _machine_memory())


def _load(request: TrainRequest, send: Send) -> "BaseModel":
    from verse.base_model import load_base_model
    from verse_trainer import run
    from verse_trainer.frozen_layers import load_for_training

    shown = -1.0

    def show(share: float) -> None:
        nonlocal shown
        if share - shown >= _LOADING_STEP or share == 1.0:
            shown = share
            send(Loading(share=share))

    config = request.config
    if config.train:
        return load_for_training(config, show, is_whole=run.began_unpacked(config))
    return load_base_model(config.model, show, trust_remote_code=config.trust_remote_code)


def _forecast(prepared: "PreparedRun") -> Forecast:
    return forecast(prepared, prepared.one_step(), _machine_memory())


def _machine_memory() -> int:
    """Bytes that may be used: what a GPU's driver recommends, or all there are."""
    import mlx.core as mx

    recommended = mx.device_info().get("max_recommended_working_set_size", 0)
    return int(recommended) or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    sys.exit(main())
