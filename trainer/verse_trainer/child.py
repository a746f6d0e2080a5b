"""The process that trains: `python -m verse_trainer.child`, started by `supervise.py`.

It is a process of its own because a Metal out-of-memory aborts it and gradient checkpointing
patches a class for good. It reads one TrainRequest from its input and writes messages to its
output. What comes after it, or the end of its input, which also comes when the other process dies,
asks it to save and stop, as does SIGTERM. Before the first step there is nothing to save, so it
stops at once.

As one rank of several it trains with the others, and only rank 0 reports; one that `mlx.launch`
itself has started finds its request in the environment, since all of them share one input.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import msgspec

from verse import UserError, openblas
from verse.machines import LostRankError, MachinesError, TurnedAwayError
from verse.machines.launch import find_launch
from verse.machines.meeting import meet, versions
from verse.machines.ranks import Ranks
from verse_trainer.config import TrainConfig
from verse_trainer.config_load import resolve_config
from verse_trainer.errors import ConfigError, DataSetError
from verse_trainer.events import (
    Checked,
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
from verse_trainer.memory import (
    MemoryEstimate,
    caches_layers,
    estimate,
    read_architecture,
)
from verse_trainer.model_shapes import is_here, known_shape, shape_of
from verse_trainer.preflight import check_memory, estimate_by_shape, forecast

if TYPE_CHECKING:
    from verse.base_model import BaseModel
    from verse_trainer.data_parallel import DataParallel
    from verse_trainer.run import PreparedRun

REQUEST_VARIABLE = "VERSE_TRAIN_REQUEST"


def _ranks_here() -> int:
    """How many ranks share this machine's cores."""
    try:
        launch = find_launch()
    except MachinesError:  # told later, if anybody needs to know
        return 1
    return 1 if launch is None else launch.num_here


openblas.preload(num_sharers=_ranks_here())  # whichever module imports mlx first

Send = Callable[[TrainMessage], None]
_MISTAKE = 2
_LOADING_STEP = 0.05


class StopRequest:
    """Whether someone asked to stop; until training begins, asking ends the process."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._can_save = False
        self.ranks = Ranks.alone()
        """Those that must know when this process ends at once."""

    def __call__(self) -> bool:
        """Whether to stop after this step."""
        return self._asked.is_set()

    def ask(self) -> None:
        """Called from a signal handler, from the thread that reads the input, or by `send`."""
        self._asked.set()
        if not self._can_save:
            self.ranks.quit()
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
    given = os.environ.pop(REQUEST_VARIABLE, None)
    line = sys.stdin.buffer.readline() if given is None else given.encode()
    request = msgspec.json.decode(line, type=TrainRequest)
    threading.Thread(target=_ask_at_next_input, args=(stop,), daemon=True).start()

    def send(message: TrainMessage) -> None:
        try:
            channel.write(_encoded(message, is_plain=given is not None) + b"\n")
            channel.flush()
        except BrokenPipeError:
            stop.ask()

    try:
        if request.check:
            send(check_only(_settled(request).config))
        elif request.is_rank:
            return _run_as_rank(_settled(request), send, stop)
        else:
            _run(_settled(request), send, stop, Ranks.alone())
    except (UserError, OSError) as error:
        send(_failed(error))
        return _MISTAKE
    return 0


def _encoded(message: TrainMessage, *, is_plain: bool) -> bytes:
    """Plain: in ASCII, since mlx.launch cuts what it passes on, through characters as well."""
    if is_plain:
        return json.dumps(msgspec.to_builtins(message)).encode()
    return msgspec.json.encode(message)


def _failed(error: UserError | OSError) -> Failed:
    """What to say of a mistake.

    Raises:
        OSError: it is none of the user's.
    """
    if isinstance(error, UserError):
        return Failed(sentence=str(error), about=_culprit(error))
    if error.filename is None:
        raise error
    return Failed(sentence=f"{error.filename}: {error.strerror}.")


def _run_as_rank(request: TrainRequest, send: Send, stop: StopRequest) -> int:
    """Do one rank's part: only the first reports, and what is wrong with another it tells."""
    ranks = Ranks.alone()
    try:
        with meet(
            find_launch(), versions(), on_failure=lambda s: send(Failed(sentence=s))
        ) as ranks:
            stop.ranks = ranks
            _agree_on_settings(ranks, request)
            _run(request, send if ranks.is_first else _send_nothing, stop, ranks)
    except (UserError, OSError) as error:
        if not (ranks.told or isinstance(error, TurnedAwayError | LostRankError)):
            send(_failed(error))
        return _MISTAKE
    return 0


