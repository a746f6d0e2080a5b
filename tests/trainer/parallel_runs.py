"""Runs that several ranks take together, and that one process takes alone, to compare them.

`python -m tests.trainer.parallel_runs FOLDER RUN...` is one rank: it takes these runs in turn.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tests.core.machines.meetings import free_ports
from tests.trainer.runs import load, quick, run
from verse.machines.launch import find_launch
from verse.machines.meeting import meet
from verse_trainer.config import LoraConfig, TrainConfig
from verse_trainer.data_parallel import DataParallel
from verse_trainer.events import Event, Stepped

STOPPED_AT = 21
"""Where a run is stopped that another number of ranks takes to its end."""

RUNS: Mapping[str, Mapping[str, Any]] = {
    "cached layers, a partial last batch": {"num_layers": 1},
    "accumulated": {"grad_accumulation_steps": 4, "optimizer": "adam"},
    "preferences": {"method": "dpo", "data": "pairs", "learning_rate": 1e-3},
    "stopped early": {"data": "contrary", "patience": 2, "save_every": 4},
    "stopped": {"grad_accumulation_steps": 4},
    "continued": {"grad_accumulation_steps": 4, "resume": True},
}


def config_of(folder: Path, name: str) -> TrainConfig:
    """Relative to the folder of all runs."""
    settings: dict[str, Any] = {
        "model": str(folder / "model"),
        "adapter_path": str(folder / name),
        "data": str(folder / "data"),
        "lora_parameters": LoraConfig(rank=4, dropout=0.0),
        "learning_rate": 5e-3,
        "batch_size": 3,
        "iters": 50,
        "save_every": 25,
        "patience": None,
        "test": True,
    }
    keys = dict(RUNS[name])
    if "data" in keys:
        keys |= {"data": str(folder / keys["data"]), "test": False}
    return TrainConfig(**{**settings, **keys})


def take(folder: Path, name: str, parallel: DataParallel | None = None) -> dict[str, Any]:
    """One run, to its end or to where it is stopped; what it came to."""
    config = config_of(folder, name)
    done = 0

    def hear(event: Event) -> None:
        nonlocal done
        if isinstance(event, Stepped):
            done = event.step

    prepared = run.prepare(config, load(folder / "model"), parallel)
    # Only one of them is asked to stop: all do.
    is_asked = name == "stopped" and (parallel is None or parallel.rank == parallel.size - 1)
    outcome = run.train(prepared, hear, lambda: is_asked and done == STOPPED_AT)
    return {
        "step": outcome.step,
        "reason": outcome.reason,
        "best_step": outcome.best_step,
        "best_valid_loss": outcome.best_valid_loss,
    }


def take_together(
    folder: Path, num_ranks: int, names: Sequence[str]
) -> list[dict[str, dict[str, Any]]]:
    """Runs of a folder by some ranks; what they came to on each of them."""
    port = free_ports(num_ranks + 1)
    hosts = folder / "ring.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port + rank}"] for rank in range(num_ranks)]))
    command = [sys.executable, "-m", "tests.trainer.parallel_runs", str(folder), *names]
    ranks = [
        subprocess.Popen(
            command,
            env={
                **os.environ,
                "MLX_RANK": str(rank),
                "MLX_HOSTFILE": str(hosts),
                "OPENBLAS_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(num_ranks)
    ]
    written = [rank.communicate(timeout=300)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * num_ranks
    return [json.loads(text) for text in written]


def main() -> None:
    """One rank."""
    folder = Path(sys.argv[1])
    with quick(), meet(find_launch(), {}) as ranks:
        parallel = DataParallel(ranks)
        outcomes = {name: take(folder, name, parallel) for name in sys.argv[2:]}
    sys.stdout.buffer.write(msgspec.json.encode(outcomes))


if __name__ == "__main__":
    main()