def _send_nothing(_message: TrainMessage) -> None: ...


_OF_ONE_MACHINE = (
    *("model", "data", "adapter_path", "resume_adapter_file", "layer_cache_folder"),
    *("report_to", "project_name"),
)


def _agree_on_settings(ranks: Ranks, request: TrainRequest) -> None:
    """All ranks plan the same run; where its files lie is each machine's own business."""
    for key, value in msgspec.to_builtins(request.config).items():
        if key not in _OF_ONE_MACHINE:
            ranks.agree(
                str(value),
                f"{{rank}} has {key} {{theirs}}, rank 0 has {{ours}}: start all with the same "
                "settings.",
            )


def _settled(request: TrainRequest) -> TrainRequest:
    if request.keys is None:
        return request
    return msgspec.structs.replace(request, config=resolve_config(request.keys, {}).config)


def check_only(config: TrainConfig) -> Checked:
    """Read and encode every row, and estimate the memory, from files and a tokenizer alone.

    Raises:
        UserError: the run could not begin.
    """
    from verse.base_model import load_base_tokenizer
    from verse_trainer import material, run

    run.check(config)
    base = load_base_tokenizer(config.model)
    found = material.read_material(config, base)
    parts = found.rows if found.pairs is None else found.pairs
    longest = max(row.num_tokens for row in found.rows["train"])
    return Checked(
        num_rows=len(parts["train"]),
        num_valid_rows=len(parts.get("valid", ())),
        longest_row_tokens=longest,
        memory_estimate=_estimate(base.config, config, longest),
        notes=found.doubts,
    )


def _estimate(
    base_config: dict[str, Any], config: TrainConfig, row_tokens: int
) -> MemoryEstimate | None:
    from verse.base_model import runs_on_cpu

    architecture = read_architecture(base_config)
    if architecture is None or config.fine_tune_type == "full":
        return None
    bytes_per_weight = 4.0 if runs_on_cpu() else None
    return estimate(
        architecture,
        config,
        row_tokens,
        bytes_per_weight=bytes_per_weight,
        has_cache=caches_layers(architecture, config),
    )


def _culprit(error: UserError) -> Literal["data", "config", "run"]:
    if isinstance(error, DataSetError):
        return "data"
    return "config" if isinstance(error, ConfigError) else "run"


def _own_output() -> BinaryIO:
    """Keep the output for messages: what libraries print goes to standard error."""
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return channel


def _ask_at_next_input(stop: StopRequest) -> None:
    # Not through sys.stdin: a thread that holds its lock at exit is fatal to the interpreter.
    os.read(0, 1 << 10)
    stop.ask()


def _run(request: TrainRequest, send: Send, stop: StopRequest, ranks: Ranks) -> None:
    from verse_trainer import evaluation, run
    from verse_trainer.data_parallel import DataParallel

    if request.dry_run and (estimated := _estimate_without_weights(request)) is not None:
        send(estimated)
        return
    run.check(request.config, is_first=ranks.is_first)
    if request.config.train and not request.dry_run:
        check_memory(shape_of(request.config.model), request.config, _machine_memory())
    if not request.config.train:  # one rank measures; the others have nothing to do
        if not request.dry_run and ranks.is_first:
            evaluation.measure_test_set(request.config, _load(request, send, None), send)
        return
    parallel = DataParallel(ranks)
    prepared = run.prepare(request.config, _load(request, send, parallel), parallel)
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


def _load(request: TrainRequest, send: Send, parallel: "DataParallel | None") -> "BaseModel":
    """The base; `parallel`: of those that train with it, if it is to be trained."""
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
    if parallel is not None:
        is_whole = run.began_unpacked(config, parallel)
        return load_for_training(config, show, is_whole=is_whole)
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
